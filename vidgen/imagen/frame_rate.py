"""The frame rate as a condition of a network."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.types import Conditioning


def at_rate(cond: Conditioning, fps: Float[Array, "b"] | None, own: float) -> Conditioning:
    """Tell a network the rates of its clips: `own`, that of its shape, where there are none."""
    rates = jnp.full(cond.independent_frames.shape, own, jnp.float32)
    return cond.replace(fps=rates if fps is None else fps)
