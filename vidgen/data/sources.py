"""Where examples come from: the `Source` protocol, and a user's folder of captioned files.

A folder is searched with its sub-folders. Captions come from, in this order of preference,

    clip.txt            beside clip.mp4 (or photo.jpg): the whole text is the caption
    captions.jsonl      one object a line: {"file": "birds/clip.mp4", "caption": "a parrot flies"}
    captions.csv        columns `file` and `caption`, with a header line

where `file` is relative to the folder of the caption file. Caption files may lie in sub-folders.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vidgen.data.video_files import VIDEO_SUFFIXES, BadExample, read_clip
from vidgen.types import VideoShape

__all__ = [
    "BadExample",
    "Captioned",
    "Example",
    "FolderSource",
    "Source",
    "captioned_files",
    "captions_of",
    "captions_per_clip",
]

MISSING_CAPTIONS = ("skip", "empty")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned clip.

    Attributes:
      video: the frames.
      caption: of all of it, or one for each frame where they are unrelated images.
      independent_frames: the frames are unrelated images.
    """

    video: UInt8[np.ndarray, "t h w c"]
    caption: str | tuple[str, ...]
    independent_frames: bool = False


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

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Example `index`, a function of (index, rng) only; raises BadExample to be skipped."""
        ...


@runtime_checkable
class Captioned(Protocol):
    """A source that can list what it says without reading what it shows."""

    def captions(self) -> Iterator[str]:
        """All captions that its examples can have, in order, some more than once."""
        ...


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
        object.__setattr__(self, "path", os.fspath(self.path))
        _ = self.files  # so that a wrong folder is reported when it is configured

    @functools.cached_property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(file, caption) pairs, sorted by file."""
        return captioned_files(self.path, VIDEO_SUFFIXES, "video", self.missing_captions)

    def __len__(self) -> int:
        return len(self.files)

    def captions(self) -> Iterator[str]:
        """Those of all files."""
        return (caption for _, caption in self.files)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """A clip from a random place of file `index`."""
        file, caption = self.files[index]
        return Example(video=read_clip(file, self.shape, rng), caption=caption)


def captioned_files(
    path: str, suffixes: Sequence[str], kind: str, missing_captions: str
) -> tuple[tuple[str, str], ...]:
    """(file, caption) pairs of the files under a folder, sorted by file.

    Args:
      path: the folder.
      suffixes: which files count, in lower case.
      kind: what to call one of them in messages: "video", "image".
      missing_captions: "skip" or "empty", as in `FolderSource`.

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it.
      ValueError: a caption file is not as described in the module docstring, or another setting.
    """
    if missing_captions not in MISSING_CAPTIONS:
        raise ValueError(f"missing_captions is {missing_captions!r}; choose skip or empty.")
    root = pathlib.Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"the data folder {path} does not exist.")
    found = sorted(_files(root), key=lambda file: file.relative_to(root).as_posix())
    wanted = [file for file in found if file.suffix.lower() in suffixes]
    if not wanted:
        raise FileNotFoundError(
            f"the data folder {path} holds no {kind}: looked for files ending in "
            f"{' '.join(suffixes)} here and in all sub-folders, among {len(found)} files."
        )
    captions = _captions(found, suffixes)
    missing = [file for file in wanted if file not in captions]
    if missing_captions == "skip" and len(missing) == len(wanted):
        raise FileNotFoundError(
            f"the data folder {path} holds {len(wanted)} {kind}s but no caption for any: "
            f"looked for {missing[0].with_suffix('.txt').name} and the like, captions.jsonl "
            "and captions.csv (columns file, caption)."
        )
    if missing:
        done = "skipped" if missing_captions == "skip" else 'used with the caption ""'
        counts = f"{len(missing)} of {len(wanted)} {kind}s in {path}"
        log.warning("%s have no caption (%s), e.g. %s", counts, done, missing[0])
    if missing_captions == "empty":
        return tuple((str(file), captions.get(file, "")) for file in wanted)
    return tuple((str(file), captions[file]) for file in wanted if file in captions)


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (pathlib.Path(folder, name) for name in names if not name.startswith("."))


def _captions(files: list[pathlib.Path], suffixes: Sequence[str]) -> dict[pathlib.Path, str]:
    """Caption by file; sidecar text wins over captions.jsonl, which wins over captions.csv."""
    captions: dict[pathlib.Path, str] = {}
    for name, read in (("captions.csv", _read_csv), ("captions.jsonl", _read_jsonl)):
        for table in files:
            if table.name == name:
                for file, caption in read(table):
                    captions[pathlib.Path(os.path.normpath(table.parent / file))] = caption
    texts = {file for file in files if file.suffix == ".txt"}
    for file in files:
        beside = file.with_suffix(".txt")
        if file.suffix.lower() in suffixes and beside in texts:
            captions[file] = " ".join(_text(beside).split())
    return {file: caption for file, caption in captions.items() if caption}


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text; save it as UTF-8.") from error


def _read_csv(table: pathlib.Path) -> Iterator[tuple[str, str]]:
    rows = csv.DictReader(_text(table).splitlines(keepends=True))
    names = {(name or "").strip() for name in rows.fieldnames or ()}
    if not {"file", "caption"} <= names:
        raise ValueError(
            f"{table} must begin with a header line that names the columns file and caption; "
            f"it names {sorted(names)}."
        )
    for row in rows:
        clean = {(key or "").strip(): value for key, value in row.items()}
        if clean["file"] and clean["caption"]:
            yield clean["file"].strip(), clean["caption"].strip()


def _read_jsonl(table: pathlib.Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, caption = entry["file"], entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{table} line {number} is not like {{"file": "a.mp4", "caption": "a cat runs"}}.'
            ) from error
        yield str(file).strip(), str(caption).strip()
