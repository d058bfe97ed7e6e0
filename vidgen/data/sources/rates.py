"""Clips at several frame rates, each example told its own, for models that are told it too.

    rate k    drawn evenly with the example's own random generator
    clip      as many frames as ever, cut at that rate: fewer a second cover more time

A model with `fps_condition` reads the rate (models/imagen/fps.gin).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidgen.data.source import Example, Source
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates(Source):
    """Another source at frame rates that are drawn.

    Attributes:
      source: a source of videos, with a shape of its own. Sprites show the same whatever the rate
        is, unless `Sprites.duration` gives their scenes a length in time.
      fps: the rates, in frames per second.
      shape: that of `source`.
    """

    source: Any  # a Source; the check below tells users more than a type error would
    fps: Sequence[float]
    shape: VideoShape = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.fps or not all(0 < rate < float("inf") for rate in self.fps):
            raise ValueError(f"Rates.fps is {tuple(self.fps)}; give one positive rate or more.")
        if not _has_own_shape(self.source):
            raise ValueError(
                f"Rates.source is a {type(self.source).__name__}; give one source with a shape of "
                "its own, no mixture of several."
            )
        object.__setattr__(self, "shape", self.source.shape)
        _ = self._at_rates  # clips that a rate makes impossible are told of now

    @functools.cached_property
    def _at_rates(self) -> tuple[Source, ...]:
        """The source at each rate."""
        shapes = (dataclasses.replace(self.shape, fps=float(rate)) for rate in self.fps)
        return tuple(dataclasses.replace(self.source, shape=shape) for shape in shapes)

    @property
    def captions_per_clip(self) -> int:
        """As many as the source has."""
        return self.source.captions_per_clip

    @property
    def stored_files(self) -> Sequence[Any]:
        """The files of the source."""
        return self.source.stored_files

    def __len__(self) -> int:
        return len(self.source)

    def captions(self) -> Iterator[str]:
        """List the captions of the source; see `Source.captions`."""
        return self.source.captions()

    def for_evaluation(self, shape: VideoShape) -> Source:
        """Return what the source gives to evaluations, at one rate; see `Source.for_evaluation`."""
        return self.source.for_evaluation(shape)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Load an example at a rate that is drawn, and say the rate; see `Source.load`."""
        source = self._at_rates[int(rng.integers(len(self.fps)))]
        example: Any = source.load(index, rng)
        return dataclasses.replace(example, fps=source.shape.fps)


def _has_own_shape(source: object) -> bool:
    """Whether it is a source that a shape makes another of, unlike a mixture of sources."""
    fields: Any = getattr(source, "__dataclass_fields__", {})
    return isinstance(source, Source) and "shape" in fields and fields["shape"].init
