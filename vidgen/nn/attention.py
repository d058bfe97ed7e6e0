"""Attention over space, over time and over text, and attention pooling.

    out = softmax(q·kᵀ/√d + bias + mask) · v          softmax in float32

Spatial attention treats frames as batch, temporal attention treats pixels as batch (Video
Diffusion Models). Temporal attention has relative positions only, and sees each
frame alone where the frames are unrelated images. Padded text is masked, never attended to; a
prompt without tokens gives exactly zero.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vidgen.nn import axes, embeddings, fused_attention, initializers
from vidgen.nn.conv import norm


def attend(
    q: Float[Array, "n q h d"],
    k: Float[Array, "m k h d"],
    v: Float[Array, "m k h d"],
    *,
    bias: Float[Array, "#n h q k"] | None = None,
    mask: Bool[Array, "#m #h #q k"] | None = None,
    scale: float | None = None,
) -> Float[Array, "n q h d"]:
    """Compute softmax attention, with the softmax in float32.

    Where there are many logits, they are never all held: see `nn/fused_attention.py`.

    Args:
      q: queries.
      k: keys, of as many rows; or of fewer, each for n / m rows of queries in succession.
      v: values.
      bias: added to the logits.
      mask: True where a query may look; a query that may look nowhere gives 0.
      scale: factor of the logits; None is 1/√d.

    Returns:
      The mean of the values for each query and head.
    """
    out = fused_attention.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=scale)
    if mask is None:
        return out
    seen = jnp.swapaxes(jnp.any(mask, axis=-1, keepdims=True), 1, 2)  # n q h 1
    if 1 < len(seen) < len(out):
        seen = jnp.repeat(seen, len(out) // len(seen), axis=0)
    return out * seen.astype(out.dtype)


def heads_of(
    heads: int, head_dim: int, *, name: str, source: str = "embed", dtype: DTypeLike = "float32"
) -> nn.DenseGeneral:
    """Build a projection of the last axis to attention heads, without a bias.

    Args:
      heads: number of heads.
      head_dim: features of a head.
      name: name of the module.
      source: logical name of the axis that is projected.
      dtype: dtype of computation and result; parameters are float32.

    Returns:
      A layer from "... c" to "... heads head_dim".
    """
    return nn.DenseGeneral(
        (heads, head_dim),
        use_bias=False,
        dtype=dtype,
        kernel_init=axes.partitioned(initializers.fan_in(axes=(0,)), (source, "heads", "head_dim")),
        name=name,
    )


def merge_heads(features: int, *, dtype: DTypeLike = "float32") -> nn.DenseGeneral:
    """Build the projection of all heads back to features, named "out"; it starts at zero.

    Args:
      features: width of the result.
      dtype: dtype of computation and result; parameters are float32.

    Returns:
      A layer from "... heads head_dim" to "... features".
    """
    return nn.DenseGeneral(
        features,
        axis=(-2, -1),
        use_bias=False,
        dtype=dtype,
        kernel_init=axes.partitioned(initializers.fan_in(0.0), ("heads", "head_dim", "embed")),
        name="out",
    )


class SpatialAttention(nn.Module):
    """Self-attention of the pixels of each frame, as a residual branch (without the sum)."""

    heads: int
    norm: str = "group"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Let the pixels of each frame see each other.

        Args:
          x: features, of a multiple of `heads` channels.

        Returns:
          The branch, without the sum; 0 before training.
        """
        b, t, h, w, c = x.shape
        y = norm(self.norm, x.shape[-1], name="norm", dtype=self.dtype)(x).reshape(b * t, h * w, c)
        q, k, v = _project(y, self.heads, c // self.heads, self.dtype)
        out = merge_heads(c, dtype=self.dtype)(attend(q, k, v))
        return out.reshape(x.shape)


class TemporalAttention(nn.Module):
    """Self-attention of each pixel over time, with relative positions, as a residual branch.

    Attributes:
      heads: number of heads.
      norm: kind of the normalisation before it.
      buckets: relative positions that have a bias of their own (`embeddings.relative_buckets`).
      dtype: dtype of the computation.
    """

    heads: int
    norm: str = "group"
    buckets: int = 32
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], independent_frames: Bool[Array, "b"]
    ) -> Float[Array, "b t h w c"]:
        """Let the frames at each pixel see each other.

        Args:
          x: features, of a multiple of `heads` channels.
          independent_frames: True of unrelated images, each of which sees itself alone.

        Returns:
          The branch, without the sum; 0 before training.
        """
        b, t, h, w, c = x.shape
        y = (
            norm(self.norm, x.shape[-1], name="norm", dtype=self.dtype)(x)
            .transpose(0, 2, 3, 1, 4)
            .reshape(b * h * w, t, c)
        )
        q, k, v = _project(y, self.heads, c // self.heads, self.dtype)
        bias = RelativeBias(self.heads, self.buckets, name="positions")(t).astype(q.dtype)
        out = attend(q, k, v, bias=bias, mask=frame_mask(independent_frames, t, h * w))
        out = merge_heads(c, dtype=self.dtype)(out)
        return out.reshape(b, h, w, t, c).transpose(0, 3, 1, 2, 4)


class TextAttention(nn.Module):
    """Cross-attention of every pixel to the text, as a residual branch."""

    heads: int
    norm: str = "group"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        text: Float[Array, "b *frames s d"],
        mask: Bool[Array, "b *frames s"],
    ) -> Float[Array, "b t h w c"]:
        """Let every pixel read the tokens of its clip, or of its frame.

        Args:
          x: features, of a multiple of `heads` channels.
          text: tokens that are normalised already: one prompt a clip, or one a frame.
          mask: True on real tokens.

        Returns:
          The branch, without the sum; 0 for a prompt without tokens.
        """
        b, t, h, w, c = x.shape
        head_dim = c // self.heads
        y = norm(self.norm, x.shape[-1], name="norm", dtype=self.dtype)(x)
        # One row a frame, also where all frames of a clip share a text: behind the frames, pixels
        # that are spread over devices by their height would have to be gathered.
        text, mask = _rows(text, 2), _rows(mask, 1)
        y = y.reshape(b * t, h * w, c)
        project = functools.partial(heads_of, self.heads, head_dim, source="text", dtype=self.dtype)
        q = heads_of(self.heads, head_dim, name="query", dtype=self.dtype)(y)
        k, v = project(name="key")(text), project(name="value")(text)
        out = attend(q, k, v, mask=mask[:, None, None, :])
        return merge_heads(c, dtype=self.dtype)(out).reshape(x.shape)


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of signed frame distance; zero at the start.

    Attributes:
      heads: attention heads.
      buckets: number of distances, or of ranges of distances, with a bias of their own.
      causal: whether all buckets belong to the past; what is ahead has then to be masked.
    """

    heads: int
    buckets: int = 32
    causal: bool = False

    @nn.compact
    def __call__(self, length: int, keys: int | None = None) -> Float[Array, "1 h {length} k"]:
        """Look up the biases of pairs of frames.

        Args:
          length: number of queries, which are the last of the frames.
          keys: number of frames; None is `length`.

        Returns:
          What is added to the logits of each head.
        """
        init = axes.partitioned(initializers.zeros, ("heads", "buckets"))
        table = self.param("bias", init, (self.heads, self.buckets), jnp.float32)
        keys = length if keys is None else keys
        index = embeddings.relative_buckets(
            length, keys, offset=keys - length, buckets=self.buckets, causal=self.causal
        )
        return jnp.asarray(table)[None, :, index]


class AttentionPool(nn.Module):
    """Pool each prompt to one vector by learned queries that attend to its tokens (Imagen).

    There may be a prompt for each clip or for each frame. The vector of a prompt without tokens is
    0, so that dropping a prompt drops this path too.

    Attributes:
      features: width of the vector.
      queries: learned queries.
      head_dim: features of a head.
      dtype: dtype of the computation.
    """

    features: int
    queries: int = 4
    head_dim: int = 64
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, text: Float[Array, "b *frames s d"], mask: Bool[Array, "b *frames s"]
    ) -> Float[Array, "b *frames {self.features}"]:
        """Pool the tokens of each prompt.

        Args:
          text: tokens that are normalised already.
          mask: True on real tokens.

        Returns:
          One vector a prompt; 0 for a prompt without tokens.
        """
        leading = mask.shape[:-1]
        text, mask = _rows(text, 2), _rows(mask, 1)
        # Unit variance, as keys have: logits then spread by 1, and heads differ from the start.
        init = axes.partitioned(initializers.normal(1.0), ("queries", "heads", "head_dim"))
        heads = max(1, self.features // self.head_dim)
        query = self.param("query", init, (self.queries, heads, self.head_dim), jnp.float32)
        query = jnp.broadcast_to(jnp.asarray(query, self.dtype), (len(text), *query.shape))
        project = functools.partial(heads_of, heads, self.head_dim, source="text", dtype=self.dtype)
        k = project(name="key")(text)
        v = project(name="value")(text)
        pooled = attend(query, k, v, mask=mask[:, None, None, :])
        pooled = pooled.reshape(len(text), self.queries * heads * self.head_dim)
        # Or the compiler lays the attention out like the next kernel, and gathers it all again.
        pooled = axes.constrain(pooled, "batch", "channels")
        names = ("embed", "cond")
        out = axes.dense(self.features, names, name="out", dtype=self.dtype, use_bias=False)
        return out(pooled).reshape(*leading, self.features)


def frame_mask(
    independent_frames: Bool[Array, "b"], frames: int, pixels: int
) -> Bool[Array, "n 1 {frames} {frames}"]:
    """Compute which frames see which, for attention that treats pixels as batch.

    Args:
      independent_frames: True of the clips whose frames are unrelated images.
      frames: number of frames of a clip.
      pixels: number of pixels of a frame; the mask has n = b · pixels rows.

    Returns:
      True where a frame (second to last axis) sees another: everywhere, or only on the diagonal.
    """
    itself = jnp.eye(frames, dtype=bool)
    mask = itself | ~independent_frames[:, None, None]
    return jnp.repeat(mask, pixels, axis=0)[:, None]


def _rows(x: Array, kept: int) -> Array:
    """Join all axes before the last `kept` ones."""
    return x.reshape(-1, *x.shape[x.ndim - kept :])


def _project(
    x: Float[Array, "n s c"], heads: int, head_dim: int, dtype: DTypeLike
) -> tuple[Array, Array, Array]:
    """Project to query, key and value heads."""
    return tuple(  # type: ignore[return-value]
        heads_of(heads, head_dim, name=name, dtype=dtype)(x) for name in ("query", "key", "value")
    )
