"""A causal 3-D convolutional video autoencoder, after MAGVIT-v2 (2310.05737).

    encoder   conv ─ level 0: blocks ─ down ─ level 1: blocks ─ down ─ ... ─ norm, swish, conv
    decoder   conv ─ level n: film(latents), blocks ─ up ─ ... ─ level 0 ─ norm, swish, conv
    block     x + conv(swish(norm(conv(swish(norm(x))))))

Step i of the latents is computed from the frames up to i·s, and decoded to them, by convolutions
that never look ahead (`nn.causal_conv`); s is the product of the strides in time. Norms do not
cross frames.

The latents also scale and shift the features at each level of the decoder (adaptive norm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen import checks
from vidgen.nn import axes, remat
from vidgen.nn.causal_conv import KERNELS, CausalConv, CausalDown, CausalUp, Chain, State
from vidgen.nn.conv import (
    NORMS,
    depth_to_space,
    norm,
    space_to_depth,
    spatial_conv,
    swish,
    upsample_nearest,
)
from vidgen.nn.transformer import DTYPES
from vidgen.phenaki.autoencoder import CausalAutoencoder, settings_of


class Block(nn.Module):
    """The residual block (see the module's docstring); the identity at the start."""

    kernel: str = "full"
    norm: str = "group"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], past: State | None = None
    ) -> tuple[Float[Array, "b t h w c"], State]:
        """Transform the features of a clip, or of a chunk of one.

        Args:
          x: features.
          past: the state that was returned with the chunk before; None at the start of a clip.

        Returns:
          Features of the same shape, x itself before training; and the state of the two
          convolutions for the next chunk.
        """
        width, kernel, dtype = x.shape[-1], self.kernel, self.dtype
        one, two = (None, None) if past is None else past
        y = swish(norm(self.norm, width, name="norm1", dtype=dtype)(x))
        y, one = CausalConv(width, kernel, dtype=dtype, name="conv1")(y, one)
        y = swish(norm(self.norm, width, name="norm2", dtype=dtype)(y))
        y, two = CausalConv(width, kernel, 0.0, dtype=dtype, name="conv2")(y, two)
        return x + y, (one, two)


class FiLM(nn.Module):
    """Adaptive norm: norm(x)·(1 + scale) + shift, both from the latents; at the start norm(x).

    Attributes:
      time: number of frames of x for each step of the latents but a clip's first, which has one.
      space: number of rows and columns of x for each place of the latents.
      norm: kind of normalisation (`nn.conv.norm`).
      dtype: dtype of the computation.
    """

    time: int
    space: int
    norm: str = "group"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], latents: Float[Array, "b gt gh gw d"], *, starts: bool
    ) -> Float[Array, "b t h w c"]:
        """Normalise features, and scale and shift them by the latents.

        Args:
          x: features at `time` and `space` times the resolution of the latents.
          latents: the latents of the same frames.
          starts: whether the first frame of x is the first of its clip.

        Returns:
          Features of the same shape.
        """
        width = x.shape[-1]
        film = axes.dense(2 * width, ("conv_in", "film"), name="film", scale=0.0, dtype=self.dtype)
        both = upsample_nearest(film(latents), self.space)
        both = jnp.repeat(both, self.time, axis=1)[:, self.time - 1 if starts else 0 :]
        scale, shift = jnp.split(both, 2, axis=-1)
        return norm(self.norm, width, name="norm", dtype=self.dtype)(x) * (1 + scale) + shift


class ConvSettings(nn.Module):
    """What both halves have in common: their settings; see `CausalConv3D`."""

    widths: Sequence[int] = (128, 256, 256, 512)
    space: Sequence[int] = (2, 2, 2)
    time: Sequence[int] = (1, 2, 2)
    blocks: int = 2
    pixel_patch: int = 1
    channels: int = 3
    kernel: str = "full"
    norm: str = "group"
    remat: str = "none"
    dtype: str = "float32"

    def _conv(self, features: int, name: str, source: str = "conv_in") -> CausalConv:
        names = (source, "conv_out")
        return CausalConv(features, self.kernel, names=names, dtype=self.dtype, name=name)

    def _blocks(self, level: int) -> Iterator[nn.Module]:
        block = remat.rematerialized(Block, self.remat, in_loop=False)
        for i in range(self.blocks):
            yield block(self.kernel, self.norm, dtype=self.dtype, name=f"level{level}_block{i}")

    def _activate(self, x: Array) -> Array:
        return swish(norm(self.norm, x.shape[-1], name="head_norm", dtype=self.dtype)(x))


class ConvEncoder(ConvSettings):
    """The half of the autoencoder that maps video to latents."""

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t h w c"], past: State | None = None
    ) -> tuple[Float[Array, "b gt gh gw d"], State]:
        """Encode a clip, or a chunk of one.

        Args:
          video: pixels in [-1, 1].
          past: the state that was returned with the chunk before; None at the start of a clip.

        Returns:
          The latents, and the state for the next chunk.
        """
        run = Chain(past)
        x = space_to_depth(video.astype(self.dtype), self.pixel_patch)
        x = run(self._conv(self.widths[0], "stem", "pixels"), x)
        for level in range(len(self.widths)):
            if level:
                strides = self.time[level - 1], self.space[level - 1]
                x = run(
                    CausalDown(self.widths[level], *strides, self.dtype, name=f"down{level}"), x
                )
            for block in self._blocks(level):
                x = run(block, x)
        return run(self._conv(self.widths[-1], "head"), self._activate(x)), run.kept


class ConvDecoder(ConvSettings):
    """The half of the autoencoder that maps latents to video."""

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b gt gh gw d"], past: State | None = None
    ) -> tuple[Float[Array, "b t h w c"], State]:
        """Decode a clip, or a chunk of one.

        Args:
          latents: one or more steps.
          past: the state that was returned with the chunk before; None at the start of a clip.

        Returns:
          The video, float32 and not clipped, and the state for the next chunk.
        """
        run, starts = Chain(past), past is None
        latents = latents.astype(self.dtype)
        x = run(self._conv(self.widths[-1], "stem"), latents)
        for level in reversed(range(len(self.widths))):
            strides = math.prod(self.time[level:]), math.prod(self.space[level:])
            film = FiLM(*strides, self.norm, self.dtype, name=f"level{level}_film")
            x = film(x, latents, starts=starts)
            for block in self._blocks(level):
                x = run(block, x)
            if level:
                strides = self.time[level - 1], self.space[level - 1]
                up = (self.widths[level - 1], *strides, self.kernel, self.dtype)
                x = run(CausalUp(*up, name=f"up{level}"), x)
        pixels = self.channels * self.pixel_patch**2
        head = spatial_conv(pixels, ("conv_in", "pixels"), name="head")
        return depth_to_space(head(self._activate(x)), self.pixel_patch), run.kept


class CausalConv3D(CausalAutoencoder, ConvSettings):
    """The causal convolutional autoencoder of MAGVIT-v2, encoder and decoder.

    Attributes:
      widths: channels of each level, from full resolution down; the last are the latents' own.
      space: spatial stride from each level to the next, one fewer than there are levels.
      time: stride in time from each level to the next. MAGVIT-v2 strides late.
      blocks: number of residual blocks at each level. [guess] The published one is not known here.
      pixel_patch: side of the squares of pixels that are folded into channels before the first
        level; 1 folds none. Most of the work is at full resolution, which small machines spare.
      channels: channels of the video.
      kernel: "full" 3x3x3 convolutions as published, or "factorized" into 1x3x3 and 3x1x1, for half
        of the work.
      norm: kind of normalisation: "group" is over the pixels of a frame, "channel" is not.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      dtype: dtype of the computation; parameters and the decoded video are float32.
    """

    def __post_init__(self) -> None:
        self._check_levels()
        checks.at_least(self, blocks=0, pixel_patch=1, channels=1)
        checks.one_of(self, kernel=KERNELS, norm=NORMS, remat=remat.POLICIES, dtype=DTYPES)
        super().__post_init__()

    def _check_levels(self) -> None:
        for name in ("widths", "space", "time"):
            value = tuple(getattr(self, name))  # gin gives lists too
            setattr(self, name, value)
            if min(value, default=1) < 1:
                raise ValueError(f"CausalConv3D.{name} is {value}; give numbers >= 1.")
        if not len(self.widths) - 1 == len(self.space) == len(self.time):
            raise ValueError(
                f"CausalConv3D has {len(self.widths)} widths, {len(self.space)} strides in space "
                f"and {len(self.time)} in time; there is one stride fewer than there are widths."
            )

    def setup(self) -> None:
        """Make the encoder and the decoder."""
        settings = settings_of(self, ConvSettings)
        self.encoder = ConvEncoder(**settings)
        self.decoder = ConvDecoder(**settings)

    @property
    def features(self) -> int:
        """Size of the last axis of the latents."""
        return self.widths[-1]

    @property
    def strides(self) -> tuple[int, int, int]:
        """(frames, height, width) that one latent stands for; one frame at the first step."""
        side = self.pixel_patch * math.prod(self.space)
        return math.prod(self.time), side, side

    def encode_chunk(
        self, video: Float[Array, "b t h w c"], state: State | None = None
    ) -> tuple[Float[Array, "b gt gh gw d"], State]:
        """Encode by convolutions with kept frames; see `CausalAutoencoder.encode_chunk`."""
        self._check_chunk(video, state is not None)
        return self.encoder(video, state)

    def decode_chunk(
        self, latents: Float[Array, "b gt gh gw d"], state: State | None = None
    ) -> tuple[Float[Array, "b t h w c"], State]:
        """Decode by convolutions with kept steps; see `CausalAutoencoder.decode_chunk`."""
        return self.decoder(latents, state)
