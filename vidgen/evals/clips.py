"""Sets of clips to compare: the protocol, and the clips of a data set.

A set has a number of clips of one shape, and a fingerprint: equal fingerprints mean equal clips,
so that measurements of them can be kept. `stored_clips.py` has the clips of folders and arrays,
`generated_clips.py` those that a model makes.
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
    """A set of clips of one shape."""

    @property
    def name(self) -> str:
        """A description for reports."""
        ...

    @property
    def shape(self) -> VideoShape:
        """The size of every clip."""
        ...

    @property
    def names(self) -> Sequence[str] | None:
        """Names by which clips of two sets are paired; None: clips are paired by their numbers."""
        ...

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that differ for different clips."""
        ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Read a clip and its caption.

        Args:
          number: the number of the clip, from 0.

        Returns:
          Frames in [-1, 1], and the caption ("" where there is none).
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceClips:
    """Clips of a data set, in an order drawn from the seed; repeated where `count` is larger.

    Attributes:
      source: a data set whose examples are clips.
      count: the number of clips.
      seed: the seed of the order, and of all that is drawn for a clip.
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
        """A description for reports."""
        return f"{self.count} of {type(self.source).__name__}"

    @property
    def shape(self) -> VideoShape:
        """The size of every clip."""
        return self.source.shape

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the settings of the source, and of its files as far as it lists them."""
        return digest(repr(self.source), _listed_files(self.source), self.count, self.seed)

    def __len__(self) -> int:
        return self.count

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(len(self.source))

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Read a clip and its caption, the same for the same number, whatever else is read.

        See `ClipSet.read`.

        Raises:
          ValueError: the file is damaged, or the data set holds tokens.
        """
        rng = np.random.default_rng((self.seed, number))
        try:
            example = self.source.load(int(self._order[number % len(self._order)]), rng)
        except BadExample as error:
            raise ValueError(f"{error}; take it out of the data set.") from error
        if not isinstance(example, Example):
            raise ValueError(f"{type(self.source).__name__} holds tokens; videos are compared.")
        return transforms.to_float(example.video), example.first_caption


def _listed_files(source: Source) -> list[Any]:
    """Return the files and captions that a source lists, with what tells that a file was replaced.

    Sizes and times stand for the content, which would take reading the whole data set.
    """
    listed = source.stored_files
    names = [entry if isinstance(entry, str) else entry[0] for entry in listed]
    return [(entry, paths.version(name)) for entry, name in zip(listed, names, strict=True)]


def digest(*parts: object) -> str:
    """Name a combination of things by a hash of their `repr`.

    Args:
      *parts: plain data, or settings whose `repr` says all that they hold.

    Returns:
      16 hexadecimal digits that differ for different parts.
    """
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
