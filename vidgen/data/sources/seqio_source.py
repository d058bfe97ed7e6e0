"""Any registered seqio Task or Mixture as a stream of examples (data/sources/streams.py).

seqio gives tf.data, which is read in order: a split is cut into `parts` (files where the task has
as many, else every n-th example), and each visit of a part is a data set of its own, shuffled and
preprocessed with a seed of that pass. So the order is a function of the seed, going on costs at
most one part read again, and what lies in memory is one shuffle buffer for each task and lane. The
tasks of a mixture are drawn from at its rates.

TensorFlow is imported when a SeqioSource is configured, and is kept off the accelerators.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidgen.data.source import BadExample, Example, Stream
from vidgen.data.sources.caption_text import drawn, unique
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import packed_shape
from vidgen.data.sources.streams import PartsInOrder, check_lanes
from vidgen.data.video.files import read_clip
from vidgen.data.video.stored_frames import clip_of_frames, frame_of, text_of
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioSource(Stream):
    """The examples of a split of a Task or Mixture.

    Attributes:
      name: the name of the registered Task or Mixture.
      shape: the shape of an example; for images its frames become 1.
      split: "train" and the like.
      modules: Python modules that register the tasks when they are imported.
      kind: "videos" or "images".
      video: the feature that holds the video: uint8 "t h w c", encoded frames, or the bytes of a
        video file; for images uint8 "h w c" or an encoded picture.
      caption: the feature that holds the caption: a text, several (one is drawn at random), or
        tokens, which the feature's vocabulary decodes; "" for captions that are all empty.
      fps: frames of the stored videos per second; None takes the rate of `shape`.
      parts: in how many parts a split is read, the same for every task.
      lanes: how many parts are read at a time, over all processes. The order depends on it; with
        as many lanes as hosts, or a multiple, each reads its own parts and no others.
      shuffle_buffer: examples of a part that are shuffled at a time.
      use_cached: read what `seqio_cache_tasks` wrote.

    Raises:
      ValueError: seqio is not installed, or a setting does not fit the task.
    """

    name: str
    shape: VideoShape
    split: str = "train"
    modules: Sequence[str] = ()
    kind: str = "videos"
    video: str = "video"
    caption: str = "caption"
    fps: float | int | None = None
    parts: int = 1
    lanes: int = 1
    shuffle_buffer: int = 64
    use_cached: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", packed_shape("SeqioSource", self.shape, self.kind))
        for name in ("fps", "shuffle_buffer"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"SeqioSource.{name} is {value}; it must be positive.")
        check_lanes(self.parts, self.lanes)
        for task, _ in self._tasks:  # wrong settings are reported when they are configured
            self._check_features(task)

    def elements(
        self, *, seed: int, shuffle: bool, repeat: bool, process: tuple[int, int]
    ) -> PartsInOrder:
        """Open the elements of one process; see `Stream.elements`.

        Without `repeat` they end with the shortest task.
        """
        return PartsInOrder(
            self._part,
            rates=[rate for _, rate in self._tasks],
            parts=self.parts,
            lanes=self.lanes,
            seed=seed,
            shuffle=shuffle,
            repeat=repeat,
            process=process,
        )

    def captions(self) -> Iterator[str]:
        """List the captions of all examples, task after task, but for those that cannot be read.

        See `Source.captions`.
        """
        if not self.caption:
            yield ""
            return
        for task, part in itertools.product(range(len(self._tasks)), range(self.parts)):
            for where, values in self._part(task=task, part=part, seed=0, shuffle=False, skip=0):
                with contextlib.suppress(BadExample):
                    yield from self._captions(where, values)

    def load(self, element: tuple[str, dict[str, Any]], rng: np.random.Generator) -> Example:
        """Cut a clip from a random place of an element's video, or take its image.

        See `Stream.load`.
        """
        where, values = element
        captions = self._captions(where, values) if self.caption else ()
        if self.caption and not captions:
            raise BadExample(where, f"it has no {self.caption}, or a blank one")
        caption = drawn(captions, rng)
        video = self._pixels(where, values[self.video], rng)
        return Example(video=video, caption=caption, captions=captions)

    def _pixels(
        self, where: str, video: bytes | np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        if self.kind == "images":
            return frame_of(where, video, self.shape)[None]
        if isinstance(video, bytes):
            return read_clip(Packed(where, video), self.shape, rng)
        if video.ndim not in (1, 4):
            raise BadExample(where, f"its {self.video} of shape {video.shape} is no video")
        fps = self.shape.fps if self.fps is None else self.fps
        return clip_of_frames(where, video, fps=fps, shape=self.shape, rng=rng)

    def _captions(self, where: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return all captions of an element, none blank."""
        value = values[self.caption]
        if not isinstance(value, bytes) and np.issubdtype(value.dtype, np.integer):
            vocabulary = self._tasks[0][0].output_features[self.caption].vocabulary
            return unique([str(vocabulary.decode(value.tolist()))])
        texts = [value] if isinstance(value, bytes) else value.tolist()
        if not all(isinstance(text, bytes) for text in texts):
            raise BadExample(where, f"its {self.caption} is no text, nor several")
        return unique([text_of(where, text) for text in texts])

    def _part(
        self, *, task: int, part: int, seed: int, shuffle: bool, skip: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the elements of a part, as (name, features)."""
        dataset = self._dataset(self._tasks[task][0], part, seed, shuffle)
        where = f"{self._tasks[task][0].name} {self.split} {part + 1}/{self.parts}"
        elements = dataset.skip(skip).as_numpy_iterator()
        for number, values in enumerate(elements, start=skip):
            yield f"{where} [{number}]", values

    def _dataset(self, task: Any, part: int, seed: int, shuffle: bool) -> Any:
        """Open a part as tf.data with no features but the two."""
        seqio, tf = import_seqio()
        try:
            dataset = task.get_dataset(
                split=self.split,
                use_cached=self.use_cached,
                shuffle=shuffle,
                shuffle_buffer_size=self.shuffle_buffer,
                seed=seed,
                shard_info=seqio.ShardInfo(part, self.parts) if self.parts > 1 else None,
                trim_output_features=False,
                try_in_mem_cache=False,  # that would be the whole split
            )
        except (ValueError, TypeError, AssertionError, OSError) as error:
            what = str(error).strip().splitlines()[-1].strip().rstrip(".")
            raise ValueError(f"the seqio task {task.name} cannot be read: {what}.") from error
        options = tf.data.Options()
        options.deterministic = True
        wanted = {self.video, self.caption} - {""}
        if wanted <= set(dataset.element_spec):
            dataset = dataset.map(lambda values: {name: values[name] for name in wanted})
        return dataset.with_options(options)

    def _check_features(self, task: Any) -> None:
        spec = self._dataset(task, 0, 0, False).element_spec
        for name in ("video", "caption"):
            feature = getattr(self, name)
            if feature and feature not in spec:
                raise ValueError(
                    f"SeqioSource.{name} is {feature!r}, which the seqio task {task.name} does not "
                    f"give; it gives {', '.join(sorted(spec))}."
                )

    @functools.cached_property
    def _tasks(self) -> list[tuple[Any, float]]:
        """The tasks that have the split, with their rates."""
        seqio, _ = import_seqio()
        for module in self.modules:
            importlib.import_module(module)
        known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
        if self.name not in known:
            raise ValueError(
                f"no seqio task or mixture {self.name!r} is registered (there are "
                f"{', '.join(known) or 'none'}); name the module that does so in "
                "SeqioSource.modules."
            )
        named = seqio.get_mixture_or_task(self.name)
        tasks = [task for task in seqio.get_subtasks(named) if self.split in task.splits]
        if not tasks:
            splits = ", ".join(sorted(named.splits))
            raise ValueError(f"{self.name} has no split {self.split!r}; it has {splits}.")
        if isinstance(named, seqio.Task):
            return [(named, 1.0)]
        return [(task, float(named.get_rate(task))) for task in tasks]


@functools.cache
def import_seqio() -> tuple[Any, Any]:
    """Import (seqio, tensorflow) silently, and keep TensorFlow off the accelerators.

    Returns:
      The two modules.

    Raises:
      ValueError: seqio is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _silent_stderr():
            tf = importlib.import_module("tensorflow")
            for kind in ("GPU", "TPU"):
                # Where TensorFlow is in use already, somebody else has decided that.
                with contextlib.suppress(RuntimeError):
                    tf.config.set_visible_devices([], kind)
            seqio = importlib.import_module("seqio")
    except ImportError as error:
        raise ValueError(
            f'seqio tasks need seqio: pip install "vidgen[seqio]" ({error}).'
        ) from error
    # seqio logs something each time that a part is opened
    logging.getLogger("absl").addFilter(
        lambda record: record.levelno >= logging.ERROR or "seqio" not in record.pathname
    )
    return seqio, tf


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence the stderr of TensorFlow's C++, which no setting does while it is imported."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
