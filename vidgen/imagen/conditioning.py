"""What a stage is told besides its noisy video: the text, and for later stages a smaller video.

Dropping the text for classifier-free guidance zeroes the tokens *and* the mask, so the
cross-attention and the pooled vector both lose it (Imagen).
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vidgen.types import Conditioning, TextEmbedding, VideoBatch, null_text


@runtime_checkable
class Conditioner(Protocol):
    """How a stage makes its training target and its conditioning."""

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """The clean video to learn, and what the network is told."""
        ...

    def for_sampling(
        self,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        text: TextEmbedding,
        keys: Key[Array, "b"],
    ) -> Conditioning:
        """What the network is told when it generates."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoLowRes:
    """The base stage: text alone."""

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """The batch's own video, conditioned on its text."""
        del key
        return batch.video, Conditioning(
            text=batch.text, independent_frames=batch.independent_frames
        )

    def for_sampling(
        self,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        text: TextEmbedding,
        keys: Key[Array, "b"],
    ) -> Conditioning:
        """The text; a low-resolution video is refused."""
        del keys
        if low_res is not None:
            raise ValueError("the base stage takes no low-resolution video; start at a later one.")
        video = jnp.zeros(text.mask.shape[:1], bool)
        return Conditioning(text=text, independent_frames=video)


def drop_text(text: TextEmbedding, dropped: Bool[Array, "b"]) -> TextEmbedding:
    """`text` with the null prompt where `dropped`."""

    def pick(null: Array, kept: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (kept.ndim - 1)), null, kept)

    return jax.tree.map(pick, null_text(text), text)
