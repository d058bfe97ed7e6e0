"""C-ViViT, the causal video autoencoder of Phenaki (section 2.1, Table 6).

    first frame   (h, w) patches        W₁ · pixels      }  latents: 1 + k steps of a gh x gw grid
    k tubelets    (t, h, w) patches     W₂ · pixels      }
    encoder       spatial transformer (all patches of a step), then temporal (each place, causal)
    decoder       the mirror: temporal, then spatial, then a linear layer to pixels

Nothing flows back in time, in the decoder neither, so that any number of frames 1 + k·t can be run,
all at once or chunk by chunk with the keys and values of the steps before (`CausalAutoencoder`).

Patches that do not see each other's pixels have borders that show. With `pixel_width` residual
convolutions of each frame at full resolution stand before the patches and behind them; the paper
has none.

Positions are not published. [guess] Fourier features of a patch's place in the frame, through a
linear layer, fit any size; a causal relative bias alone in time, shared by all layers as in T5,
fits any length.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.nn import axes, embeddings
from vidgen.nn.attention import RelativeBias
from vidgen.nn.conv import norm, spatial_conv, swish
from vidgen.nn.transformer import KV, Transformer, causal_mask
from vidgen.phenaki.autoencoder import CausalAutoencoder, settings_of

# [guess] Six octaves an axis: the finest repeats after a sixteenth of the frame, which is a patch
# of the published grid.
PLACE_FEATURES = 24


class CViViTSettings(nn.Module):
    """What both halves have in common, their settings (see `CViViT`) and their transformers."""

    patch: tuple[int, int, int] = (2, 8, 8)
    width: int = 512
    mlp: int = 2048
    heads: int = 8
    spatial_layers: int = 4
    temporal_layers: int = 4
    pixel_width: int = 0
    pixel_blocks: int = 1
    channels: int = 3
    window: int | None = None
    remat: str = "none"
    unroll: bool = False
    dtype: str = "float32"

    def _space(self, x: Float[Array, "b t h w d"]) -> Array:
        """Let the patches of a step attend to each other by the spatial transformer (2.1)."""
        b, t, h, w, d = x.shape
        places = embeddings.pixel_features(h, w, PLACE_FEATURES)
        x += axes.dense(d, (None, "embed"), name="place", dtype=self.dtype)(places)
        if not self.spatial_layers:
            return x
        stack = self._transformer(self.spatial_layers, "space")
        return stack(x.reshape(b * t, h * w, d))[0].reshape(x.shape)

    def _time(
        self, x: Float[Array, "b t h w d"], past: KV | None
    ) -> tuple[Float[Array, "b t h w d"], KV | None]:
        """Let a patch attend to its place at earlier steps, those of `past` too."""
        if not self.temporal_layers:
            return x, past
        b, t, h, w, d = x.shape
        steps = t if past is None else past.positions + t
        y, present = self._transformer(self.temporal_layers, "time")(
            x.transpose(0, 2, 3, 1, 4).reshape(b * h * w, t, d),
            bias=RelativeBias(self.heads, causal=True, name="distance")(t, steps),
            mask=causal_mask(t, steps, window=self.window),
            past=past,
        )
        if present is not None and self.window is not None:
            present = present.last(self.window)
        return y.reshape(b, h, w, t, d).transpose(0, 3, 1, 2, 4), present

    def _by_parts(
        self, layer: Callable[[Array, int, str], Array], x: Float[Array, "b t *x"], starts: bool
    ) -> Array:
        """Apply a layer to the first frame or step of a clip, and one to the tubelets."""
        parts = []
        if starts and self.patch[0] > 1:
            first, x = x[:, :1], x[:, 1:]
            parts.append(layer(first, 1, "first"))
        # A single frame has no tubelets, but their parameters are to be made all the same.
        if x.shape[1] or self.is_initializing():
            parts.append(layer(x, self.patch[0], "tubelets"))
        return jnp.concatenate(parts, axis=1)

    def _transformer(self, layers: int, name: str) -> Transformer:
        return Transformer(
            layers,
            self.heads,
            self.mlp,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
            name=name,
        )

    def _pixel_convs(self, x: Float[Array, "b t h w c"]) -> Array:
        """Apply residual convolutions over the pixels of a frame; the identity at the start."""
        for i in range(self.pixel_blocks):
            y = x
            for j, scale in enumerate((1.0, 0.0)):
                name = f"pixels{i}_{j}"
                y = swish(norm("channel", x.shape[-1], name=f"{name}_norm", dtype=self.dtype)(y))
                y = spatial_conv(x.shape[-1], name=name, scale=scale, dtype=self.dtype)(y)
            x += y
        return x


class CViViTEncoder(CViViTSettings):
    """The half of C-ViViT that maps video to latents."""

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t h w c"], past: KV | None = None, *, starts: bool = True
    ) -> tuple[Float[Array, "b gt gh gw d"], KV | None]:
        """Encode a clip, or a chunk of one.

        Args:
          video: pixels in [-1, 1].
          past: keys and values of the steps before, for a chunk; None for a whole clip.
          starts: whether the first frame of `video` is the first of its clip.

        Returns:
          The latents, and the keys and values for the next chunk, None without `past`.
        """
        x = video.astype(self.dtype)
        if self.pixel_width:
            names = ("pixels", "conv_out")
            x = spatial_conv(self.pixel_width, names, name="stem", dtype=self.dtype)(x)
            x = self._pixel_convs(x)
        x = axes.constrain_video(self._by_parts(self._embed, x, starts))
        return self._time(self._space(x), past)

    def _embed(self, x: Float[Array, "b t h w c"], frames: int, name: str) -> Array:
        names = ("pixels", "embed")
        dense = axes.dense(self.width, names, name=name, dtype=self.dtype)
        return dense(to_patches(x, (frames, *self.patch[1:])))


class CViViTDecoder(CViViTSettings):
    """The half of C-ViViT that maps latents to video."""

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b gt gh gw d"], past: KV | None = None, *, starts: bool = True
    ) -> tuple[Float[Array, "b t h w c"], KV | None]:
        """Decode a clip, or a chunk of one.

        Args:
          latents: one or more steps.
          past: keys and values of the steps before, for a chunk; None for a whole clip.
          starts: whether the first of these steps is the first of its clip.

        Returns:
          The video, float32 and not clipped; and the keys and values for the next chunk, None
          without `past`.
        """
        x, present = self._time(latents.astype(self.dtype), past)
        x = axes.constrain_video(self._space(x))
        return self._head(self._by_parts(self._pixels, x, starts)), present

    def _pixels(self, x: Float[Array, "b gt gh gw d"], frames: int, name: str) -> Array:
        """Compute the pixels of every patch in float32, or `pixel_width` features of each pixel."""
        patch = (frames, *self.patch[1:])
        features = math.prod(patch) * (self.pixel_width or self.channels)
        dtype = self.dtype if self.pixel_width else "float32"
        dense = axes.dense(features, ("embed", "pixels"), name=name, dtype=dtype)
        return from_patches(dense(x), patch)

    def _head(self, x: Float[Array, "b t h w c"]) -> Array:
        """Map the result of `_pixels` to the video, in float32."""
        if not self.pixel_width:
            return x
        x = self._pixel_convs(x)
        x = swish(norm("channel", x.shape[-1], name="head_norm", dtype=self.dtype)(x))
        return spatial_conv(self.channels, ("conv_in", "pixels"), name="head")(x)


class CViViT(CausalAutoencoder, CViViTSettings):
    """The causal video vision transformer of Phenaki, encoder and decoder.

    Attributes:
      patch: (frames, height, width) of a tubelet; the first frame has patches of (height, width).
        With 1 frame all frames are embedded alike, which with `temporal_layers` 0 makes the
        per-frame tokenizer that the paper compares with.
      width: width of the transformers and of the latents.
      mlp: hidden width of their feed-forward layers.
      heads: number of attention heads.
      spatial_layers: number of blocks of the spatial transformer, in each half.
      temporal_layers: number of blocks of the temporal transformer, in each half.
      pixel_width: features of each pixel in the convolutions around the patches; 0 is the paper's
        C-ViViT, without any.
      pixel_blocks: number of residual blocks of two convolutions, before the patches and behind.
      channels: channels of the video.
      window: number of steps that a temporal layer sees and a stream keeps; None is all.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      unroll: whether the blocks are unrolled when compiled.
      dtype: dtype of the computation; parameters and the decoded video are float32.
    """

    def setup(self) -> None:
        """Make the encoder and the decoder."""
        settings = settings_of(self, CViViTSettings)
        self.encoder = CViViTEncoder(**settings)
        self.decoder = CViViTDecoder(**settings)

    @property
    def features(self) -> int:
        """Size of the last axis of the latents."""
        return self.width

    @property
    def strides(self) -> tuple[int, int, int]:
        """The patch: (frames, height, width) that one latent stands for."""
        return self.patch

    def encode_chunk(
        self, video: Float[Array, "b t h w c"], state: KV | None = None
    ) -> tuple[Float[Array, "b gt gh gw d"], KV]:
        """Encode with the kept keys and values; see `CausalAutoencoder.encode_chunk`."""
        starts = state is None
        self._check_chunk(video, not starts)
        _, rows, columns = self.grid(video.shape[1] + (not starts), *video.shape[2:4])
        state = self._empty(len(video) * rows * columns) if state is None else state
        latents, state = self.encoder(video, state, starts=starts)
        assert state is not None  # as one was given
        return latents, state

    def decode_chunk(
        self, latents: Float[Array, "b gt gh gw d"], state: KV | None = None
    ) -> tuple[Float[Array, "b t h w c"], KV]:
        """Decode with the kept keys and values; see `CausalAutoencoder.decode_chunk`."""
        b, _, rows, columns, _ = latents.shape
        starts = state is None
        state = self._empty(b * rows * columns) if state is None else state
        video, state = self.decoder(latents, state, starts=starts)
        assert state is not None  # as one was given
        return video, state

    def _empty(self, rows: int) -> KV:
        """Make the keys and values before the first chunk, of no position."""
        head_dim = self.width // self.heads
        return KV.empty(self.temporal_layers, rows, self.heads, head_dim, self.dtype)


def to_patches(
    x: Float[Array, "b t h w c"], patch: tuple[int, int, int]
) -> Float[Array, "b gt gh gw p"]:
    """Cut a video into patches (2.1).

    Args:
      x: the video.
      patch: (frames, height, width) of a patch, which divide the video.

    Returns:
      One vector a patch, of all its numbers.
    """
    b, t, h, w, c = x.shape
    pt, ph, pw = patch
    x = x.reshape(b, t // pt, pt, h // ph, ph, w // pw, pw, c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
        b, t // pt, h // ph, w // pw, pt * ph * pw * c
    )


def from_patches(
    x: Float[Array, "b gt gh gw p"], patch: tuple[int, int, int]
) -> Float[Array, "b t h w c"]:
    """Put patches together to a video: the inverse of `to_patches`.

    Args:
      x: one vector a patch, of all its numbers.
      patch: (frames, height, width) of a patch.

    Returns:
      The video; its channels are the numbers of a vector by those of a patch.
    """
    b, gt, gh, gw, p = x.shape
    pt, ph, pw = patch
    c = p // (pt * ph * pw)
    x = x.reshape(b, gt, gh, gw, pt, ph, pw, c)
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, gt * pt, gh * ph, gw * pw, c)
