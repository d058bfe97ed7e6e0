"""The frame rate as a condition of a network."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.types import Conditioning


def at_rate(cond: Conditioning, fps: Float[Array, "b"] | None, own: float) -> Conditioning:
    """Give a network the frame rates of its clips.

    Args:
      cond: the conditioning without them.
      fps: frames per second of each clip; None where the data have none.
      own: the rate of the model's shape, which all clips then have.

    Returns:
      The conditioning with `fps`.
    """
    rates = jnp.full(cond.independent_frames.shape, own, jnp.float32)
    return cond.replace(fps=rates if fps is None else fps)
