"""What the networks over tokens train on: the tokens of a batch, those that exist, and its text.

Where the "clip" is a set of images (`independent_frames`), its first frame alone is used: only the
tokens of the first time step exist (Phenaki B.3: of an image, loss on its own tokens only).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.diffusion.schedules import expand
from vidgen.model import TokenizerModel
from vidgen.types import (
    Frozen,
    TextEmbedding,
    TokenBatch,
    VideoBatch,
    VideoShape,
    null_text_where,
)

BATCHES = ("videos", "tokens")


def spec_of(
    batches: str,
    batch_size: int,
    *,
    shape: VideoShape,
    grid: tuple[int, int, int],
    text: tuple[int, int],
    captions_per_clip: int = 1,
) -> VideoBatch | TokenBatch:
    """Describe a training batch.

    Args:
      batches: "videos" or "tokens".
      batch_size: number of examples b.
      shape: shape of a clip.
      grid: grid of its tokens, (time, rows, columns).
      text: number of tokens s of a prompt, and their width d.
      captions_per_clip: number of captions of a clip, one for each frame where there are several.

    Returns:
      A batch of ShapeDtypeStructs.
    """
    spec: Any = jax.ShapeDtypeStruct  # stands for the arrays
    lead = (batch_size,) if captions_per_clip == 1 else (batch_size, captions_per_clip)
    texts = TextEmbedding(
        tokens=spec((*lead, *text), jnp.float32), mask=spec((*lead, text[0]), jnp.bool_)
    )
    independent = spec((batch_size,), jnp.bool_)
    if batches == "tokens":
        tokens = spec((batch_size, *grid), jnp.int32)
        return TokenBatch(tokens=tokens, text=texts, independent_frames=independent)
    video = spec((batch_size, *shape.thwc), jnp.float32)
    return VideoBatch(video=video, text=texts, independent_frames=independent)


def grid_of(batch: VideoBatch | TokenBatch, tokenizer: TokenizerModel) -> tuple[int, ...]:
    """Find the grid of a batch's tokens.

    Args:
      batch: a batch of tokens, or of videos that the tokenizer encodes.
      tokenizer: gives the grid of videos.

    Returns:
      (time, rows, columns).

    Raises:
      ValueError: no grid fits the videos.
    """
    if isinstance(batch, TokenBatch):
        return batch.tokens.shape[1:]
    return tokenizer.grid(*batch.video.shape[1:4])


def tokens_of(
    batch: VideoBatch | TokenBatch, tokenizer: TokenizerModel, frozen: Frozen
) -> tuple[Int[Array, "b gt gh gw"], Bool[Array, "b gt gh gw"]]:
    """Find or make the tokens of a batch.

    Args:
      batch: tokens, or videos, which are encoded.
      tokenizer: encodes the videos.
      frozen: the parameters of the tokenizer, by the name "tokenizer".

    Returns:
      The tokens, and which of them exist; elsewhere the token is 0.
    """
    if isinstance(batch, TokenBatch):
        tokens = batch.tokens
    else:
        tokens = jax.lax.stop_gradient(tokenizer.encode(frozen["tokenizer"], batch.video))
    first = (jnp.arange(tokens.shape[1]) == 0)[None, :, None, None]
    valid = jnp.broadcast_to(first | ~expand(batch.independent_frames, tokens), tokens.shape)
    return jnp.where(valid, tokens.astype(jnp.int32), 0), valid


def clip_text(text: TextEmbedding) -> TextEmbedding:
    """Reduce captions to one prompt a clip: where each frame has one, that of the first.

    Args:
      text: one prompt a clip, or one a frame.

    Returns:
      One prompt a clip.
    """
    if text.mask.ndim == 2:
        return text
    return TextEmbedding(tokens=text.tokens[:, 0], mask=text.mask[:, 0])


def drop_text(
    key: Key[Array, ""], text: TextEmbedding, rate: float
) -> tuple[TextEmbedding, Bool[Array, "b"]]:
    """Drop the text of a share of the examples, for classifier-free guidance.

    Args:
      key: draws the examples.
      text: the text of the batch.
      rate: the share.

    Returns:
      One prompt a clip, null where the text is dropped; and where it is.
    """
    text = clip_text(text)
    dropped = jax.random.bernoulli(key, rate, text.mask.shape[:1])
    return null_text_where(dropped, text), dropped


def mean_where(
    values: Float[Array, "b *x"] | Bool[Array, "b *x"], counted: Bool[Array, "b *x"]
) -> Float[Array, "b"]:
    """Average each example over the positions that count.

    Args:
      values: numbers or flags at the positions.
      counted: True where a position counts.

    Returns:
      The mean of each example; 0 where no position counts.
    """
    axes = tuple(range(1, values.ndim))
    total = jnp.sum(jnp.where(counted, values, 0), axis=axes, dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(counted, axis=axes), 1)
