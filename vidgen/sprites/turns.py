"""When does a film of a sprite change: its motion, or its picture?

A motion changes at frame n where the move from frame n - 1 to frame n is the first of another one.
Near the planned frame the states s of the sprite (probe.Followed) are fitted, for all h, by

    s(k) = s(h) + before * min(k - h, 0) + after * max(k - h, 0)

and the best h + 1 is that frame, unless `before` and `after` are alike. A picture changes where two
frames differ far more than those around them do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

REACH = 6  # frames on both sides of the planned one to look at
_STANDS_OUT = 3.0  # times the median difference of neighboring frames
_LEAST_CUT = 0.03  # mean difference in [-1, 1]: more than a sprite of half the canvas in motion


def motion_change(
    states: Float[np.ndarray, "t d"], planned: int, least: float, *, reach: int = REACH
) -> int | None:
    """The frame that shows the first move of another motion.

    Args:
      states: where and how large the sprite is in each frame of the film.
      planned: frame near which to look.
      least: smallest change of velocity (per frame, along any axis) that counts.
      reach: frames on either side.

    Returns:
      The number of the frame; None where the sprite just goes on.
    """
    first, last = max(0, planned - reach), min(len(states), planned + reach)
    window = states[first:last]
    k, fits = np.arange(len(window)), []
    for h in range(1, len(window) - 1):
        shape = np.stack([np.ones(len(k)), np.minimum(k - h, 0), np.maximum(k - h, 0)], axis=1)
        weights = np.linalg.lstsq(shape, window, rcond=None)[0]
        error = float(np.sum((window - shape @ weights) ** 2))
        fits.append((error, h, float(np.abs(weights[2] - weights[1]).max())))
    if not fits:
        return None
    _, h, change = min(fits)
    return first + h + 1 if change >= least else None


def picture_change(
    video: Float[np.ndarray, "t h w c"], planned: int, *, reach: int = REACH
) -> int | None:
    """The first frame of another picture, near the planned one; None where there is none."""
    first, last = max(0, planned - reach), min(len(video), planned + reach)
    if last - first < 3:
        return None
    differences = np.abs(np.diff(video[first:last], axis=0)).mean(axis=(1, 2, 3))
    top = int(differences.argmax())
    stands_out = differences[top] > _STANDS_OUT * float(np.median(differences))
    return first + top + 1 if stands_out and differences[top] > _LEAST_CUT else None
