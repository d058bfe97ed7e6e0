"""Text, and whatever of the video is known already, to video.

    tokens = encode(known video)        known where every pixel of a token is known
    tokens = sample(text, tokens)       phenaki/decoding.py
    video  = decode(tokens),            the known pixels put back as they were

Text to video, image to video, continuation, in between and inpainting differ in `known` alone
(Phenaki sec. 2.2). What is not known must not be seen by the tokens of what is: the tokenizer is
causal, so the beginning of a clip does not see the rest; elsewhere each unknown pixel is filled
with the known one that is nearest in time, the earlier if there is one.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.model import OnStep, TokenizerModel
from vidgen.types import Known, Params, TextEmbedding, TextMix, VideoShape


def generate(
    model: Any,
    params: Params,
    text: TextEmbedding | TextMix,
    keys: Key[Array, "b"],
    *,
    on_step: OnStep | None = None,
    known: Known | None = None,
) -> Float[Array, "b t h w c"]:
    """Videos for `text`, in [-1, 1]; each depends on its own text, key and known content alone.

    The programs are the same whatever is known, and whether anything is.

    Args:
      model: a `MaskedVideoModel`.
      params: {"maskgit": of its network, "tokenizer": of its tokenizer}.
      text: one prompt a clip, or two of which the logits are mixed.
      keys: one a clip.
      on_step: told of (steps done, steps) after every step.
      known: content that comes out unchanged.
    """
    if known is None:
        known = unknown(model.shape, len(keys))
    video = jnp.broadcast_to(known.video, (len(keys), *model.shape.thwc))
    mask = jnp.broadcast_to(known.mask, video.shape)
    tokens, kept = _encoded(model.tokenizer, model.grid, params["tokenizer"], video, mask)
    tokens = model.sample_tokens(params["maskgit"], text, tokens, kept, keys, on_step=on_step)
    return _decoded(model.tokenizer, params["tokenizer"], tokens, video, mask)


def unknown(shape: VideoShape, clips: int) -> Known:
    """Nothing is known of so many clips."""
    video = jnp.zeros((clips, *shape.thwc))
    return Known(video=video, mask=jnp.zeros(video.shape, bool))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encoded(
    tokenizer: TokenizerModel, grid: tuple[int, int, int], params: Params, video: Array, mask: Array
) -> tuple[Int[Array, "b gt gh gw"], Bool[Array, "b gt gh gw"]]:
    """The tokens of what is known, and which of them are known in all their pixels."""
    return tokenizer.encode(params, filled(video, mask)), known_tokens(mask, grid)


@functools.partial(jax.jit, static_argnums=0)
def _decoded(
    tokenizer: TokenizerModel, params: Params, tokens: Array, video: Array, mask: Array
) -> Float[Array, "b t h w c"]:
    """The video of the tokens, with the known pixels as they were."""
    return jnp.where(mask, video, tokenizer.decode(params, tokens).astype(video.dtype))


def filled(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t h w c"]
) -> Float[Array, "b t h w c"]:
    """`video` where `mask`; elsewhere the nearest known frame before, or after; 0 without any."""
    frames = video.shape[1]
    index = jnp.arange(frames)[None, :, None, None, None]
    before = jax.lax.cummax(jnp.where(mask, index, -1), axis=1)
    after = jax.lax.cummin(jnp.where(mask, index, frames), axis=1, reverse=True)
    source = jnp.where(before >= 0, before, after)
    found = jnp.take_along_axis(video, jnp.minimum(source, frames - 1), axis=1)
    return jnp.where(source < frames, found, 0.0)


def known_tokens(
    mask: Bool[Array, "b t h w c"], grid: tuple[int, int, int]
) -> Bool[Array, "b gt gh gw"]:
    """True on the tokens all of whose pixels are known; the first frame is a time step itself."""
    b, t, h, w, _ = mask.shape
    steps, rows, columns = grid
    inside = mask.all(-1).reshape(b, t, rows, h // rows, columns, w // columns).all((3, 5))
    if steps == 1:
        return inside[:, :1]
    rest = inside[:, 1:].reshape(b, steps - 1, (t - 1) // (steps - 1), rows, columns).all(2)
    return jnp.concatenate([inside[:, :1], rest], axis=1)
