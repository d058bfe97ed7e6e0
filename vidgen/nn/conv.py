"""Convolutions over video, resampling, and the normalisations around them.

A 1x3x3 convolution folds frames into the batch; a 3x1x1 convolution is a dense layer over each
frame beside its neighbours, which is the same sum and runs faster than a 3-D convolution on
a CPU (Imagen Video, video diffusion architectures).
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vidgen.nn import axes, initializers, platforms
from vidgen.nn.convolution import conv_general_dilated

NORMS = ("group", "channel")


def spatial_conv(
    features: int,
    names: tuple[str, str] = ("conv_in", "conv_out"),
    *,
    name: str,
    stride: int = 1,
    scale: float = 1.0,
    dtype: DTypeLike = "float32",
) -> nn.Conv:
    """Build a (1, 3, 3) convolution over "b t h w c" with stride (1, s, s) and zero padding.

    Args:
      features: output channels.
      names: logical names of the (input, output) channel axes.
      name: name of the module.
      stride: s.
      scale: variance scale of the initialiser; 0 starts at zero.
      dtype: dtype of computation and result; parameters are float32.

    Returns:
      The layer; height and width come out as ⌈h/s⌉ and ⌈w/s⌉.
    """
    return nn.Conv(
        features,
        (3, 3),
        (stride, stride),
        dtype=dtype,
        kernel_init=axes.partitioned(initializers.fan_in(scale), (None, "kernel", *names)),
        bias_init=axes.partitioned(initializers.zeros, names[1:]),
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


class TemporalConv(nn.Module):
    """A (3, 1, 1) convolution: each frame mixed with the one before and the one after.

    Clip borders see zeros. The initialiser is zero by default, so that a residual branch built
    on it starts as the identity and an image model can be extended to video.
    """

    features: int
    scale: float = 0.0
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c2"]:
        """Mix neighbouring frames.

        Args:
          x: features; in front of and behind the clip there are zeros.

        Returns:
          Features of as many frames.
        """
        pad = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        neighbours = jnp.concatenate([pad[:, :-2], x, pad[:, 2:]], axis=-1)
        names = ("conv_in", "conv_out")
        dense = axes.dense(self.features, names, name="taps", scale=self.scale, dtype=self.dtype)
        return dense(neighbours)


def norm(kind: str, channels: int, *, name: str, dtype: DTypeLike = "float32") -> nn.Module:
    """Build a normalisation with float32 statistics, never across frames.

    Args:
      kind: "group" is GroupNorm over the pixels of one frame, in at most 32 groups of channels.
        "channel" divides each pixel by the RMS of its own channels: no statistic crosses space, so
        a network built on it gives the same pixels on a crop as on the full frame.
      channels: number of channels of its input.
      name: name of the module.
      dtype: dtype of the result.

    Returns:
      The layer.

    Raises:
      ValueError: there is no such kind.
    """
    scale = axes.partitioned(initializers.ones, ("norm",))
    if kind == "channel":
        return nn.RMSNorm(scale_init=scale, dtype=dtype, name=name)
    if kind != "group":
        raise ValueError(f"unknown norm {kind!r}; choose one of {', '.join(NORMS)}.")
    # At least two channels a group: with one, an image loses its own mean and scale.
    groups = largest_divisor(channels, max(1, min(32, channels // 2)))
    if platforms.current() == "cpu":
        return GroupNorm(groups, dtype=dtype, name=name)
    bias = axes.partitioned(initializers.zeros, ("norm",))
    across = (-3, -2, -1)
    return nn.GroupNorm(
        groups, scale_init=scale, bias_init=bias, dtype=dtype, reduction_axes=across, name=name
    )


class GroupNorm(nn.Module):
    """Linen's GroupNorm over the pixels of one frame, in the form that a CPU runs well.

    Attributes:
      groups: number of groups; the number of channels is a multiple.
      epsilon: added to the variance.
      dtype: dtype of the result; statistics are float32.
    """

    groups: int
    epsilon: float = 1e-6
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Normalise features.

        Args:
          x: features; h and w are the pixels of a frame.

        Returns:
          Features of mean 0 and variance 1 in each group, then times `scale` plus `bias`.
        """
        shape = x.shape[-1:]
        ones = axes.partitioned(initializers.ones, ("norm",))
        zeros = axes.partitioned(initializers.zeros, ("norm",))
        scale = jnp.asarray(self.param("scale", ones, shape, jnp.float32))
        bias = jnp.asarray(self.param("bias", zeros, shape, jnp.float32))
        y = group_norm(self.groups, self.epsilon, x.astype(jnp.float32), scale, bias)
        return jnp.asarray(y, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def group_norm(
    groups: int,
    epsilon: float,
    x: Float[Array, "*b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
) -> Float[Array, "*b h w c"]:
    """Compute (x - mean) / std of each group of channels of a frame, times scale, plus bias.

    All that it and its gradient, which is written by hand, read of the pixels are sums for each
    channel. XLA:CPU takes these from a library, as it takes the products by which channels get the
    mean of their group: fewer kernels are left to compile than of Linen's. Forward mode (`jax.jvp`)
    is not defined for it.

    Args:
      groups: number of groups of neighbouring channels.
      epsilon: added to the variance.
      x: features; h and w are the pixels of a frame.
      scale: factor of each channel.
      bias: added to each channel.

    Returns:
      Normalised features.
    """
    return _group_norm(groups, epsilon, x, scale, bias)[0]


def _group_norm(
    groups: int, epsilon: float, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, ...]]:
    pixels = x.shape[-3] * x.shape[-2]
    mean = _group_mean(groups, pixels, jnp.sum(x, axis=(-3, -2)))
    square = _group_mean(groups, pixels, jnp.sum(x * x, axis=(-3, -2)))
    inverse = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + epsilon)  # 1 / std
    y = (x - _of_pixels(mean)) * _of_pixels(inverse) * scale + bias
    return y, (x, scale, mean, inverse)


def _group_norm_gradient(
    groups: int, epsilon: float, residuals: tuple[Array, ...], dy: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of x, scale and bias.

    With z = (x - mean) / std and dz = dy · scale it is dx = (dz - ⟨dz⟩ - z ⟨z · dz⟩) / std, where
    ⟨⟩ is the mean of a group.
    """
    x, scale, mean, inverse = residuals
    pixels = x.shape[-3] * x.shape[-2]
    sums = jnp.sum(dy, axis=(-3, -2))
    products = (jnp.sum(dy * x, axis=(-3, -2)) - mean * sums) * inverse  # of dy and z
    first = _group_mean(groups, pixels, scale * sums)
    second = _group_mean(groups, pixels, scale * products)
    z = (x - _of_pixels(mean)) * _of_pixels(inverse)
    dx = (dy * scale - _of_pixels(first) - z * _of_pixels(second)) * _of_pixels(inverse)
    leading = tuple(range(sums.ndim - 1))
    return dx, jnp.sum(products, axis=leading), jnp.sum(sums, axis=leading)


group_norm.defvjp(_group_norm, _group_norm_gradient)


def _group_mean(groups: int, pixels: int, sums: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Give each channel the mean of its group: sums over pixels, times a matrix of 0 and 1/n."""
    matrix = _group_matrix(groups, sums.shape[-1] // groups, pixels)
    return jnp.matmul(sums, matrix, precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=8)  # one for each width of a network; a program holds it once
def _group_matrix(groups: int, size: int, pixels: int) -> np.ndarray:
    """Return 1/n where two channels are of one group, and 0 elsewhere."""
    matrix = np.zeros((groups, size, groups, size), np.float32)
    matrix[np.arange(groups), :, np.arange(groups)] = 1 / (size * pixels)
    matrix.flags.writeable = False
    return matrix.reshape(groups * size, groups * size)


def _of_pixels(x: Float[Array, "*b c"]) -> Float[Array, "*b 1 1 c"]:
    return x[..., None, None, :]


def largest_divisor(n: int, limit: int) -> int:
    """Find the largest divisor of n that is at most `limit`.

    Args:
      n: >= 1.
      limit: >= 1.

    Returns:
      The divisor, at least 1.
    """
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)


def mask_independent(
    branch: Float[Array, "b t *x"], independent_frames: Bool[Array, "b"]
) -> Float[Array, "b t *x"]:
    """Zero a branch for examples whose frames are unrelated images.

    Args:
      branch: what is added to the residual stream.
      independent_frames: True of these examples.

    Returns:
      The branch, 0 there.
    """
    keep = ~independent_frames.reshape(-1, *(1,) * (branch.ndim - 1))
    return branch * keep.astype(branch.dtype)


def upsample_nearest(x: Float[Array, "b t h w c"], factor: int) -> Float[Array, "b t H W c"]:
    """Repeat every pixel along h and w.

    Args:
      x: features.
      factor: times that each row and each column comes.

    Returns:
      Features of `factor` times the height and width.
    """
    b, t, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, factor, w, factor, c))
    return x.reshape(b, t, h * factor, w * factor, c)


def space_to_depth(x: Float[Array, "b t h w c"], patch: int) -> Float[Array, "b t h2 w2 c2"]:
    """Fold every square of pixels into channels.

    Args:
      x: pixels; height and width are multiples of `patch`.
      patch: p, the side of a square.

    Returns:
      (h/p, w/p, p·p·c), the rows of a square first.
    """
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // patch, w // patch, -1)


def depth_to_space(x: Float[Array, "b t h w c"], patch: int) -> Float[Array, "b t h2 w2 c2"]:
    """Unfold channels into squares of pixels: the inverse of `space_to_depth`.

    Args:
      x: features, of a multiple of p·p channels.
      patch: p, the side of a square.

    Returns:
      (h·p, w·p, c/(p·p)).
    """
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h, w, patch, patch, c // patch**2)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h * patch, w * patch, -1)


def swish(x: Array) -> Array:
    """Apply x · sigmoid(x), elementwise.

    Args:
      x: any array.

    Returns:
      An array of the same shape, >= -0.279.
    """
    return x * jax.lax.logistic(x)
