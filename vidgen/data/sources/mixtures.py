"""Several sources as one, drawn from at fixed rates.

    example i  =  example uniform(0, n_k) of source k,  k drawn with probability rate_k

Both draws are functions of the example's own random generator, so a mixture can be resumed and
spread over any number of processes like its parts. A source is drawn from with replacement: what
is left of a small one when a large one has been seen once is not a question then.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidgen.data.sources.folder import Example, Source, captions_of, captions_per_clip
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sources of one shape, mixed. With `images.Joint`, videos and images can be mixtures.

    One pass shows as many examples as all sources have together.

    Attributes:
      sources: what is mixed.
      rates: how often each is drawn from; they are divided by their sum. None takes the sizes of
        the sources, so that every example is as likely as any other.
    """

    sources: Sequence[Any]  # checked below, in words for users
    rates: Sequence[float | int] | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("Mixture.sources is empty; give one or more.")
        for number, source in enumerate(self.sources):
            if not isinstance(source, Source):
                raise ValueError(f"Mixture.sources[{number}] is {source!r}, which is no source.")
            if not len(source):
                raise ValueError(f"Mixture.sources[{number}] is empty: {source}.")
            if source.shape != self.shape:
                raise ValueError(
                    f"Mixture.sources[{number}] gives {source.shape} at {source.shape.fps:g} fps "
                    f"and the first {self.shape} at {self.shape.fps:g}; give all the same shape."
                )
        rates = self.rates
        if rates is not None and len(rates) != len(self.sources):
            raise ValueError(
                f"Mixture.rates has {len(rates)} numbers for {len(self.sources)} sources."
            )
        if rates is not None and (min(rates) < 0 or sum(rates) <= 0):
            raise ValueError(f"Mixture.rates is {tuple(rates)}; give numbers >= 0, not all 0.")

    @property
    def shape(self) -> VideoShape:
        """That of all the sources."""
        return self.sources[0].shape

    @property
    def captions_per_clip(self) -> int:
        """The most that any source has: batches of the others repeat theirs."""
        return max(captions_per_clip(source) for source in self.sources)

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def captions(self) -> Iterator[str]:
        """Those of one source after the other."""
        for source in self.sources:
            yield from captions_of(source)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """An example of a source that is drawn; `index` decides nothing but `rng`."""
        del index
        source = self.sources[int(np.searchsorted(self._shares, rng.random(), side="right"))]
        return source.load(int(rng.integers(len(source))), rng)

    @functools.cached_property
    def _shares(self) -> np.ndarray:
        """Cumulative probabilities; the last is just above 1, where no draw lands."""
        sizes = [len(source) for source in self.sources]
        rates = np.cumsum(np.asarray(sizes if self.rates is None else self.rates, np.float64))
        shares = rates / rates[-1]
        shares[shares >= 1] = 1.0
        return shares
