"""Which combinations of subject, motion and background training never shows.

A triple (subject, motion, background) is held out where the first 8 bytes of
sha256("seed/subject/motion/background") over 2^64 fall below `held_out_fraction`. Where this would
leave a pair (or a single name) without any training triple, its triple with the largest hash
returns to training. So everything, and every pair, is seen in training; some triples never are.
(Not so where there is one name only for the third of a triple, as a pair then is a triple, nor at
a fraction of 1.)
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import NamedTuple

Triple = tuple[str, str, str]  # subject, motion, background


class Split(NamedTuple):
    """The triples of some names, split into those of training and all others.

    Attributes:
      train: those that training shows, in a fixed order.
      held_out: all others.
      seen: `train` as a set.
    """

    train: tuple[Triple, ...]
    held_out: tuple[Triple, ...]
    seen: frozenset[Triple]


def _hash(seed: int, triple: Triple) -> float:
    text = "/".join((str(seed), *triple))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@functools.lru_cache(maxsize=64)
def split(
    subjects: tuple[str, ...],
    motions: tuple[str, ...],
    backgrounds: tuple[str, ...],
    fraction: float,
    seed: int,
) -> Split:
    """Split all triples of these names; see the module's docstring.

    Args:
      subjects: names of sprites.
      motions: names of motions.
      backgrounds: names of colors.
      fraction: the share of triples to hold out, from 0 to 1.
      seed: seed of the choice.

    Returns:
      The triples of training and those that are held out, in a fixed order; every triple is in one
      of the two.
    """
    axes = (subjects, motions, backgrounds)
    score = {triple: _hash(seed, triple) for triple in itertools.product(*axes)}
    train = {triple for triple, value in score.items() if value >= fraction}
    keys = [(axis,) for axis in range(3)]
    # a pair can be covered and still leave something to hold out only if the third axis varies
    keys += [(i, j) for i, j in ((0, 1), (0, 2), (1, 2)) if len(axes[3 - i - j]) > 1]
    for key in keys if fraction < 1 else ():
        best: dict[tuple[str, ...], Triple] = {}
        for triple in score:
            group = tuple(triple[axis] for axis in key)
            if group not in best or score[triple] > score[best[group]]:
                best[group] = triple
        train.update(best.values())
    chosen = tuple(triple for triple in score if triple in train)
    others = tuple(triple for triple in score if triple not in train)
    return Split(chosen, others, frozenset(chosen))
