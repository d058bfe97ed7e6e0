"""Where examples come from: the `Source` protocol, and a user's folder of captioned files.

A folder is searched with its sub-folders. Captions come from, in this order of preference,

    clip.txt            beside clip.mp4 (or photo.jpg): the whole text is the caption
    clip.json           beside it: an object with a "caption"
    captions.jsonl      one object a line: {"file": "birds/clip.mp4", "caption": "a parrot flies"}
    captions.csv        columns `file` and `caption`, with a header line

where `file` is relative to the folder of the caption file, or written as in
data/sources/file_names.py. Caption files may lie in sub-folders. A clip with several captions (rows
for one file, a list in JSON) is shown with one of them at each visit; evaluations take the first.
The folder may be in an object store ("gs://bucket/videos", vidgen/paths.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from vidgen import paths
from vidgen.data.sources.caption_text import drawn
from vidgen.data.sources.captions import CaptionedFile, captioned_files
from vidgen.data.sources.files import BadExample
from vidgen.data.video.files import VIDEO_SUFFIXES, read_clip
from vidgen.types import VideoShape

__all__ = [
    "BadExample",
    "Captioned",
    "Example",
    "FolderSource",
    "Source",
    "TokenExample",
    "captioned",
    "captions_of",
    "captions_of_files",
    "captions_per_clip",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned clip.

    Attributes:
      video: the frames.
      caption: of all of it, or one for each frame where they are unrelated images.
      independent_frames: the frames are unrelated images.
      captions: all that the clip has, of which `caption` was drawn; () where that is the only one.
    """

    video: UInt8[np.ndarray, "t h w c"]
    caption: str | tuple[str, ...]
    independent_frames: bool = False
    captions: tuple[str, ...] = ()

    @property
    def first_caption(self) -> str:
        """What evaluations take: the first that the clip has, or that of the first frame."""
        if self.captions:
            return self.captions[0]
        return self.caption if isinstance(self.caption, str) else self.caption[0]

    @property
    def content(self) -> dict[str, np.ndarray]:
        """What a batch stacks."""
        return {"video": self.video}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenExample:
    """One captioned clip as the tokens that a tokenizer made of it.

    Attributes:
      tokens: the tokens.
      caption: of all of it, or of the first frame where the frames are unrelated images.
      independent_frames: the frames were unrelated images, and only the first time step counts.
      captions: all that the clip has, of which `caption` was drawn; () where that is the only one.
    """

    tokens: Int[np.ndarray, "gt gh gw"]
    caption: str
    independent_frames: bool = False
    captions: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, np.ndarray]:
        """What a batch stacks."""
        return {"tokens": self.tokens}


@runtime_checkable
class Source(Protocol):
    """A finite, randomly accessible set of examples of one shape.

    Where an example may have a caption for each frame, the source has a further property
    `captions_per_clip`, the number of frames: batches of it then always have so many captions.
    """

    @property
    def shape(self) -> VideoShape:
        """Shape of every clip."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def load(self, index: int, rng: np.random.Generator) -> Example | TokenExample:
        """Example `index`, a function of (index, rng) only; raises BadExample to be skipped."""
        ...


@runtime_checkable
class Captioned(Protocol):
    """A source that can list what it says without reading what it shows."""

    def captions(self) -> Iterator[str]:
        """All captions that its examples can have, in order, some more than once."""
        ...


def captioned(
    video: UInt8[np.ndarray, "t h w c"], captions: Sequence[str], rng: np.random.Generator
) -> Example:
    """A clip with one of its captions; it is drawn after all that is drawn for the video."""
    return Example(
        video=video,
        caption=drawn(captions, rng),
        captions=tuple(captions) if len(captions) > 1 else (),
    )


def captions_of_files(files: Iterable[CaptionedFile]) -> Iterator[str]:
    """All captions of (file, captions) pairs; "" where there is none."""
    for _, captions in files:
        yield from captions or ("",)


def captions_per_clip(data: object) -> int:
    """How many captions every example of a source, or data set, is given: 1, or one a frame."""
    return getattr(data, "captions_per_clip", 1)


def captions_of(source: object) -> Iterator[str]:
    """All captions that the examples of a source, or stream, can have.

    Raises:
      ValueError: it cannot list them.
    """
    if not isinstance(source, Captioned):
        raise ValueError(
            f"a {type(source).__name__} cannot list its captions beforehand; encode them while "
            "training, with the encoder itself as TEXT_ENCODER."
        )
    return source.captions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The video files under a folder, in sorted order, with their captions.

    Attributes:
      path: the folder.
      shape: clip to cut from each file: frames at shape.fps, cropped and resized.
      missing_captions: "skip" leaves out files without a caption (they are counted in a
        warning); "empty" trains on them as unconditional examples with the caption "".

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it.
      ValueError: a caption file is not as described in the module docstring.
    """

    path: str
    shape: VideoShape
    missing_captions: str = "skip"

    def __post_init__(self) -> None:
        if self.shape.channels != 3:
            raise ValueError(f"FolderSource reads RGB; shape.channels is {self.shape.channels}.")
        object.__setattr__(self, "path", paths.expanded(self.path))
        _ = self.files  # so that a wrong folder is reported when it is configured

    @functools.cached_property
    def files(self) -> tuple[CaptionedFile, ...]:
        """(file, captions) pairs, sorted by file."""
        return captioned_files(self.path, VIDEO_SUFFIXES, "video", self.missing_captions)

    def __len__(self) -> int:
        return len(self.files)

    def captions(self) -> Iterator[str]:
        """Those of all files."""
        return captions_of_files(self.files)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """A clip from a random place of file `index`, with one of its captions."""
        file, captions = self.files[index]
        return captioned(read_clip(file, self.shape, rng), captions, rng)
