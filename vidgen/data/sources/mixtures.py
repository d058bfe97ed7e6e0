"""Several sources as one, drawn from at fixed rates.

    example i  =  example uniform(0, n_k) of source k,  k drawn with probability rate_k

Both draws are functions of the example's own random generator, so a mixture can be resumed and
spread over any number of processes like its parts. Sources are drawn from with replacement, so a
small one is never used up before a large one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidgen.data.source import Example, Source, TokenExample
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Source):
    """Sources of one shape, mixed. With `images.Joint`, videos and images can be mixtures.

    One pass shows as many examples as all sources have together.

    Attributes:
      sources: the sources to mix.
      rates: how often each is drawn from, >= 0; they are divided by their sum. None takes the sizes
        of the sources, so that every example is as likely as any other.
      shape: the shape that all sources have.
    """

    sources: Sequence[Any]  # of Source; the check below tells users more than a type error would
    rates: Sequence[float | int] | None = None
    shape: VideoShape = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("Mixture.sources is empty; give one or more.")
        for number, source in enumerate(self.sources):
            if not isinstance(source, Source):
                raise ValueError(f"Mixture.sources[{number}] is {source!r}, which is no source.")
            if not len(source):
                raise ValueError(f"Mixture.sources[{number}] is empty: {source}.")
            first = self.sources[0].shape
            if source.shape != first:
                raise ValueError(
                    f"Mixture.sources[{number}] gives {source.shape} at {source.shape.fps:g} fps "
                    f"and the first {first} at {first.fps:g}; give all the same shape."
                )
        object.__setattr__(self, "shape", self.sources[0].shape)
        rates = self.rates
        if rates is not None and len(rates) != len(self.sources):
            raise ValueError(
                f"Mixture.rates has {len(rates)} numbers for {len(self.sources)} sources."
            )
        if rates is not None and (min(rates) < 0 or sum(rates) <= 0):
            raise ValueError(f"Mixture.rates is {tuple(rates)}; give numbers >= 0, not all 0.")

    @property
    def captions_per_clip(self) -> int:
        """The most that any source has; batches of the others repeat theirs."""
        return max(source.captions_per_clip for source in self.sources)

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def captions(self) -> Iterator[str]:
        """List the captions of one source after the other; see `Source.captions`."""
        for source in self.sources:
            yield from source.captions()

    def for_evaluation(self, shape: VideoShape) -> Source:
        """Mix what the sources give to evaluations; see `Source.for_evaluation`."""
        sources = tuple(source.for_evaluation(shape) for source in self.sources)
        return dataclasses.replace(self, sources=sources)

    def load(self, index: int, rng: np.random.Generator) -> Example | TokenExample:
        """Load an example of a source that is drawn; see `Source.load`.

        `rng` draws both the source and its example; `index` is not used.
        """
        del index
        source = self.sources[int(np.searchsorted(self._shares, rng.random(), side="right"))]
        return source.load(int(rng.integers(len(source))), rng)

    @functools.cached_property
    def _shares(self) -> np.ndarray:
        """The cumulative probabilities of the sources; the last is 1, which no draw reaches."""
        sizes = [len(source) for source in self.sources]
        rates = np.cumsum(np.asarray(sizes if self.rates is None else self.rates, np.float64))
        return rates / rates[-1]
