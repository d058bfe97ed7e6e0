"""Sets of clips to compare, and those of a data set; evals/stored_clips.py has those of files.

Every set tells how many clips it has, their one shape, and a fingerprint: equal fingerprints are
equal clips, so features of them can be kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vidgen import paths
from vidgen.data.source import BadExample, Example, Source
from vidgen.data.video import transforms
from vidgen.types import VideoShape


@runtime_checkable
class ClipSet(Protocol):
    """Clips of one shape."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def shape(self) -> VideoShape:
        """Of every clip."""
        ...

    @property
    def names(self) -> Sequence[str] | None:
        """What pairs clips of two sets; None: their numbers."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells other clips apart: 16 hex digits."""
        ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """A clip in [-1, 1], and its caption ("" where there is none)."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceClips:
    """Clips of a data set: all of it in an order of the seed, and again where `count` is more.

    Attributes:
      source: a data set whose examples are clips.
      count: how many.
      seed: of the order, and of all that is drawn for a clip.
    """

    source: Source
    count: int
    seed: int = 0
    names: None = None

    def __post_init__(self) -> None:
        if self.count < 1 or not len(self.source):
            raise ValueError(f"no clips to compare: {self.count} of {len(self.source)} examples.")

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.count} of {type(self.source).__name__}"

    @property
    def shape(self) -> VideoShape:
        """Of every clip."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """Of the settings of the source, and of its files as far as it lists them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(repr(self.source), _stored(self.source), self.count, self.seed)

    def __len__(self) -> int:
        return self.count

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(len(self.source))

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Clip and caption; the same for the same number, whatever else is read."""
        rng = np.random.default_rng((self.seed, number))
        try:
            example = self.source.load(int(self._order[number % len(self._order)]), rng)
        except BadExample as error:
            raise ValueError(f"{error}; take it out of the data set.") from error
        if not isinstance(example, Example):
            raise ValueError(f"{type(self.source).__name__} holds tokens; videos are compared.")
        return transforms.to_float(example.video), example.first_caption


def _stored(source: Source) -> list[Any]:
    """The files and captions that a source lists, and what tells a file that was replaced.

    Sizes and times stand for the content, which would take reading the whole data set.
    """
    listed = source.stored_files
    names = [entry if isinstance(entry, str) else entry[0] for entry in listed]
    return [(entry, paths.version(name)) for entry, name in zip(listed, names, strict=True)]


def digest(*parts: Any) -> str:
    """16 hex digits that tell other parts apart."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
