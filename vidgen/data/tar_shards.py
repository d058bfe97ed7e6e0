"""Captioned videos or images in tar files, as WebDataset, img2dataset and video2dataset write them.

    00012.tar:  000120007.mp4   000120007.txt   000120007.json      one sample, by its key
                000120008.jpg   000120008.txt   ...                 (the name up to its first dot)

The caption is the .txt, or a value of the .json. Tars are read in place, in any order: where each
member begins is found once a shard and kept in a small file (`index_dir`), so memory does not grow
with the number of samples. Shards and indices may be in an object store (vidgen/paths.py), where a
member is read by its range of bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.data.captions import clean
from vidgen.data.files import Packed
from vidgen.data.images import KINDS, packed_shape, read_content
from vidgen.data.sources import BadExample, Example
from vidgen.types import VideoShape

_CAPTIONS = (".txt", ".json")
_NONE = 255  # no caption
_LONGEST = 16 << 20  # [guess] bytes of a .txt or .json; what is longer is no caption
_SIDE_BY_SIDE = 16  # [guess] shards in an object store that are indexed at the same time
_ROW = np.dtype(
    [("key", "S64"), ("suffix", "u1"), ("offset", "<i8"), ("size", "<i8")]
    + [("caption", "u1"), ("text_offset", "<i8"), ("text_size", "<i4")]
)
_VERSION = "1"  # of the rows above and of how they are found

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarShards:
    """The samples of some tar files, shard by shard.

    Attributes:
      path: a tar, a folder of them, or a pattern: "laion/*.tar", "laion/{00000..00199}.tar", where
        all that braces name must be there.
      shape: of an example; for images its frames become 1.
      kind: "videos" or "images", what to take of each sample.
      missing_captions: "skip" leaves out samples without a caption (they are counted in a warning);
        "empty" trains on them as unconditional examples with the caption "".
      caption_key: of the caption in a .json, which is read where there is no .txt.
      index_dir: folder of the indices; "" is ~/.cache/vidgen/shards.

    Raises:
      FileNotFoundError: no such shard, or nothing usable in any.
      ValueError: a setting is wrong, or a file is no tar.
    """

    path: str
    shape: VideoShape
    kind: str = "videos"
    missing_captions: str = "skip"
    caption_key: str = "caption"
    index_dir: str = ""

    def __post_init__(self) -> None:
        shape = packed_shape("TarShards", self.shape, self.kind, self.missing_captions)
        object.__setattr__(self, "shape", shape)
        _ = self._ends  # so that wrong shards are reported when they are configured

    @functools.cached_property
    def shards(self) -> tuple[str, ...]:
        """The tar files."""
        return tuple(_expanded(os.path.expanduser(os.fspath(self.path))))

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Of each shard, how many samples it and those before it have."""
        counts, without = [], 0
        for number, rows in enumerate(self._all_rows()):
            missing = int((rows["caption"] == _NONE).sum())
            counts.append(len(rows) - (missing if self.missing_captions == "skip" else 0))
            without += missing
            if number and not number % 100:
                log.info("%d of %d shards are indexed", number, len(self.shards))
        total = sum(counts)
        if without:
            done = "skipped" if self.missing_captions == "skip" else 'used with the caption ""'
            log.warning("%d samples in %s have no caption (%s)", without, self.path, done)
        if not total:
            raise FileNotFoundError(
                f"{self.path}: {len(self.shards)} shard(s) hold no {self.kind} with a caption: a "
                f"sample is KEY{KINDS[self.kind][0]} beside KEY.txt or KEY.json with a "
                f"{self.caption_key!r}."
            )
        return np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def captions(self) -> Iterator[str]:
        """Those of all samples, but for what cannot be read, which `load` will tell of."""
        for number, shard in enumerate(self.shards):
            for row in self._used(number):
                with contextlib.suppress(BadExample):
                    yield self._caption(shard, shard, row)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """A clip from a random place of video `index`, or image `index`."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = self._used(number)[index - (self._ends[number - 1] if number else 0)]
        shard = self.shards[number]
        name = f"{shard}/{row['key'].decode(errors='replace')}{KINDS[self.kind][row['suffix']]}"
        file = Packed(name, _bytes(shard, name, row["offset"], row["size"]))
        caption = self._caption(shard, name, row)
        return Example(video=read_content(file, self.kind, self.shape, rng), caption=caption)

    def _caption(self, shard: str, name: str, row: Any) -> str:
        if row["caption"] == _NONE:
            return ""
        data = _bytes(shard, name, row["text_offset"], row["text_size"])
        try:
            text: Any = data.decode("utf-8-sig")
            if _CAPTIONS[row["caption"]] == ".json":
                text = json.loads(text)[self.caption_key]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise BadExample(name, f"its caption cannot be read ({what[:80]})") from error
        caption = "" if text is None else clean(str(text))
        if not caption and self.missing_captions == "skip":
            raise BadExample(name, "its caption is blank")
        return caption

    def _used(self, number: int) -> np.ndarray:
        """The samples of a shard that are examples."""
        rows = self._rows(number)
        return rows if self.missing_captions == "empty" else rows[rows["caption"] != _NONE]

    def _rows(self, number: int) -> np.ndarray:
        """The index of a shard, read from its file as it is needed."""
        shard = self.shards[number]
        return _index(shard, paths.version(shard), self.kind, self._folder)

    def _all_rows(self) -> Iterator[np.ndarray]:
        """Those of one shard after the other."""
        if not paths.is_remote(self.shards[0]):
            yield from map(self._rows, range(len(self.shards)))
            return
        with futures.ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            for start in range(0, len(self.shards), _SIDE_BY_SIDE):
                end = min(start + _SIDE_BY_SIDE, len(self.shards))
                yield from pool.map(self._rows, range(start, end))

    @property
    def _folder(self) -> str:
        return self.index_dir or paths.cache_folder("shards")


def _expanded(path: str) -> list[str]:
    """The shards that a path or a pattern names, in order."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if braces:
        first, last = braces.groups()
        names = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
        found = [path[: braces.start()] + name + path[braces.end() :] for name in names]
        if missing := _missing(found):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileNotFoundError(f"{path}: there is no shard {missing[0]}{more}.")
    elif paths.is_folder(path):
        found = sorted(
            paths.join(path, name)
            for name in paths.names_in(path)
            if name.endswith(".tar") and not name.startswith(".")
        )
    else:
        found = paths.glob(path)
    if not found:
        raise FileNotFoundError(f"{path}: there is no tar of that name, and none in such a folder.")
    return found


def _missing(shards: Sequence[str]) -> list[str]:
    """Those that are not there; of an object store by one listing, not by a question each."""
    folder = shards[0].rpartition("/")[0]
    if not paths.is_remote(shards[0]) or any(s.rpartition("/")[0] != folder for s in shards):
        return [shard for shard in shards if not paths.is_file(shard)]
    try:
        listed = paths.names_in(folder)
    except OSError:  # a web server need not have listings
        listed = set()
    rest = [shard for shard in shards if shard.rpartition("/")[2] not in listed]
    return [shard for shard in rest if listed or not paths.is_file(shard)]


@functools.lru_cache(maxsize=64)
def _index(shard: str, version: tuple[str, ...], kind: str, folder: str) -> np.ndarray:
    """A row for each sample of a shard, from its file in `folder`, which is made if need be."""
    size, changed = paths.stat(shard)
    place = shard if paths.is_remote(shard) else os.path.abspath(shard)
    mark = f"{_VERSION}:{place}:{size}:{changed}:{kind}"
    file = paths.join(folder, hashlib.sha256(mark.encode()).hexdigest()[:32] + ".npy")
    if not paths.is_file(file):
        rows = np.array(list(_found(shard, KINDS[kind])), _ROW)
        stream = io.BytesIO()
        np.save(stream, rows)
        paths.write(file, stream.getvalue())
    if paths.is_remote(file):
        return np.load(io.BytesIO(paths.read(file)))
    return np.load(file, mmap_mode="r" if os.path.getsize(file) > 4096 else None)


def _found(shard: str, suffixes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The samples of a shard in order: key, what it is and where, caption and where."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(shard):
        folder, _, base = name.rpartition("/")
        key, dot, suffix = base.partition(".")
        if key and dot:
            place = f"{folder}/{key}" if folder else key
            samples.setdefault(place, {})[f".{suffix.lower()}"] = (offset, size)
    for key, parts in samples.items():
        content = next((suffix for suffix in suffixes if suffix in parts), None)
        if content is None:
            continue
        caption = next((s for s in _CAPTIONS if 0 < parts.get(s, (0, 0))[1] <= _LONGEST), None)
        where = (_CAPTIONS.index(caption), *parts[caption]) if caption else (_NONE, 0, 0)
        yield (
            key.encode(errors="backslashreplace")[-64:],
            suffixes.index(content),
            *parts[content],
            *where,
        )


def _members(shard: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the files in a tar that are whole; a cut one is told of."""
    with paths.open_binary(shard) as stream:
        length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    whole = member.offset_data + member.size <= length
                    if member.isfile() and whole and not member.issparse():
                        yield member.name, member.offset_data, member.size
                    tar.members = []  # type: ignore[misc]  # it would keep all of them
        except tarfile.ReadError as error:
            stream.seek(0)
            packed = stream.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7")
            if packed or "unexpected end" not in str(error):
                hint = "it is compressed: unpack it first" if packed else str(error)
                raise ValueError(
                    f"shard {shard} is no tar that can be read in place ({hint})."
                ) from error
        stream.seek(max(0, length - tarfile.BLOCKSIZE))
        if any(stream.read()):
            log.warning("shard %s is cut: it lacks the end of a tar; what is whole is used", shard)


def _bytes(shard: str, name: str, offset: Any, size: Any) -> bytes:
    """A part of a shard."""
    try:
        data = paths.read(shard, int(offset), int(size))
    except OSError as error:
        raise BadExample(name, f"its shard cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise BadExample(name, "its shard is shorter than when it was indexed")
    return data
