"""C-ViViT, the causal video autoencoder of Phenaki (2.1 and Table 6).

    first frame   (h, w) patches        W₁ · pixels      }  latents: 1 + k steps of a gh x gw grid
    k tubelets    (t, h, w) patches     W₂ · pixels      }
    encoder       spatial transformer (all patches of a step), then temporal (each place, causal)
    decoder       the mirror: temporal, then spatial, then a linear layer to pixels

Patches that do not see each other's pixels have borders that show. With `pixel_width` residual
convolutions of each frame at full resolution stand before the patches and behind them; the paper
has none.

Nothing flows back in time, in the decoder neither: the latents of a prefix are the prefix of the
latents, an image is the first frame of a clip, and any number of frames 1 + k·t can be run, all at
once or chunk by chunk with the keys and values of the steps before.

Positions are not published. [guess] Fourier features of a patch's place in the frame, through a
linear layer, fit any size; a causal relative bias alone in time, shared by all layers as in T5,
fits any length.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.nn import axes, embeddings
from vidgen.nn.attention import RelativeBias
from vidgen.nn.conv import norm, spatial_conv, swish
from vidgen.nn.transformer import KV, Transformer, causal_mask

# [guess] Six octaves an axis: the finest repeats after a sixteenth of the frame, which is a patch
# of the published grid.
PLACE_FEATURES = 24


class CViViTSettings(nn.Module):
    """The fields of both halves; see `CViViT`."""

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
        """Let the patches of each step see each other."""
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
        """Let each step see those before it at its place, those of `past` too."""
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
        """Let neighbouring pixels of a frame see each other; the identity at the start."""
        for i in range(self.pixel_blocks):
            y = x
            for j, scale in enumerate((1.0, 0.0)):
                name = f"pixels{i}_{j}"
                y = swish(norm("channel", x.shape[-1], name=f"{name}_norm", dtype=self.dtype)(y))
                y = spatial_conv(x.shape[-1], name=name, scale=scale, dtype=self.dtype)(y)
            x += y
        return x


class CViViTEncoder(CViViTSettings):
    """Video to latents; `starts` is whether its first frame is the first of the clip."""

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t h w c"], past: KV | None = None, *, starts: bool = True
    ) -> tuple[Float[Array, "b gt gh gw d"], KV | None]:
        """The latents, and with `past` given what a next chunk needs to know."""
        x = video.astype(self.dtype)
        if self.pixel_width:
            names = ("pixels", "conv_out")
            x = spatial_conv(self.pixel_width, names, name="stem", dtype=self.dtype)(x)
            x = self._pixel_convs(x)
        parts = []
        if starts and self.patch[0] > 1:
            first, x = x[:, :1], x[:, 1:]
            parts.append(self._embed(first, 1, "first"))
        # A single frame has no tubelets, but their parameters are to be made all the same.
        if x.shape[1] or self.is_initializing():
            parts.append(self._embed(x, self.patch[0], "tubelets"))
        x = axes.constrain_video(jnp.concatenate(parts, axis=1))
        return self._time(self._space(x), past)

    def _embed(self, x: Float[Array, "b t h w c"], frames: int, name: str) -> Array:
        names = ("pixels", "embed")
        dense = axes.dense(self.width, names, name=name, dtype=self.dtype)
        return dense(to_patches(x, (frames, *self.patch[1:])))


class CViViTDecoder(CViViTSettings):
    """Latents to video; `starts` is whether their first step is the first frame of the clip."""

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b gt gh gw d"], past: KV | None = None, *, starts: bool = True
    ) -> tuple[Float[Array, "b t h w c"], KV | None]:
        """The video, and with `past` given what a next chunk needs to know."""
        x, present = self._time(latents.astype(self.dtype), past)
        x = axes.constrain_video(self._space(x))
        parts = []
        if starts and self.patch[0] > 1:
            first, x = x[:, :1], x[:, 1:]
            parts.append(self._pixels(first, 1, "first"))
        if x.shape[1] or self.is_initializing():
            parts.append(self._pixels(x, self.patch[0], "tubelets"))
        return self._head(jnp.concatenate(parts, axis=1)), present

    def _pixels(self, x: Float[Array, "b gt gh gw d"], frames: int, name: str) -> Array:
        """The patches: pixels in float32, or `pixel_width` features of each."""
        patch = (frames, *self.patch[1:])
        features = math.prod(patch) * (self.pixel_width or self.channels)
        dtype = self.dtype if self.pixel_width else "float32"
        dense = axes.dense(features, ("embed", "pixels"), name=name, dtype=dtype)
        return from_patches(dense(x), patch)

    def _head(self, x: Float[Array, "b t h w c"]) -> Array:
        """From what `_pixels` gives to the video, in float32."""
        if not self.pixel_width:
            return x
        x = self._pixel_convs(x)
        x = swish(norm("channel", x.shape[-1], name="head_norm", dtype=self.dtype)(x))
        return spatial_conv(self.channels, ("conv_in", "pixels"), name="head")(x)


class CViViT(CViViTSettings):
    """The autoencoder; satisfies the `Autoencoder` protocol of phenaki/tokenizer.py.

    Attributes:
      patch: (frames, height, width) of a tubelet; the first frame has patches of (height, width).
        With 1 frame all frames are embedded alike, which with `temporal_layers` 0 makes the
        per-frame tokenizer that the paper compares with.
      width: of the transformers and of the latents.
      mlp: hidden width of their feed-forward layers.
      heads: attention heads.
      spatial_layers: blocks of the spatial transformer, in each half.
      temporal_layers: blocks of the temporal transformer, in each half.
      pixel_width: features of each pixel in convolutions around the patches; 0 is the paper's
        C-ViViT, without any.
      pixel_blocks: residual blocks of two convolutions, before the patches and behind them.
      channels: of the video.
      window: steps of the past that a temporal layer sees, and a stream has to keep; None: all.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      unroll: whether the blocks are unrolled when compiled.
      dtype: of the computation; parameters and the decoded video are float32.
    """

    def setup(self) -> None:
        """Make both halves."""
        fields = dataclasses.fields(CViViTSettings)
        own = {f.name: getattr(self, f.name) for f in fields if f.name not in ("parent", "name")}
        self.encoder = CViViTEncoder(**own)
        self.decoder = CViViTDecoder(**own)

    @property
    def features(self) -> int:
        """The last axis of the latents."""
        return self.width

    @nn.nowrap
    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The latents of a clip of this size: (steps, rows, columns).

        Raises:
          ValueError: where patches do not fill the clip; it names the nearest sizes that do.
        """
        t, h, w = self.patch
        if frames < 1 or (frames - 1) % t:
            near = _nearest(frames - 1, t, least=0)
            counts = " or ".join(str(1 + n) for n in near)
            raise ValueError(
                f"the tokenizer takes a first frame and then {t} at a time, which {frames} frames "
                f"are not; the nearest are {counts}."
            )
        for name, size, patch in (("height", height, h), ("width", width, w)):
            if size < patch or size % patch:
                near = " or ".join(map(str, _nearest(size, patch, least=patch)))
                raise ValueError(
                    f"the tokenizer's patches are {h}x{w} pixels, which do not fill a {name} of "
                    f"{size}; the nearest are {near}."
                )
        return 1 + (frames - 1) // t, height // h, width // w

    @nn.nowrap
    def frames_of(self, steps: int) -> int:
        """The frames that so many steps of latents decode to."""
        return 1 + (steps - 1) * self.patch[0]

    def encode(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b gt gh gw d"]:
        """The latents of a clip; `grid` has their shape and says which sizes fit."""
        self.grid(*video.shape[1:4])
        return self.encoder(video)[0]

    def decode(self, latents: Float[Array, "b gt gh gw d"]) -> Float[Array, "b t h w c"]:
        """The clip, float32 and not clipped."""
        return self.decoder(latents)[0]

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Encode and decode."""
        return self.decode(self.encode(video))

    def encode_chunk(
        self, video: Float[Array, "b t h w c"], state: KV | None = None
    ) -> tuple[Float[Array, "b gt gh gw d"], KV]:
        """The latents of the next frames of a clip, equal to those that `encode` gives of it all.

        Args:
          video: 1 + k·patch frames at the start of a clip, a multiple of patch frames after it.
          state: what came out with the chunk before; None at the start.
        """
        b, frames, height, width, _ = video.shape
        starts = state is None
        if not starts and frames % self.patch[0]:
            near = " or ".join(map(str, _nearest(frames, self.patch[0], least=self.patch[0])))
            raise ValueError(
                f"a later chunk of a clip has a multiple of {self.patch[0]} frames, not {frames}; "
                f"the nearest are {near}."
            )
        _, rows, columns = self.grid(frames if starts else 1 + frames, height, width)
        state = self._empty(b * rows * columns) if state is None else state
        latents, state = self.encoder(video, state, starts=starts)
        assert state is not None  # as one was given
        return latents, state

    def decode_chunk(
        self, latents: Float[Array, "b gt gh gw d"], state: KV | None = None
    ) -> tuple[Float[Array, "b t h w c"], KV]:
        """The frames of the next steps of a clip, equal to those that `decode` gives of it all."""
        b, _, rows, columns, _ = latents.shape
        starts = state is None
        state = self._empty(b * rows * columns) if state is None else state
        video, state = self.decoder(latents, state, starts=starts)
        assert state is not None
        return video, state

    def _empty(self, rows: int) -> KV:
        """The state before the first chunk."""
        head_dim = self.width // self.heads
        return KV.empty(self.temporal_layers, rows, self.heads, head_dim, self.dtype)


def to_patches(
    x: Float[Array, "b t h w c"], patch: tuple[int, int, int]
) -> Float[Array, "b gt gh gw p"]:
    """Every (frames, height, width) block of `x` as one vector of all its numbers."""
    b, t, h, w, c = x.shape
    pt, ph, pw = patch
    x = x.reshape(b, t // pt, pt, h // ph, ph, w // pw, pw, c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
        b, t // pt, h // ph, w // pw, pt * ph * pw * c
    )


def from_patches(
    x: Float[Array, "b gt gh gw p"], patch: tuple[int, int, int]
) -> Float[Array, "b t h w c"]:
    """The inverse of `to_patches`."""
    b, gt, gh, gw, p = x.shape
    pt, ph, pw = patch
    c = p // (pt * ph * pw)
    x = x.reshape(b, gt, gh, gw, pt, ph, pw, c)
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, gt * pt, gh * ph, gw * pw, c)


def _nearest(size: int, step: int, *, least: int) -> tuple[int, ...]:
    """The multiples of `step` on both sides of `size`, those that are at least `least`."""
    below = size // step * step
    return tuple(n for n in (below, below + step) if n >= least) or (least,)
