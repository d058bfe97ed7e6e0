"""A user's folder of captioned videos.

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
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from vidgen import paths
from vidgen.data.source import Example, Source, captioned
from vidgen.data.sources.captions import CaptionedFile, captioned_files, left_out
from vidgen.data.video.files import VIDEO_SUFFIXES, read_clip
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSource(Source):
    """The video files under a folder, in sorted order, with their captions.

    Attributes:
      path: the folder.
      shape: the clip to cut from each file: frames at shape.fps, cropped and resized.
      missing_captions: "skip" leaves out files without a caption (they are counted in a
        warning); "empty" trains on them as unconditional examples with the caption "".

    Raises:
      FileNotFoundError: there is no such folder, or nothing usable in it.
      ValueError: a caption file is not as described in the module docstring.
    """

    path: str
    shape: VideoShape
    missing_captions: str = "skip"

    kind: ClassVar[str] = "video"
    suffixes: ClassVar[Sequence[str]] = VIDEO_SUFFIXES

    def __post_init__(self) -> None:
        if self.shape.channels != 3:
            name = type(self).__name__
            raise ValueError(f"{name} reads RGB; shape.channels is {self.shape.channels}, set 3.")
        object.__setattr__(self, "path", paths.expanded(self.path))
        _ = self.files  # so that a wrong folder is reported when it is configured

    @functools.cached_property
    def files(self) -> tuple[CaptionedFile, ...]:
        """(file, captions) pairs, sorted by file."""
        return captioned_files(self.path, self.suffixes, self.kind, self.missing_captions)

    @property
    def stored_files(self) -> Sequence[CaptionedFile]:
        """The files with their captions."""
        return self.files

    def __len__(self) -> int:
        return len(self.files)

    def captions(self) -> Iterator[str]:
        """List the captions of all files, "" for a file that has none; see `Source.captions`."""
        for _, captions in self.files:
            yield from captions or ("",)

    def file(self, index: int) -> str:
        """Return the path of a file; see `Source.file`."""
        return self.files[index][0]

    def left_out(self) -> Iterator[tuple[str, str]]:
        """List the files that are not used, and what tables of captions name in vain.

        See `Source.left_out`.
        """
        uncaptioned = {file for file, captions in self.files if not captions}
        for name, why in left_out(self.path, self.suffixes, self.kind):
            if paths.join(self.path, name) not in uncaptioned:
                yield name, why

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read a clip from a random place of a file, with a caption of it; see `Source.load`."""
        file, captions = self.files[index]
        return captioned(read_clip(file, self.shape, rng), captions, rng)
