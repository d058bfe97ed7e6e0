"""What training asks of data: examples, a `Source` or `Stream` of them, and a `Dataset` of batches.

    Source    examples in any order: example i is load(i, rng)
    Stream    examples in an order of their own: elements(...), then load(element, rng)
    Dataset   batches of either, with a position that a checkpoint keeps (data/pipeline.py)

A new kind of data is a frozen dataclass that derives from `Source`, with a `shape`, a length and a
`load`; CONTRIBUTING.md shows a complete one. Everything else has a default here.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from vidgen.data.sources.caption_text import drawn
from vidgen.data.sources.streams import PartsInOrder
from vidgen.types import VideoShape


class BadExample(Exception):
    """One example that cannot be used; the pipeline skips it and counts it.

    Attributes:
      path: the name of its file.
      reason: what is wrong with it, as a short clause.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned clip.

    Attributes:
      video: its frames.
      caption: the caption of the whole clip, or one for each frame if they are unrelated images.
      independent_frames: whether the frames are unrelated images.
      captions: all captions of the clip, of which `caption` was drawn; () if it has only one.
      fps: its frame rate, where the data has several; None: the one rate of the source.
    """

    video: UInt8[np.ndarray, "t h w c"]
    caption: str | tuple[str, ...]
    independent_frames: bool = False
    captions: tuple[str, ...] = ()
    fps: float | None = None

    @property
    def first_caption(self) -> str:
        """The caption that evaluations take: the clip's first, or that of the first frame."""
        if self.captions:
            return self.captions[0]
        return self.caption if isinstance(self.caption, str) else self.caption[0]

    @property
    def content(self) -> dict[str, np.ndarray]:
        """The arrays that a batch stacks, by name."""
        rate = {} if self.fps is None else {"fps": np.asarray(self.fps, np.float32)}
        return {"video": self.video} | rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenExample:
    """One captioned clip as the tokens that a tokenizer made of it.

    Attributes:
      tokens: the tokens.
      caption: the caption of the clip, or of its first frame if the frames are unrelated images.
      independent_frames: whether the frames were unrelated images; only the first time step of the
        tokens then counts.
      captions: all captions of the clip, of which `caption` was drawn; () if it has only one.
    """

    tokens: Int[np.ndarray, "gt gh gw"]
    caption: str
    independent_frames: bool = False
    captions: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, np.ndarray]:
        """The arrays that a batch stacks, by name."""
        return {"tokens": self.tokens}


def captioned(
    video: UInt8[np.ndarray, "t h w c"], captions: Sequence[str], rng: np.random.Generator
) -> Example:
    """Make an example of a clip and one of its captions.

    The caption is drawn after all that is drawn for the video, so that the clip does not depend on
    how many captions it has.

    Args:
      video: the clip.
      captions: all that it has; none is the caption "".
      rng: draws one; a single caption uses no randomness.

    Returns:
      The example.
    """
    return Example(
        video=video,
        caption=drawn(captions, rng),
        captions=tuple(captions) if len(captions) > 1 else (),
    )


class _Data(abc.ABC):
    """What sources and streams have in common.

    Attributes:
      shape: the shape of every clip.
    """

    shape: VideoShape

    @property
    def captions_per_clip(self) -> int:
        """How many captions a batch has for each clip: 1, or one for every frame."""
        return 1

    def captions(self) -> Iterator[str]:
        """List all captions that the examples can have, in order, without reading any video.

        A caption may come more than once, and is "" for an example that has none.

        Raises:
          ValueError: the data cannot list them, which is the default.
        """
        raise ValueError(
            f"a {type(self).__name__} cannot list its captions beforehand; encode them while "
            "training, with the encoder itself as TEXT_ENCODER."
        )


class Source(_Data):
    """A finite set of examples of one shape that can be loaded in any order."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Count the examples."""

    @abc.abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> Example | TokenExample:
        """Load one example, as a function of (index, rng) alone.

        Args:
          index: from 0 to len(self) - 1.
          rng: for all that is random, such as where the clip begins.

        Returns:
          The example, in `shape`.

        Raises:
          BadExample: the example cannot be used, and is to be skipped.
        """

    def file(self, index: int) -> Any:
        """Return the file of an example, for whoever looks up lengths and sizes.

        Args:
          index: from 0 to len(self) - 1.

        Returns:
          What `data.video.files.probe` takes; None where an example has no file, as by default.

        Raises:
          BadExample: it cannot be read.
        """
        del index

    def left_out(self) -> Iterator[tuple[str, str]]:
        """List what the data hold that is no example.

        What turns out to be none only when it is read is not listed here: `load` refuses it.

        Yields:
          (name, why).
        """
        return iter(())

    def for_evaluation(self, shape: VideoShape) -> Source:
        """Return the same data as clips of another shape, with captions that can be compared.

        Args:
          shape: the shape of the clips that an evaluation compares.

        Returns:
          A copy of the source with this shape; sources of several kinds of data give those that
          fit.
        """
        data: Any = self
        return dataclasses.replace(data, shape=shape)

    @property
    def stored_files(self) -> Sequence[str | tuple[str, tuple[str, ...]]]:
        """The files that the data lie in, with their captions if these are known.

        Evaluations keep features of clips as long as these files stay the same.
        """
        return ()


class Stream(_Data):
    """Examples of one shape that can only be read in an order of their own."""

    @abc.abstractmethod
    def elements(
        self, *, seed: int, shuffle: bool, repeat: bool, process: tuple[int, int]
    ) -> PartsInOrder:
        """Open the elements that one process reads.

        Args:
          seed: the seed of the order.
          shuffle: whether the order differs from pass to pass.
          repeat: whether pass follows pass for ever.
          process: index and count.

        Returns:
          An iterator over (global position, element), whose position can be stored.
        """

    @abc.abstractmethod
    def load(self, element: Any, rng: np.random.Generator) -> Example:
        """Turn an element into an example.

        Args:
          element: as `elements` yields it.
          rng: for all that is random, such as where the clip begins.

        Returns:
          The example, in `shape`.

        Raises:
          BadExample: the element cannot be used, and is to be skipped.
        """


@runtime_checkable
class Batches(Protocol):
    """An iterator over the batches of one process, with a position that JSON can hold."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def __next__(self) -> dict[str, Any]:
        """Return the next batch as a dict; see `data.pipeline.BatchIterator`."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last batch."""
        ...

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go to where the processes of a run were, however many they were.

        Args:
          states: what `get_state` of each of them returned, in order.
        """
        ...

    def close(self) -> None:
        """End all threads and processes that read ahead."""
        ...


class Dataset(abc.ABC):
    """Batches of data, shared by the processes of a run.

    Attributes:
      batch_size: examples of a batch over all processes.
    """

    batch_size: int

    @property
    def captions_per_clip(self) -> int:
        """How many captions a batch has for each clip: 1, or one for every frame."""
        return 1

    @abc.abstractmethod
    def iterator(self, *, process: tuple[int, int] = (0, 1)) -> Batches:
        """Open the part that one process has of every batch.

        Args:
          process: index and count of the processes.

        Returns:
          An iterator over batches, at the beginning of the data.
        """
