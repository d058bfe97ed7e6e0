"""Convolutions over video, resampling, and the normalisations around them.

A 1x3x3 convolution folds frames into the batch; a 3x1x1 convolution is a dense layer over each
frame beside its neighbours, which is the same sum and runs faster than a 3-D convolution on
a CPU (Imagen Video, video diffusion architectures).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vidgen.nn import axes, initializers
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
    return nn.GroupNorm(
        # At least two channels a group: with one, an image loses its own mean and scale.
        num_groups=largest_divisor(channels, max(1, min(32, channels // 2))),
        scale_init=scale,
        bias_init=axes.partitioned(initializers.zeros, ("norm",)),
        dtype=dtype,
        reduction_axes=(-3, -2, -1),
        name=name,
    )


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
    return jax.nn.silu(x)
