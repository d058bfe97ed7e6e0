"""The discriminator of the tokenizer's training, and the losses of its game (Phenaki 2.1, B.1).

    pixels ─ 1x1 ─ [ 3x3 ─ blur, half size ─ 3x3 ] + skip, over √2 ... ─ 3x3 ─ dense ─ dense ─ logit
                   until a frame is 4x4; channels double from `width` to `max_width`

It is of the StyleGAN type. All activations are leaky rectifiers; there are no normalisations and no
statistics of the batch, so that a logit depends on its own example alone, as R1 needs. Whether it
sees frames or clips is not published. [guess] Frames ("2d") by default: that is cheaper, and I3D
features judge motion. "3d" has 3x3x3 convolutions and halves time too, as MAGVIT's does.

With logits D of real clips x and of reconstructions x̂, real where they are large:

    generator       softplus(-D(x̂))                                  non-saturating
    discriminator   softplus(-D(x)) + softplus(D(x̂))
    R1              |∇ₓ D(x)|² / 2                                    on real clips only
    LeCam           relu(D(x) - ā_fake)² + relu(ā_real - D(x̂))²       (MAGVIT, MAGVIT-v2)

ā are moving averages of the logits, a ← ρ a + (1 - ρ) mean D: gradient descent at the rate 1 - ρ
on (a - mean D)²/2, so they are trained as parameters and live with them. Phenaki names neither loss
nor penalty; these are what the same group's MaskGIT and MAGVIT use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float

from vidgen import checks
from vidgen.nn import axes, initializers
from vidgen.nn.convolution import conv_general_dilated
from vidgen.nn.transformer import DTYPES

Anchors = Mapping[str, Float[Array, ""]]  # "real" and "fake", the moving averages

DIMS = ("2d", "3d")
_SMALLEST = 4  # pixels
_OUTER, _INNER = 1 / 8, 3 / 8  # weights of the blur: (1, 3, 3, 1) / 8


class Discriminator(nn.Module):
    """Logits, large for real video: one a frame ("2d") or one a clip ("3d").

    The first dense layer sees every pixel of the last 4x4, so parameters fit one height and width,
    but any number of frames: time is averaged there.

    Attributes:
      dims: whether a logit sees a frame ("2d") or a clip ("3d").
      width: channels at full resolution. StyleGAN with channel multiplier 1, as Phenaki has it,
        is 128 at 128 pixels and 64 at 256.
      max_width: the most channels.
      frames_per_clip: number of frames of a clip that a training step of "2d" judges, drawn anew
        for each clip and step; None is all of them, which is how we read Phenaki. The expected loss
        is the same. With one frame a clip, as phenaki-pytorch has, a step of 2 clips of
        17 x 32 x 32 takes 0.34 s on a CPU instead of 2.21.
      dtype: dtype of the computation; parameters and logits are float32.
    """

    dims: str = "2d"
    width: int = 128
    max_width: int = 512
    frames_per_clip: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of(self, dims=DIMS, dtype=DTYPES)
        if not 1 <= self.width <= self.max_width:
            raise ValueError(
                f"Discriminator.width is {self.width}; it must be from 1 to max_width, "
                f"{self.max_width}."
            )
        if self.frames_per_clip is not None and (self.dims != "2d" or self.frames_per_clip < 1):
            raise ValueError(
                f"Discriminator.frames_per_clip is {self.frames_per_clip} with dims={self.dims!r}; "
                'it must be None (all frames), or at least 1 with dims="2d".'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b n"]:
        """Judge how real clips look.

        Args:
          video: clips in [-1, 1].

        Returns:
          Logits, large for real video: n is the number of frames ("2d") or 1 ("3d").
        """
        b, t, *_ = video.shape
        x = video.astype(self.dtype)
        if self.dims == "2d":
            x = x.reshape(b * t, 1, *x.shape[2:])
        x = _act(self._dense(x, self.width, ("pixels", "conv_out"), "pixels"))
        channels, level = self.width, 0
        while min(x.shape[2:4]) > _SMALLEST:
            channels = min(2 * channels, self.max_width)
            x = axes.constrain_video(self._block(x, channels, f"level{level}"))
            level += 1
        x = _act(self._conv(x, channels, "last"))
        # Each time step by itself, then their mean.
        x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        x = _act(self._dense(x, channels, ("conv_in", "conv_out"), "hidden"))
        x = jnp.mean(x.astype(jnp.float32), axis=1)
        logits = axes.dense(1, ("conv_in", "pixels"), name="logit")(x)
        return logits.reshape(b, t if self.dims == "2d" else 1)

    def _block(self, x: Array, channels: int, name: str) -> Array:
        """Apply a residual block whose result has half the size."""
        over = (2, 3) if self.dims == "2d" else (1, 2, 3)
        y = _act(self._conv(x, x.shape[-1], f"{name}_conv1"))
        y = _act(self._conv(half(y, over), channels, f"{name}_conv2"))
        names = ("conv_in", "conv_out")
        skip = self._dense(half(x, over), channels, names, f"{name}_skip", scale=1.0)
        return (y + skip) * math.sqrt(0.5)

    def _conv(self, x: Array, channels: int, name: str) -> Array:
        taps = (1, 3, 3) if self.dims == "2d" else (3, 3, 3)
        names = (None, None, "kernel", "conv_in", "conv_out")
        if self.dims == "2d":  # a plain convolution of images, which all platforms have fast
            x, taps, names = x[:, 0], taps[1:], names[1:]
        x = nn.Conv(
            channels,
            taps,
            dtype=self.dtype,
            # Variance 2 / fan-in: a rectifier halves it.
            kernel_init=axes.partitioned(initializers.fan_in(2.0), names),
            bias_init=axes.partitioned(initializers.zeros, names[-1:]),
            conv_general_dilated=conv_general_dilated,
            name=name,
        )(x)
        return x[:, None] if self.dims == "2d" else x

    def _dense(
        self, x: Array, features: int, names: tuple[str, str], name: str, *, scale: float = 2.0
    ) -> Array:
        return axes.dense(features, names, name=name, scale=scale, dtype=self.dtype)(x)


def _act(x: Array) -> Array:
    return nn.leaky_relu(x, 0.2)


def half(x: Array, over: tuple[int, ...]) -> Array:
    """Blur with (1, 3, 3, 1) / 8 and keep every second value, along the named axes.

    An odd length is rounded up; a length of 1 stays. The border repeats the last value, so that a
    constant stays what it is.

    Args:
      x: features.
      over: the axes to halve.

    Returns:
      Features of half the length along these axes.
    """
    for axis in over:
        n = x.shape[axis]
        if n == 1:
            continue
        if n % 2:
            x = jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)], "edge")
        # Pairs of neighbors instead of slices with stride 2, whose gradient XLA puts together
        # slowly: 34 x 32 x 32 x 64 and two axes take 2 ms backwards on a CPU instead of 78.
        pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
        first, second = (jax.lax.index_in_dim(pairs, i, axis + 1, False) for i in (0, 1))
        before = jnp.concatenate([_part(first, axis, 0, 1), _part(second, axis, 0, -1)], axis)
        after = jnp.concatenate([_part(first, axis, 1, None), _part(second, axis, -1, None)], axis)
        x = _OUTER * (before + after) + _INNER * (first + second)
    return x


def _part(x: Array, axis: int, start: int, stop: int | None) -> Array:
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


# ---- the losses of the game ----------------------------------------------------------------------


def generator_loss(fake: Float[Array, "b n"]) -> Float[Array, "b"]:
    """Compute the generator's non-saturating loss, softplus(-D(x̂)).

    Args:
      fake: logits of the reconstructions.

    Returns:
      The mean over the logits of each example, > 0; ln 2 where all are 0.
    """
    return jnp.mean(softplus(-fake), axis=1)


def discriminator_loss(real: Float[Array, "b n"], fake: Float[Array, "b n"]) -> Float[Array, "b"]:
    """Compute the cross-entropy of telling real from reconstructed clips.

    Args:
      real: logits of real clips.
      fake: logits of reconstructions.

    Returns:
      The loss of each example, > 0; 2 ln 2 where all logits are 0.
    """
    return jnp.mean(softplus(-real), axis=1) + jnp.mean(softplus(fake), axis=1)


def r1_penalty(
    logits_of: Callable[[Float[Array, "b t h w c"]], Float[Array, "b n"]],
    real: Float[Array, "b t h w c"],
) -> Float[Array, "b"]:
    """Compute half the squared gradient of a logit by what it sees, mean over logits (1801.04406).

    Args:
      logits_of: the discriminator. A logit must depend on no other example, and where an example
        has several, each must depend on pixels of its own (a logit a frame).
      real: real clips.

    Returns:
      The penalty of each clip, >= 0.
    """

    def total(video: Array) -> tuple[Array, Array]:
        logits = logits_of(video)
        return jnp.sum(logits), logits

    slope, logits = jax.grad(total, has_aux=True)(real)
    return 0.5 * jnp.sum(slope.astype(jnp.float32) ** 2, axis=(1, 2, 3, 4)) / logits.shape[1]


def lecam_penalty(
    real: Float[Array, "b n"], fake: Float[Array, "b n"], anchors: Anchors
) -> Float[Array, "b"]:
    """Penalise logits that run ahead of the moving average of the other kind (LeCam, 2104.03310).

    Args:
      real: logits of real clips.
      fake: logits of reconstructions.
      anchors: the moving averages; no gradient goes to them.

    Returns:
      relu(real - ā_fake)² + relu(ā_real - fake)² of each example, mean over its logits.
    """
    average = jax.lax.stop_gradient(anchors)
    ahead = relu(real - average["fake"]) ** 2
    behind = relu(average["real"] - fake) ** 2
    return jnp.mean(ahead, axis=1) + jnp.mean(behind, axis=1)


def anchor_loss(
    real: Float[Array, "b n"], fake: Float[Array, "b n"], anchors: Anchors
) -> Float[Array, ""]:
    """Make a loss whose gradient descent turns the anchors into moving averages of the logits.

    Args:
      real: logits of real clips; they get no gradient.
      fake: logits of reconstructions, likewise.
      anchors: the moving averages, which are parameters.

    Returns:
      A number of which the gradient alone has a meaning: anchor minus mean logit.
    """
    means = jax.lax.stop_gradient((jnp.mean(real), jnp.mean(fake)))
    return 0.5 * (anchors["real"] - means[0]) ** 2 + 0.5 * (anchors["fake"] - means[1]) ** 2
