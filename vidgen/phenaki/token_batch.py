"""What the networks over tokens train on: the tokens of a batch, those that exist, and its text.

Where the "clip" is a set of images (`independent_frames`), its first frame alone is used: only the
tokens of the first time step exist (Phenaki B.3: of an image, loss on its own tokens only).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.diffusion.schedules import expand
from vidgen.model import TokenizerModel
from vidgen.types import Frozen, TextEmbedding, TokenBatch, VideoBatch, null_text_where

BATCHES = ("videos", "tokens")


def blank_tokens(
    batch: VideoBatch | TokenBatch, tokenizer: TokenizerModel
) -> Int[Array, "b gt gh gw"]:
    """Make tokens of the grid of a batch.

    Args:
      batch: a batch of tokens, or of videos that the tokenizer encodes.
      tokenizer: gives the grid of videos.

    Returns:
      Tokens 0, as many as the batch has.

    Raises:
      ValueError: no grid fits the videos.
    """
    if isinstance(batch, TokenBatch):
        return jnp.zeros(batch.tokens.shape, jnp.int32)
    return jnp.zeros((len(batch.video), *tokenizer.grid(*batch.video.shape[1:4])), jnp.int32)


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
