"""Captioned clips in sharded ArrayRecord files, read in place and in any order.

    FOLDER/manifest.json                        shards, number of examples, statistics; written last
           clips-00003-of-00008.array_record    a clip a record
           captions-00003-of-00008.jsonl        {"key": ..., "caption": ...} of each, in its order,
                                                with "other_captions": [...] where there are more
           rejected.jsonl                       {"file": ..., "reason": ...}: what gave no clips

Records are those of data/sources/clip_record.py. Within a shard the clips that have no caption come
last, so that leaving them out is counting, and captions lie beside the shards, so that
`vidgen encode` reads no video. `vidgen prepare` writes such a folder; so do `write_shard`, for each
shard, and then `ShardsManifest.write`.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidgen import paths
from vidgen.data.source import BadExample, Example, Source, captioned
from vidgen.data.sources.array_records import (
    SUFFIX,
    count_records,
    read_record,
    write_records,
)
from vidgen.data.sources.caption_text import unique
from vidgen.data.sources.clip_record import ClipRecord
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import KINDS, packed_shape, read_content
from vidgen.types import VideoShape

MANIFEST = "manifest.json"
_VERSION = 1
_NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<shards>\d{5})" + re.escape(SUFFIX))

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard as a manifest describes it.

    Attributes:
      file: its name.
      examples: records in it.
      captioned: how many of them, the first ones, have a caption.
      size: the size of the file, in bytes.
    """

    file: str
    examples: int
    captioned: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsManifest:
    """The contents of a folder; it is written when all shards are complete.

    Attributes:
      shards: all of them, in order.
      clip: height, width and fps of the clips where all have the same, else None.
      statistics: statistics of the clips, for people to read.
      examples: records in all shards.
    """

    shards: Sequence[Shard]
    clip: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", sum(shard.examples for shard in self.shards))

    @classmethod
    def read(cls, folder: str | os.PathLike) -> ShardsManifest:
        """Read the manifest of a folder.

        Args:
          folder: the folder that `vidgen prepare` wrote, here or in an object store.

        Returns:
          The manifest; whether its shards are there is not looked at.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it cannot be read, or is of another version.
        """
        path = paths.join(folder, MANIFEST)
        if not paths.is_file(path):
            raise FileNotFoundError(
                f"{folder} holds no finished records: there is no {MANIFEST} in it; name the "
                "RECORDS of a vidgen prepare that has ended, or run it again: it resumes."
            )
        try:
            fields = json.loads(paths.read(path))
            if (version := fields.pop("version")) == _VERSION:
                shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
                return cls(shards=shards, **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no manifest of clips ({error}).") from error
        raise ValueError(f"{path} is of version {version}; this vidgen reads {_VERSION}.")

    def write(self, folder: str | os.PathLike) -> None:
        """Write the manifest, after which the folder can be read.

        Args:
          folder: where all shards are complete.
        """
        fields = {"version": _VERSION} | dataclasses.asdict(self)
        text = json.dumps(fields, indent=1, ensure_ascii=False)
        paths.write(paths.join(folder, MANIFEST), text.encode())


def shard_name(number: int, shards: int) -> str:
    """Name the file of a shard.

    Args:
      number: the number of the shard, from 0.
      shards: how many there will be.

    Returns:
      A name without its folder.
    """
    return f"clips-{number:05}-of-{shards:05}{SUFFIX}"


def write_shard(
    folder: str | os.PathLike, number: int, shards: int, clips: Iterable[ClipRecord]
) -> Shard:
    """Write a shard and the file of its captions.

    Args:
      folder: where; it must be there.
      number: from 0.
      shards: how many there will be.
      clips: taken one at a time; those without a caption last.

    Returns:
      What a manifest says of the shard.

    Raises:
      ValueError: a clip with a caption comes after one without.
      OSError: it cannot be written.
    """
    file = shard_name(number, shards)
    path = paths.join(folder, file)
    lines: list[str] = []
    captioned = 0

    def packed() -> Iterator[bytes]:
        nonlocal captioned
        for clip in clips:
            if clip.captions and captioned < len(lines):
                raise ValueError(f"{path}: clip {clip.key} with a caption comes after one without.")
            captioned += bool(clip.captions)
            row: dict[str, Any] = {"key": clip.key, "caption": clip.caption}
            if clip.other_captions:
                row["other_captions"] = list(clip.other_captions)
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
            yield clip.pack()

    write_records(path, packed(), compressed=False)
    paths.write(captions_file(path), "".join(lines).encode("utf-8", "surrogatepass"))
    size = paths.stat(path).size or 0
    return Shard(file=file, examples=len(lines), captioned=captioned, size=size)


def captions_file(shard: str | os.PathLike) -> str:
    """Name the file beside a shard that lists its captions.

    Args:
      shard: path of the shard.

    Returns:
      A path in the same folder; nothing need be there.
    """
    folder, slash, name = os.fspath(shard).rpartition("/")
    name = name.replace("clips-", "captions-", 1).removesuffix(SUFFIX)
    return f"{folder}{slash}{name}.jsonl"


class _Part(NamedTuple):
    """A shard to read: its path, its examples, and how many of these, the first, have a caption."""

    path: str
    examples: int
    captioned: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecords(Source):
    """The clips of a folder of records, or of several, shard by shard.

    Attributes:
      path: a folder that `vidgen prepare` wrote, here or in an object store, a pattern of such
        folders ("prepared/*"), or of shards ("prepared/clips-*.array_record"), which then need no
        manifest.
      shape: the shape of an example; for images its frames become 1.
      kind: "videos" or "images", what the records hold.
      missing_captions: "skip" leaves out clips without a caption (they are counted in a warning);
        "empty" trains on them as unconditional examples with the caption "".

    Raises:
      FileNotFoundError: nothing of that name, a shard is missing, or the folder is not finished.
      ValueError: a setting is wrong, or a shard is cut or no file of records.
    """

    path: str
    shape: VideoShape
    kind: str = "videos"
    missing_captions: str = "skip"

    def __post_init__(self) -> None:
        shape = packed_shape("ClipRecords", self.shape, self.kind, self.missing_captions)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "path", paths.expanded(self.path))
        if not len(self):  # wrong records are reported when they are configured
            raise FileNotFoundError(
                f"{self.path}: {len(self._parts)} shard(s) hold no clip with a caption; "
                "ClipRecords.missing_captions = 'empty' trains on clips without."
            )

    @functools.cached_property
    def _parts(self) -> tuple[_Part, ...]:
        if paths.is_folder(self.path):
            return tuple(_listed(self.path))
        matches = paths.glob(self.path)
        if not matches:
            raise FileNotFoundError(f"{self.path}: there is no folder and no shard of that name.")
        folders = [path for path in matches if paths.is_folder(path)]
        if folders:
            return tuple(part for folder in folders for part in _listed(folder))
        return tuple(_counted(matches))

    @property
    def stored_files(self) -> Sequence[str]:
        """The files of the shards."""
        return [part.path for part in self._parts]

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """How many examples each shard and those before it have together."""
        skip = self.missing_captions == "skip"
        without = sum(part.examples - part.captioned for part in self._parts)
        if without:
            done = "skipped" if skip else 'used with the caption ""'
            log.warning("%d clips in %s have no caption (%s)", without, self.path, done)
        return np.cumsum([part.captioned if skip else part.examples for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def captions(self) -> Iterator[str]:
        """List the captions of all clips, from the files beside the shards if they exist.

        See `Source.captions`.
        """
        for part in self._parts:
            wanted = part.captioned if self.missing_captions == "skip" else part.examples
            yield from _captions(part.path, wanted)

    def file(self, index: int) -> Packed:
        """Read the video or image of a record out of its shard; see `Source.file`."""
        return self._record(index)[0]

    def left_out(self) -> Iterator[tuple[str, str]]:
        """List the records that have no caption; see `Source.left_out`."""
        for part in self._parts if self.missing_captions == "skip" else ():
            for number in range(part.captioned, part.examples):
                yield f"{part.path}[{number}]", "it has no caption"

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read a clip from a random place of a record's video, or its image; see `Source.load`."""
        file, clip = self._record(index)
        captions = clip.captions
        if not captions and self.missing_captions == "skip":
            raise BadExample(file, "it has no caption")
        if clip.suffix not in KINDS[self.kind]:
            raise BadExample(
                file, f"it is not one of the {self.kind} ({' '.join(KINDS[self.kind])})"
            )
        video = read_content(file, self.kind, self.shape, rng)
        return captioned(video, captions, rng)

    def _record(self, index: int) -> tuple[Packed, ClipRecord]:
        """Read the content of a record as a file, and the record."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        record = index - (int(self._ends[number - 1]) if number else 0)
        shard = self._parts[number].path
        name = f"{shard}[{record}]"
        try:
            clip = ClipRecord.unpack(read_record(shard, record))
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{shard}: ").rstrip(".")
            raise BadExample(name, reason) from error
        return Packed(f"{name}/{clip.key}{clip.suffix}", clip.content), clip


def _listed(folder: str) -> Iterator[_Part]:
    """List the shards in the manifest of a folder, checked to be complete."""
    manifest = ShardsManifest.read(folder)
    _check_there(folder, [shard.file for shard in manifest.shards])
    for shard in manifest.shards:
        path = paths.join(folder, shard.file)
        # A store keeps objects whole, and is asked for each.
        size = shard.size if paths.is_remote(path) else os.path.getsize(path)
        if size != shard.size:
            raise ValueError(
                f"shard {path} has {size} bytes, the manifest says {shard.size}: it is cut or of "
                "another data set; copy it again."
            )
        yield _Part(path, shard.examples, shard.captioned)


def _counted(files: Sequence[str]) -> Iterator[_Part]:
    """List shards that have no manifest; those of the same set must all be there."""
    wanted: dict[str, dict[str, None]] = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        if match := _NUMBERED.fullmatch(name):
            stem, shards = match["stem"], int(match["shards"])
            names = (f"{stem}-{n:05}-of-{shards:05}{SUFFIX}" for n in range(shards))
            wanted.setdefault(folder, {}).update(dict.fromkeys(names))
    for folder, names in wanted.items():
        _check_there(folder or ".", list(names))
    for path in files:
        count = count_records(path)
        yield _Part(path, count, count)


def _check_there(folder: str, names: Sequence[str]) -> None:
    there = paths.names_in(folder)
    if missing := [name for name in names if name not in there]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{folder}: there is no shard {missing[0]}{more}; copy it again.")


def _captions(shard: str, count: int) -> Iterator[str]:
    """Read the captions of the first `count` clips of a shard."""
    path = captions_file(shard)
    if not paths.is_file(path):
        for number in range(count):
            yield from ClipRecord.unpack(read_record(shard, number)).captions or ("",)
        return
    with paths.open_binary(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", errors="surrogatepass")
        for number, line in zip(range(count), lines, strict=False):
            try:
                row = json.loads(line)
                yield from unique((row["caption"], *row.get("other_captions", ()))) or ("",)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} line {number + 1} has no caption.") from error
