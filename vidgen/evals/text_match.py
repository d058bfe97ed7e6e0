"""How well clips fit their captions, in the space of a network for both: score and R-precision.

    own      mean over frames of f(frame)·g(caption), unit vectors: a cosine, in [-1, 1]
    first    1 where the clip's own caption is nearer than that of every other clip, else 0

R-precision is the mean of `first` (Park et al. 2021); the other captions are all that there are,
so it depends on how many clips are compared, and of those with the same words none counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def matches(
    clips: Float[np.ndarray, "n d"] | Float[np.ndarray, "n t d"],
    texts: Float[np.ndarray, "n d"],
    captions: Sequence[str],
) -> dict[str, Float[np.ndarray, " n"]]:
    """{"own", "first"} of each clip.

    Args:
      clips: features of clips, or of their frames, of unit length.
      texts: features of their captions, of unit length.
      captions: the words.
    """
    clips = np.asarray(clips, np.float64)
    mean = clips if clips.ndim == 2 else clips.mean(1)
    _, firsts, mine = np.unique(np.asarray(captions), return_index=True, return_inverse=True)
    cosines = mean @ np.asarray(texts, np.float64)[firsts].T
    own = cosines[np.arange(len(mine)), mine]
    others = np.where(np.arange(len(firsts)) == mine[:, None], -np.inf, cosines)
    first = own > others.max(1) if len(firsts) > 1 else np.ones(len(mine), bool)
    return {"own": own, "first": first.astype(np.float64)}
