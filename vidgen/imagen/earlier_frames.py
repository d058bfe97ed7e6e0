"""Trained frame conditioning: a base model that is shown the frames from which its clip goes on.

    training    at a rate, the first k ~ U{1, ..., K} frames of a clip are shown, else none
    sampling    the known frames at the beginning of a clip are shown, at most K
    network     [z, the frames shown, 1 where a frame is shown]  on channels, 0 elsewhere

So one network begins videos and continues them, chunk after chunk (masked conditional video
diffusion, 2205.09853; 2205.11495). What is known comes out unchanged as with any other base
(diffusion/known.py), whose clips hear of it through noisy z alone. Frames that are shown have no
loss: sampling never asks for them. Images that are packed into a clip are shown none.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vidgen import checks
from vidgen.diffusion import known as known_content
from vidgen.diffusion.schedules import expand
from vidgen.imagen.conditioning import NoLowRes
from vidgen.types import Conditioning, Known, VideoBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlierFrames(NoLowRes):
    """The conditioner of a base stage that continues clips: text, and the frames before.

    Attributes:
      frames: K, the most frames that are shown. [guess] Half of the tiny model's clip: a chunk then
        adds as much as it goes on from.
      rate: share of the training examples that are shown frames; 2205.09853 takes one half.
    """

    frames: int = 4
    rate: float = 0.5

    def __post_init__(self) -> None:
        checks.at_least(self, frames=1)
        checks.share(self, "rate")

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """Return clips, and the frames of them that are shown; see `Conditioner.for_training`.

        Raises:
          ValueError: a clip has no more frames than may be shown.
        """
        size, t = batch.video.shape[:2]
        if self.frames >= t:
            raise ValueError(
                f"EarlierFrames.frames is {self.frames}, and a clip has {t}: show at most {t - 1}, "
                "so that something is left to make."
            )
        rate_key, count_key = jax.random.split(key)
        count = jax.random.randint(count_key, (size,), 1, self.frames + 1)
        shown = jax.random.bernoulli(rate_key, self.rate, (size,)) & ~batch.independent_frames
        known = (jnp.arange(t) < count[:, None]) & shown[:, None]
        x, cond = super().for_training(batch, key)
        return x, _showing(cond, x, known)

    def with_known(
        self, cond: Conditioning, known: Known | None, shape: tuple[int, int, int, int]
    ) -> Conditioning:
        """Show the known frames that a clip begins with, at most K; pixels are not shown.

        Args:
          cond: the conditioning without them.
          known: what the clips must have; None shows nothing.
          shape: (t, h, w, c) of the clips.

        Returns:
          The conditioning with the frames in `low_res` and a mask of them in `known_frames`.

        Raises:
          ValueError: the known content does not fit the clips.
        """
        whole = (len(cond.independent_frames), *shape)
        if known is None:
            return _showing(cond, jnp.zeros(whole), jnp.zeros(whole[:2], bool))
        known_content.check(known, whole)
        frames = jnp.all(jnp.broadcast_to(known.mask, whole), axis=(2, 3, 4))
        beginning = jnp.cumprod(frames, axis=1).astype(bool)
        limit = min(self.frames, shape[0] - 1)
        video = jnp.asarray(known.video)
        return _showing(cond, video, beginning & (jnp.arange(shape[0]) < limit))

    def of_new_frames(
        self, square: Float[Array, "b t h w c"], cond: Conditioning
    ) -> Float[Array, "b t h w c"]:
        """Weight squared errors so that their mean is that over the frames that are not shown.

        Args:
          square: squared errors of the output.
          cond: the conditioning, for the frames that are shown.

        Returns:
          The errors, 0 in frames that are shown, and more than they were in the others.
        """
        assert cond.known_frames is not None
        new = ~cond.known_frames
        share = new / jnp.mean(new, axis=1, keepdims=True)
        return square * expand(share, square)


def _showing(
    cond: Conditioning, video: Float[Array, "b t h w c"], known: Bool[Array, "b t"]
) -> Conditioning:
    """Condition on the frames of a video that are known."""
    return cond.replace(low_res=jnp.where(expand(known, video), video, 0), known_frames=known)
