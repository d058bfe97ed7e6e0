"""Causal convolutions over video, which may go on from one chunk of a clip to the next.

A convolution over time sees a frame and those before it. In front of the clip it sees the first
frame again, so that an image looks like a clip in which nothing moves. Strides work on windows of
s + 1 frames that share their ends, which takes 1 + k·s frames to 1 + k steps, and depth-to-space
gives s frames a step but one for the first; either way step i belongs to the frames up to i·s
(MAGVIT-v2, 2310.05737).

    frames (s = 2)   0 │ 1 2 │ 3 4 │ 5 6
    step             0 │  1  │  2  │  3

Every layer is called as layer(x, past) -> (y, kept). `past` is None at the start of a clip, and
afterwards what the layer kept of the chunk before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vidgen.nn import axes
from vidgen.nn.conv import depth_to_space, spatial_conv

KERNELS = ("full", "factorized")
# What layers keep, in the order in which they run: an array, None, or the state of inner layers.
State = tuple[Any, ...]


class CausalConv(nn.Module):
    """A 3x3x3 convolution that sees each frame and the two before it.

    "full" is a spatial convolution of the three frames side by side, which is the same sum; XLA
    runs it faster than a 3-D convolution on a CPU. "factorized" is a spatial convolution of each
    frame followed by a dense layer over three of them.

    Attributes:
      features: output channels.
      kernel: one of `KERNELS`.
      scale: variance scale of the initialiser.
      names: logical names of the (input, output) channel axes.
      dtype: dtype of the computation.
    """

    features: int
    kernel: str = "full"
    scale: float = 1.0
    names: tuple[str, str] = ("conv_in", "conv_out")
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], past: Array | None = None
    ) -> tuple[Float[Array, "b t h w c2"], Float[Array, "b 2 h w c3"]]:
        """Convolve a clip, or a chunk of one.

        Args:
          x: features.
          past: the two frames that were returned with the chunk before; None at the start of a
            clip.

        Returns:
          The features, and the last two frames that the kernel saw, for the next chunk.
        """
        full, dtype = self.kernel == "full", self.dtype
        names = self.names
        if not full:
            x = spatial_conv(self.features, names, name="space", dtype=dtype)(x)
            names = ("conv_in", "conv_out")
        seen = continue_clip(x, past, 2)
        taps = windows(seen, 3, 1)
        if full:
            conv = spatial_conv(self.features, names, name="taps", scale=self.scale, dtype=dtype)
        else:
            conv = axes.dense(self.features, names, name="taps", scale=self.scale, dtype=dtype)
        return axes.constrain_video(conv(taps)), seen[:, -2:]


class CausalDown(nn.Module):
    """A strided convolution to `features`, over windows of `time` + 1 frames."""

    features: int
    time: int
    space: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], past: Array | None = None
    ) -> tuple[Float[Array, "b t2 h2 w2 c2"], Float[Array, "b 1 h w c"] | None]:
        """Convolve a clip, or a chunk of one, with a stride.

        Args:
          x: features: 1 + k · time frames at the start of a clip, k · time after it.
          past: the frame that was returned with the chunk before; None at the start of a clip.

        Returns:
          The features, and the last frame, for the next chunk; None with a stride of 1 in time.
        """
        kept = None
        if self.time > 1:
            x = continue_clip(x, past, self.time)
            kept = x[:, -1:]
            x = windows(x, self.time + 1, self.time)
        conv = spatial_conv(self.features, name="conv", stride=self.space, dtype=self.dtype)
        return axes.constrain_video(conv(x)), kept


class CausalUp(nn.Module):
    """A convolution to `features`, with `time` frames and `space` rows and columns for each one."""

    features: int
    time: int
    space: int
    kernel: str = "full"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], past: Array | None = None
    ) -> tuple[Float[Array, "b t2 h2 w2 c2"], Array]:
        """Enlarge a clip, or a chunk of one.

        Args:
          x: features.
          past: what was returned with the chunk before; None at the start of a clip, whose first
            step gives one frame.

        Returns:
          The features, and what the convolution keeps for the next chunk.
        """
        width = self.features * self.time * self.space**2
        x, kept = CausalConv(width, self.kernel, name="conv", dtype=self.dtype)(x, past)
        x = depth_to_time(x, self.time, starts=past is None)
        return axes.constrain_video(depth_to_space(x, self.space)), kept


class Chain:
    """Runs causal layers one after the other, and gathers what they keep for the next chunk.

    `past` is the `kept` of the chunk before, of a chain of the same layers; None at the start.
    """

    def __init__(self, past: State | None) -> None:
        self._past = past
        self.kept: State = ()

    def __call__(self, layer: Callable[..., tuple[Array, Array | None]], x: Array) -> Array:
        """Apply the next layer.

        Args:
          layer: called as layer(x, past) -> (y, kept).
          x: the input of the layer.

        Returns:
          y; what the layer keeps is gathered in `kept`.
        """
        past = None if self._past is None else self._past[len(self.kept)]
        y, kept = layer(x, past)
        self.kept += (kept,)
        return y


def continue_clip(
    x: Float[Array, "b t h w c"], past: Float[Array, "b k h w c"] | None, front: int
) -> Float[Array, "b t2 h w c"]:
    """Put the frames before x in front of it.

    Args:
      x: the frames of a clip, or of a chunk of one.
      past: the frames before; None at the start of a clip.
      front: number of copies of the first frame that stand in front of a clip.

    Returns:
      The frames, in the dtype of x.
    """
    # [guess] Copies rather than zeros: frame 0 is then no different from the start of a still clip.
    before = jnp.repeat(x[:, :1], front, axis=1) if past is None else past.astype(x.dtype)
    return jnp.concatenate([before, x], axis=1)


def windows(x: Float[Array, "b t h w c"], size: int, stride: int) -> Float[Array, "b t2 h w c2"]:
    """Stack every run of frames in the channels.

    Args:
      x: frames.
      size: frames of a run.
      stride: frames from the start of a run to that of the next.

    Returns:
      1 + (t - size) // stride steps of size · c channels, the earliest frame first.
    """
    last = x.shape[1] - size + 1
    return jnp.concatenate([x[:, i : i + last : stride] for i in range(size)], axis=-1)


def depth_to_time(
    x: Float[Array, "b t h w c"], factor: int, *, starts: bool
) -> Float[Array, "b t2 h w c2"]:
    """Unfold channels into frames.

    At the start of a clip the first step gives its last frame only, as if the others had been
    before the clip.

    Args:
      x: steps, of a multiple of `factor` channels.
      factor: frames of a step.
      starts: whether the first step is the first of its clip.

    Returns:
      t · factor frames of c / factor channels; factor - 1 fewer at the start.
    """
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h, w, factor, c // factor)
    x = x.transpose(0, 1, 4, 2, 3, 5).reshape(b, t * factor, h, w, c // factor)
    return x[:, factor - 1 if starts else 0 :]
