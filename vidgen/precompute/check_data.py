"""What a data set holds, read as training reads it: `vidgen check`.

Every example goes through its source's own `load`, so what is refused here is what training skips,
for the same reason. Lengths, sizes and rates are those of the files.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from vidgen.data.source import BadExample, Example, Source, Stream
from vidgen.data.video.files import Probed, probe
from vidgen.data.video.transforms import to_float
from vidgen.progress import progress_bar
from vidgen.types import TextEncoder, VideoShape

CLIPS = 1000  # [guess] minutes of reading; damage that is frequent shows
SHOWN = 16
_SIDE = 96  # [guess] pixels of the longer side of a frame that is shown
_THREADS = 8  # decoding leaves Python's lock, and stores answer slowly

NO_CLIP = (1, 1, 1)  # frames, height and width of runs/check.gin, which no experiment has changed

Facts = dict[str, Any]
T = TypeVar("T")


class Shown(NamedTuple):
    """An example for people to look at: its caption, and its frames in [-1, 1]."""

    caption: str
    video: Float[np.ndarray, "t h w c"]


class _Loaded(NamedTuple):
    """What one example turned out to be."""

    captions: tuple[str, ...] = ()
    images: bool = False
    refused: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckData:
    """A look at all examples of a source, or at some, evenly spread.

    Attributes:
      source: the data; its shape is that of a clip in training.
      text_encoder: says how much of a caption is read; None: not known.
      clips: how many examples are read; 0 is all.
      seed: the seed of where the clips begin.
      known: what `probed` returned before, which then is not looked up again.
    """

    source: Any  # a Source; the check below tells users more than a type error would
    text_encoder: TextEncoder | None = None
    clips: int = CLIPS
    seed: int = 0
    known: Mapping[int, Probed | None] | None = None

    def __post_init__(self) -> None:
        source: object = self.source
        if isinstance(source, Stream):
            raise ValueError(
                f"a {type(source).__name__} is read in order alone; what can be checked is read in "
                "any order."
            )
        if not isinstance(source, Source):
            raise ValueError(f"CheckData.source is {source!r}; name a DATA_DIR or a data/ file.")
        if self.clips < 0:
            raise ValueError(f"--clips is {self.clips}; it must be 0, which is all, or more.")

    def probed(self) -> Mapping[int, Probed | None]:
        """Look up length, rate and size of the files.

        Returns:
          By the number of the example; None: there is no file, or it is damaged.
        """
        if self.known is not None:
            return self.known
        numbers = self._numbers()
        return dict(zip(numbers, self._each(self._probe, numbers, "looking"), strict=True))

    def __call__(self) -> Facts:
        """Read the examples, and find out what they are.

        Returns:
          Plain data that JSON can hold.
        """
        numbers = self._numbers()
        files = [file for file in self.probed().values() if file is not None]
        loaded = list(self._each(self._load, numbers, "reading"))
        sizes = collections.Counter(f"{file.height}x{file.width}" for file in files)
        refused = [one.refused for one in loaded if one.refused is not None]
        shape, encoder = self.source.shape, self.text_encoder
        length = None if encoder is None else encoder.length
        return {
            "source": type(self.source).__name__,
            "examples": len(self.source),
            "read": len(numbers),
            "usable": len(numbers) - len(refused),
            "image_packs": sum(one.images for one in loaded),
            "seconds": summary([file.seconds for file in files]),
            "fps": summary([file.fps for file in files]),
            "sizes": dict(sizes.most_common()),
            "captions": caption_facts(self._captions(loaded), length),
            "refused": [{"file": name, "why": why} for name, why in refused],
            "left_out": [{"file": name, "why": why} for name, why in self.source.left_out()],
            "clip": {"frames": shape.frames, "height": shape.height, "width": shape.width}
            | {"fps": shape.fps},
        }

    def shown(self) -> list[Shown]:
        """Read clips for a picture: those of training, in more pixels, evenly spread.

        Returns:
          At most 16 of them; others take the place of those that are refused.
        """
        shape = self.source.shape
        factor = max(1.0, _SIDE / max(shape.height, shape.width))
        larger = dataclasses.replace(
            shape, height=round(shape.height * factor), width=round(shape.width * factor)
        )
        source, count = of_shape(self.source, larger), len(self.source)
        clips: list[Shown] = []
        # A few more than are wanted, in the place of those that are refused.
        for number in _spread(count, min(count, 4 * SHOWN)):
            if len(clips) == SHOWN:
                break
            try:
                example = source.load(number, self._rng(number))
            except BadExample:
                continue
            if isinstance(example, Example):
                clips.append(Shown(example.first_caption, to_float(example.video)))
        return clips

    def _numbers(self) -> list[int]:
        count = len(self.source)
        return _spread(count, min(self.clips or count, count))

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])

    def _each(self, act: Callable[[int], T], numbers: Sequence[int], what: str) -> Iterator[T]:
        with (
            futures.ThreadPoolExecutor(_THREADS) as pool,
            progress_bar(len(numbers), desc=what, unit=" clips") as progress,
        ):
            for one in pool.map(act, numbers):
                progress.update()
                yield one

    def _probe(self, number: int) -> Probed | None:
        try:
            stored = self.source.file(number)
            return None if stored is None else probe(stored)
        except BadExample:  # loading it says why
            return None

    def _load(self, number: int) -> _Loaded:
        try:
            example = self.source.load(number, self._rng(number))
        except BadExample as error:
            return _Loaded(refused=(error.path, error.reason))
        if isinstance(example.caption, str):
            return _Loaded(captions=example.captions or (example.caption,))
        return _Loaded(captions=example.caption, images=True)

    def _captions(self, loaded: Iterable[_Loaded]) -> list[str]:
        """Return all captions, or those of the examples that were read where none can be listed."""
        try:
            return list(self.source.captions())
        except ValueError:
            return [text for one in loaded for text in one.captions]


def of_shape(source: Source, shape: VideoShape) -> Source:
    """Return a source with clips of another shape; it does not look for its files again.

    Args:
      source: the data.
      shape: the shape of the clips.

    Returns:
      A copy, which shares what the source knows of its files.
    """
    if type(source).for_evaluation is not Source.for_evaluation:  # it is made of others
        return source.for_evaluation(shape)
    other = copy.copy(source)
    object.__setattr__(other, "shape", shape)
    return other


def _spread(count: int, wanted: int) -> list[int]:
    """Return so many numbers of 0 ... count - 1, evenly spread, each once."""
    return [number * count // wanted for number in range(wanted)]


def summary(values: Sequence[float | int]) -> dict[str, float] | None:
    """Summarize numbers in a few.

    Args:
      values: one for each file.

    Returns:
      The least, the median, the most, the sum, and what 95 % reach; None of no value.
    """
    if not values:
        return None
    ordered = sorted(map(float, values))
    return {
        "least": ordered[0],
        "reached_by_95_percent": ordered[int(0.05 * len(ordered))],
        "median": float(statistics.median(ordered)),
        "most": ordered[-1],
        "sum": float(sum(ordered)),
    }


def caption_facts(texts: Sequence[str], text_length: int | None = None) -> Facts:
    """Count captions, their words, and how many are the same.

    Args:
      texts: the texts of all examples; "" where there is none.
      text_length: tokens that are read of one; a word has one at least, and two are its ends. None:
        not known.

    Returns:
      Plain data; "cut" is how many are longer than what is read.
    """
    there = [text for text in texts if text]
    counts = collections.Counter(there)
    words = [len(text.split()) for text in there]
    read = None if text_length is None else max(1, text_length - 2)
    return {
        "count": len(there),
        "empty": len(texts) - len(there),
        "different": len(counts),
        "most_frequent": dict(counts.most_common(3)),
        "words": summary(words),
        "tokens_read": text_length,
        "cut": None if read is None else sum(number > read for number in words),
    }


def grouped(refused: Sequence[Mapping[str, str]]) -> list[tuple[str, list[Mapping[str, str]]]]:
    """Group refusals by what they begin with, before any number or name.

    Args:
      refused: {"file", "why"} of each.

    Returns:
      (beginning, refusals) pairs, the largest group first.
    """
    groups: dict[str, list[Mapping[str, str]]] = {}
    for one in refused:
        groups.setdefault(one["why"].partition(":")[0].partition("(")[0].strip(), []).append(one)
    return sorted(groups.items(), key=lambda item: -len(item[1]))
