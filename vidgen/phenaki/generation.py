"""Text, and whatever of the video is known already, to video.

    tokens = encode_known(video)        known where every pixel of a token is known
    tokens = sample(text, tokens)       MaskedVideoModel.sample_tokens
    video  = decode_known(tokens)       the known pixels put back as they were

Text to video, image to video, continuation, in between and inpainting differ in `known` alone
(Phenaki 2.2). What is not known must not be seen by the tokens of what is: the tokenizer is
causal, so the beginning of a clip does not see the rest; elsewhere each unknown pixel is filled
with the known one that is nearest in time, the earlier if there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vidgen.model import TokenizerModel
from vidgen.types import Known, OnStep, Params, Predict, VideoShape


def known_content(
    known: Known | None, shape: VideoShape, clips: int
) -> tuple[Float[Array, "b t h w c"], Bool[Array, "b t h w c"]]:
    """Spread known content over all pixels.

    Args:
      known: the content; None is a video of which nothing is known.
      shape: shape of a clip.
      clips: number of clips b.

    Returns:
      The known pixels, and True where a pixel is known. Their shapes do not depend on what is
      known, so the programs that read them are the same.
    """
    if known is None:
        video = jnp.zeros((clips, *shape.thwc))
        return video, jnp.zeros(video.shape, bool)
    video = jnp.broadcast_to(known.video, (clips, *shape.thwc))
    return video, jnp.broadcast_to(known.mask, video.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode_known(
    tokenizer: TokenizerModel, grid: tuple[int, int, int], params: Params, video: Array, mask: Array
) -> tuple[Int[Array, "b gt gh gw"], Bool[Array, "b gt gh gw"]]:
    """Encode known content.

    Args:
      tokenizer: the tokenizer.
      grid: grid of a clip's tokens, (time, rows, columns).
      params: the parameters of the tokenizer.
      video: the known pixels; others are not read.
      mask: True on known pixels.

    Returns:
      The tokens, and which of them are known in all their pixels.
    """
    return tokenizer.encode(params, filled(video, mask)), known_tokens(mask, grid)


@functools.partial(jax.jit, static_argnums=0)
def decode_known(
    tokenizer: TokenizerModel, params: Params, tokens: Array, video: Array, mask: Array
) -> Float[Array, "b t h w c"]:
    """Decode tokens to clips in [-1, 1], and put the known pixels back.

    Args:
      tokenizer: the tokenizer.
      params: the parameters of the tokenizer.
      tokens: all tokens of the clips, "b gt gh gw".
      video: the known pixels, "b t h w c"; others are not read.
      mask: True on known pixels, in the same shape.

    Returns:
      The clips, whose known pixels are those of `video` to the bit.
    """
    return jnp.where(mask, video, tokenizer.decode(params, tokens).astype(video.dtype))


def filled(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t h w c"]
) -> Float[Array, "b t h w c"]:
    """Fill in unknown pixels, so that the tokens of known ones see nothing unknown.

    Args:
      video: the known pixels; others are not read.
      mask: True on known pixels.

    Returns:
      `video` where `mask`; elsewhere the nearest known frame before, or else after; or else 0.
    """
    frames = video.shape[1]
    index = jnp.arange(frames)[None, :, None, None, None]
    before = jax.lax.cummax(jnp.where(mask, index, -1), axis=1)
    after = jax.lax.cummin(jnp.where(mask, index, frames), axis=1, reverse=True)
    source = jnp.where(before >= 0, before, after)
    nearest = jnp.take_along_axis(video, jnp.minimum(source, frames - 1), axis=1)
    return jnp.where(source < frames, nearest, 0.0)


def known_tokens(
    mask: Bool[Array, "b t h w c"], grid: tuple[int, int, int]
) -> Bool[Array, "b gt gh gw"]:
    """Mark the tokens all of whose pixels are known.

    Args:
      mask: True on known pixels.
      grid: grid of the tokens, (time, rows, columns); the first frame is a time step by itself.

    Returns:
      True on known tokens.
    """
    b, t, h, w, _ = mask.shape
    steps, rows, columns = grid
    inside = mask.all(-1).reshape(b, t, rows, h // rows, columns, w // columns).all((3, 5))
    if steps == 1:
        return inside[:, :1]
    rest = inside[:, 1:].reshape(b, steps - 1, (t - 1) // (steps - 1), rows, columns).all(2)
    return jnp.concatenate([inside[:, :1], rest], axis=1)


def decoded_steps(
    on_step: OnStep | None, decode: Callable[[Int[Array, "b *n"]], Array]
) -> OnStep | None:
    """Wrap a callback of decoding so that it gets clips in place of tokens.

    Args:
      on_step: the callback; a step is decoded only where it asks for the clips.
      decode: tokens to clips.

    Returns:
      The callback for `decoding.parallel_decode`; None for None.
    """
    if on_step is None:
        return None

    def step(done: int, steps: int, predict: Predict) -> None:
        on_step(done, steps, lambda: decode(predict()))

    return step
