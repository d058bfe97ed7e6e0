"""From a source to batches: shuffled, repeated, sharded, resumable.

Global position i = 0, 1, 2, ... means: example `order(i)` of the source, loaded with random
generator number i of the seed. `order` runs through a fresh permutation in every pass. Batch n of
size B is the positions nB, ..., nB + B - 1, and process p of P loads the p-th block of each, so the
processes together make the batches of one, in its order. Worker processes only compute positions
ahead of time: numbers and order are those of workers=0.

Where a run is in the data is a position, and nothing else: any number of processes and workers can
go on from it. Bad examples are dropped here, in the main process, so that each is reported once
whatever the number of workers; the process that drops one takes the next of its own in its place. A
`Stream` (data/sources/streams.py) has an order of its own, and reads ahead by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epy

from vidgen.data.positions import Blocks, Indexed
from vidgen.data.source import BadExample, Dataset, Example, Source, Stream, TokenExample
from vidgen.data.sources.streams import PartsInOrder
from vidgen.data.video.transforms import random_crop
from vidgen.types import VideoShape

with epy.lazy_imports():  # 0.2 s, for commands that read a configuration and train nothing
    import grain

_AHEAD = 32  # examples read ahead by `in_order`
# [guess] After so many examples of a stream, none of which can be used, there is no hope.
_HOPELESS = 1000

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(Dataset):
    """The input of a training run.

    Attributes:
      source: where examples come from.
      batch_size: examples per step over all processes.
      seed: decides order and every random choice.
      workers: worker processes; 0 loads in threads of this one.
      shuffle: a new order in every pass; False keeps the source's order.
      repeat: endless; False stops after one pass and drops an incomplete last batch.
      prefetch: batches to have ready ahead of time.
      crop: train on a random window of this height and width, the same in all frames of a clip;
        None, or the source's own size, keeps whole frames.
      crop_attempts: of so many windows the one whose pixels differ most is taken, for videos with
        many windows of one color.
    """

    source: Source | Stream
    batch_size: int
    seed: int = 0
    workers: int = 0
    shuffle: bool = True
    repeat: bool = True
    prefetch: int = 2
    crop: VideoShape | None = None
    crop_attempts: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "prefetch", "crop_attempts"):
            value, least = getattr(self, name), int(name != "workers")
            if value < least:
                raise ValueError(f"Pipeline.{name} is {value}; it must be >= {least}.")
        if isinstance(self.source, Stream):
            if self.workers:
                raise ValueError(
                    f"Pipeline.workers is {self.workers}, but a {type(self.source).__name__} is "
                    "read in order by this process; set 0."
                )
        elif not isinstance(self.source, Source):
            raise ValueError(
                f"Pipeline.source is {self.source!r}; expected an object of a class that derives "
                "from vidgen.data.source.Source."
            )
        elif len(self.source) == 0:
            raise ValueError(f"Pipeline.source is empty: {self.source}.")
        crop, shape = self.crop, self.source.shape
        if crop and (
            crop.frames != shape.frames or crop.height > shape.height or crop.width > shape.width
        ):
            raise ValueError(
                f"Pipeline.crop is {crop}; expected a window of the source's {shape}: as many "
                "frames, at most as high and wide."
            )

    @property
    def captions_per_clip(self) -> int:
        """How many captions a batch has for each clip, as the source says."""
        return self.source.captions_per_clip

    def iterator(self, *, process: tuple[int, int] = (0, 1)) -> BatchIterator:
        """Open the part of every batch that one process has.

        Args:
          process: index and count of the processes.

        Returns:
          An iterator over batches of batch_size / count examples, at the beginning of the data.

        Raises:
          ValueError: the batch does not divide among the processes.
        """
        index, count = process
        if not 0 <= index < count:
            raise ValueError(f"process is {process}; expected (index, count), 0 <= index < count.")
        if self.batch_size % count:
            raise ValueError(
                f"Pipeline.batch_size is {self.batch_size}, which {count} processes cannot share; "
                f"set a multiple of {count} (e.g. {math.ceil(self.batch_size / count) * count})."
            )
        local = self.batch_size // count
        if isinstance(self.source, Stream):
            elements = self.source.elements(
                seed=self.seed, shuffle=self.shuffle, repeat=self.repeat, process=process
            )
            examples = _Streamed(elements, self._load, self.seed)
            return BatchIterator(examples, batch_size=local, source=self.source, hopeless=_HOPELESS)
        blocks = Blocks(batch=self.batch_size, index=index, count=count)
        examples = Indexed(blocks, functools.partial(self._reader, blocks))
        size = len(self.source)
        return BatchIterator(examples, batch_size=local, source=self.source, hopeless=size)

    def _reader(self, blocks: Blocks, first: int) -> Iterator[Example | TokenExample | _Bad]:
        """Read the examples of one process from its number `first` on."""
        source: Any = self.source  # no Stream, which has no length
        positions = grain.MapDataset.range(len(source))
        if self.shuffle:
            positions = positions.shuffle(seed=self.seed % 2**32)
        if self.repeat:
            positions = positions.repeat()
        loaded = positions.random_map(self._load_at, seed=self.seed % 2**32)
        # Of an incomplete last batch some processes would have their part, and wait for the others.
        end = len(loaded) - (len(loaded) % blocks.batch if blocks.count > 1 else 0)
        own = grain.MapDataset.range(first, max(first, blocks.numbers(end)))
        ahead = blocks.local * self.prefetch
        dataset = own.map(functools.partial(blocks.example, loaded)).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
        )
        return iter(_by_workers(dataset, self.workers, ahead=ahead))

    def _load_at(self, index: int, rng: np.random.Generator) -> Example | TokenExample | _Bad:
        return self._load(int(index), int(index), rng)

    def _load(
        self, number: int, what: Any, rng: np.random.Generator
    ) -> Example | TokenExample | _Bad:
        """Load what `source.load` takes as `what`; `number` identifies it if it is bad."""
        try:
            example = self.source.load(what, rng)
        except BadExample as bad:
            return _Bad(number, bad.path, bad.reason)
        crop = self.crop
        if crop is None or isinstance(example, TokenExample):
            return example
        size = crop.height, crop.width
        window = random_crop(example.video, *size, rng, attempts=self.crop_attempts)
        return dataclasses.replace(example, video=window)


class BatchIterator:
    """Iterator over batches (`data.source.Batches`); its position can be restored exactly.

    A batch is a dict: `video` uint8 "b t h w c" or `tokens` int32 "b gt gh gw", `caption` list of b
    strings (of b tuples of t strings where the pipeline has t captions a clip),
    `independent_frames` bool "b". `skipped` counts the bad examples seen so far by file.
    """

    def __init__(
        self,
        examples: Indexed | _Streamed,
        *,
        batch_size: int,
        source: Source | Stream,
        hopeless: int,
    ) -> None:
        """Give up after `hopeless` bad examples without a good one."""
        self._examples = examples
        self._hopeless = hopeless
        self._batch_size = batch_size
        self._source = source
        self._good = False
        self._bad_numbers: set[int] = set()
        self.skipped: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> dict[str, Any]:
        batch: list[Example | TokenExample] = []
        while len(batch) < self._batch_size:
            loaded = self._loaded()
            if isinstance(loaded, _Bad):
                self._skip(*loaded)
            else:
                self._good = True
                batch.append(loaded)
        content = [example.content for example in batch]
        return {
            **{name: np.stack([arrays[name] for arrays in content]) for name in content[0]},
            "caption": [self._caption(example) for example in batch],
            "independent_frames": np.array([example.independent_frames for example in batch]),
        }

    def _loaded(self) -> Example | TokenExample | _Bad:
        try:
            return next(self._examples)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            raise ChildProcessError(
                f"a worker process that loads the data died ({error}) If the system killed it for "
                "want of memory, take fewer (Pipeline.workers). The same command resumes from the "
                "newest checkpoint."
            ) from error

    def _caption(self, example: Example | TokenExample) -> str | tuple[str, ...]:
        """Return the caption in the form that the source declares: one, or one for every frame."""
        count, captions = self._source.captions_per_clip, example.caption
        if isinstance(captions, str):
            captions = (captions,) * count
        if len(captions) != count:
            raise ValueError(
                f"{self._source} gave {len(captions)} captions for a clip, and says that it "
                f"gives {count} (captions_per_clip)."
            )
        return captions[0] if count == 1 else captions

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last batch, as a dict that JSON can hold."""
        return self._examples.get_state()

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go to where the processes of a run were, however many they were.

        They were at one place, but for bad examples: a process that dropped some was further than
        the others, and it is there that all go on.

        Args:
          states: what `get_state` of each of them returned, in order.

        Raises:
          ValueError: they are positions in other data.
        """
        self._examples.set_states(states)

    def close(self) -> None:
        """End the worker processes."""
        self._examples.close()

    def _skip(self, number: int, path: str, reason: str) -> None:
        if path not in self.skipped:
            count = len(self.skipped) + 1
            log.warning("skipped %s: %s (%d bad so far)", path, reason, count)
        self.skipped[path] += 1
        self._bad_numbers |= set() if self._good else {number}
        if not self._good and len(self._bad_numbers) >= self._hopeless:
            raise ValueError(
                f"none of the first {self._hopeless} examples of {self._source} can be used; "
                f"the last one was {path}: {reason}."
            )


class _Bad(NamedTuple):
    """Stands in the place of an example that could not be loaded."""

    number: int
    path: str
    reason: str


class _Streamed:
    """The examples of a stream; the one at position i is loaded with random generator i."""

    def __init__(self, elements: PartsInOrder, load: Callable[..., Any], seed: int) -> None:
        self._elements, self._load, self._seed = elements, load, seed
        self.get_state, self.set_states = elements.get_state, elements.set_states
        self.close = elements.close

    def __next__(self) -> Example | TokenExample | _Bad:
        position, element = next(self._elements)
        rng = np.random.default_rng((self._seed, position))
        return self._load(position, element, rng)


def in_order(
    source: Source, numbers: Sequence[int], *, seed: int, workers: int = 0
) -> Iterator[Example | TokenExample | BadExample]:
    """Read examples one after the other, and ahead.

    Args:
      source: where they come from.
      numbers: which, counting from pass to pass: number n is example n mod len(source), loaded with
        the random generator n of the seed.
      seed: the seed of all random generators.
      workers: processes that read; 0 is a thread.

    Yields:
      The examples; a BadExample takes the place of one that cannot be used.
    """
    positions = grain.MapDataset.range(len(numbers))
    loaded = positions.map(functools.partial(_load_or_tell, source, numbers, seed))
    dataset = loaded.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD))
    return iter(_by_workers(dataset, workers, ahead=_AHEAD))


def _load_or_tell(
    source: Source, numbers: Sequence[int], seed: int, position: int
) -> Example | TokenExample | BadExample:
    number = numbers[int(position)]
    try:
        return source.load(number % len(source), np.random.default_rng((seed, number)))
    except BadExample as bad:
        return BadExample(bad.path, bad.reason)  # without the frames of its traceback


def _by_workers(dataset: grain.IterDataset, workers: int, *, ahead: int) -> grain.IterDataset:
    """Read `dataset` by worker processes that keep `ahead` examples ready, all together."""
    if not workers:
        return dataset
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads an absl flag of its own: its default
    each = max(1, math.ceil(ahead / workers))
    return dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
    )
