"""The discriminator of the tokenizer's training, of the StyleGAN type (Phenaki 2.1, B.1).

    pixels ─ 1x1 ─ [ 3x3 ─ blur, half size ─ 3x3 ] + skip, over √2 ... ─ 3x3 ─ dense ─ dense ─ logit
                   until a frame is 4x4; channels double from `width` to `max_width`

All activations are leaky rectifiers. There are no normalisations and no statistics of the batch,
so that a logit depends on its own example alone, as the R1 penalty needs.

Whether it sees frames or clips is not published. [guess] Frames ("2d") by default: it is the
cheaper, and I3D features judge motion. "3d" has 3x3x3 convolutions and halves time too, as the
discriminator of MAGVIT does.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vidgen.nn import axes, initializers
from vidgen.nn.conv_gradient import convolution

DIMS = ("2d", "3d")
DTYPES = ("float32", "bfloat16")
_SMALLEST = 4  # pixels
_OUTER, _INNER = 1 / 8, 3 / 8  # weights of the blur: (1, 3, 3, 1) / 8


class Discriminator(nn.Module):
    """Logits, large for real video: one a frame ("2d") or one a clip ("3d").

    The first dense layer sees every pixel of the last 4x4, so parameters fit one height and width,
    but any number of frames: time is averaged there.

    Attributes:
      dims: what is seen at once, frames ("2d") or clips ("3d").
      width: channels at full resolution. StyleGAN with channel multiplier 1, as Phenaki has it,
        is 128 at 128 pixels and 64 at 256.
      max_width: most channels.
      frames_per_clip: how many frames of a clip a training step judges, drawn anew for each clip
        and step, of "2d"; None: all of them, which is how we read Phenaki. The expected loss is
        the same for any number. With one frame a clip, as phenaki-pytorch has, a step of 2 clips of
        17 x 32 x 32 takes 0.34 s on a CPU instead of 2.21.
      dtype: of the computation; parameters and logits are float32.
    """

    dims: str = "2d"
    width: int = 128
    max_width: int = 512
    frames_per_clip: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, choices in (("dims", DIMS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                value = getattr(self, name)
                raise ValueError(f"Discriminator.{name} is {value!r}; choose one of {choices}.")
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
        """The logits of each frame, or of each clip."""
        b, t, *_ = video.shape
        x = video.astype(self.dtype)
        if self.dims == "2d":
            x = x.reshape(b * t, 1, *x.shape[2:])
        x = self._act(self._dense(x, self.width, ("pixels", "conv_out"), "pixels"))
        channels, level = self.width, 0
        while min(x.shape[2:4]) > _SMALLEST:
            channels = min(2 * channels, self.max_width)
            x = axes.constrain_video(self._block(x, channels, f"level{level}"))
            level += 1
        x = self._act(self._conv(x, channels, "last"))
        # Each time step by itself, then their mean.
        x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        x = self._act(self._dense(x, channels, ("conv_in", "conv_out"), "hidden"))
        x = jnp.mean(x.astype(jnp.float32), axis=1)
        logits = axes.dense(1, ("conv_in", "pixels"), name="logit")(x)
        return logits.reshape(b, t if self.dims == "2d" else 1)

    def _block(self, x: Array, channels: int, name: str) -> Array:
        """Half the size, on a residual path."""
        over = (2, 3) if self.dims == "2d" else (1, 2, 3)
        y = self._act(self._conv(x, x.shape[-1], f"{name}_conv1"))
        y = self._act(self._conv(half(y, over), channels, f"{name}_conv2"))
        names = ("conv_in", "conv_out")
        skip = self._dense(half(x, over), channels, names, f"{name}_skip", scale=1.0)
        return (y + skip) * math.sqrt(0.5)

    def _conv(self, x: Array, channels: int, name: str) -> Array:
        taps = (1, 3, 3) if self.dims == "2d" else (3, 3, 3)
        names = ("kernel", "kernel", "kernel", "conv_in", "conv_out")
        if self.dims == "2d":  # a plain convolution of images, which all platforms have fast
            x, taps, names = x[:, 0], taps[1:], names[1:]
        x = nn.Conv(
            channels,
            taps,
            dtype=self.dtype,
            conv_general_dilated=convolution,
            # Variance 2 / fan-in: a rectifier halves it.
            kernel_init=axes.partitioned(initializers.fan_in(2.0), names),
            bias_init=axes.partitioned(initializers.zeros, names[-1:]),
            name=name,
        )(x)
        return x[:, None] if self.dims == "2d" else x

    def _dense(
        self, x: Array, features: int, names: tuple[str, str], name: str, *, scale: float = 2.0
    ) -> Array:
        return axes.dense(features, names, name=name, scale=scale, dtype=self.dtype)(x)

    @staticmethod
    def _act(x: Array) -> Array:
        return nn.leaky_relu(x, 0.2)


def half(x: Any, over: tuple[int, ...]) -> Any:
    """`x` blurred with (1, 3, 3, 1) / 8 and every second value kept, along each axis of `over`.

    An odd length is rounded up; a length of 1 stays. Values go on past the border as they end, so
    that a constant stays what it is.
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
        first, second = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
        kept = first.shape[axis]
        before = [lax.slice_in_dim(first, 0, 1, axis=axis)]
        before.append(lax.slice_in_dim(second, 0, kept - 1, axis=axis))
        after = [lax.slice_in_dim(first, 1, kept, axis=axis)]
        after.append(lax.slice_in_dim(second, kept - 1, kept, axis=axis))
        outer = jnp.concatenate(before, axis) + jnp.concatenate(after, axis)
        x = _OUTER * outer + _INNER * (first + second)
    return x
