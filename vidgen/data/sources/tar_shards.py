"""Captioned videos or images in tar files, as WebDataset, img2dataset and video2dataset write them.

    00012.tar:  000120007.mp4   000120007.txt   000120007.json      one sample, by its name
                000120008.jpg   000120008.txt   ...                 without suffix
                clip.v1.mp4     clip.v1.txt
                view.front.mp4  view.json                           (the only video of key "view")

The caption is the .txt or, where that is blank or missing, a value of the .json: a text, or a list
of texts, one of which is drawn at each visit. WebDataset's key ends at the first dot of a name: a
key's only video, "KEY.front.mp4", may have the captions of KEY. Which of "KEY.left.mp4" and
"KEY.mask.mp4" they describe cannot be told, so these need a caption of their own name, or else are
passed over and counted.

Tars are read in place, in any order: where each member begins is found once a shard and kept in a
small file (`index_dir`), so memory does not grow with the number of samples. Shards and indices may
be in an object store (vidgen/paths.py), where a member is read by its range of bytes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.data.source import BadExample, Example, Source, captioned
from vidgen.data.sources.caption_text import JSON_BYTES, captions_in, parsed, unique
from vidgen.data.sources.captions import warn_once
from vidgen.data.sources.file_names import composed
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import KINDS, packed_shape, read_content
from vidgen.types import VideoShape

_PASSED_OVER = 255  # in the place of a suffix: a row of how many members (size) are not used
_SIDE_BY_SIDE = 16  # [guess] shards in an object store that are indexed at the same time
_ROW = np.dtype(
    [("key", "S64"), ("suffix", "u1"), ("offset", "<i8"), ("size", "<i8")]
    + [("text_offset", "<i8"), ("text_size", "<i4"), ("json_offset", "<i8"), ("json_size", "<i4")]
)
_VERSION = "2"  # of the rows above and of how they are found

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarShards(Source):
    """The samples of some tar files, shard by shard.

    Attributes:
      path: a tar, a folder of them, or a pattern: "laion/*.tar", "laion/{00000..00199}.tar", where
        all that braces name must be there.
      shape: of an example; for images its frames become 1.
      kind: "videos" or "images", what to take of each sample.
      missing_captions: "skip" leaves out samples without a caption (they are counted in a warning);
        "empty" trains on them as unconditional examples with the caption "".
      caption_key: of the caption in a .json, which is read where there is no .txt, or a blank one.
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
        return tuple(_expanded(paths.expanded(self.path)))

    @property
    def stored_files(self) -> Sequence[str]:
        """The tar files."""
        return self.shards

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """How many samples each shard and those before it have together."""
        counts, without, passed_over, example = [], 0, 0, ""
        for number, rows in enumerate(self._all_rows()):
            samples = _samples(rows)
            missing = int((~_captioned(samples)).sum())
            counts.append(len(samples) - (missing if self.missing_captions == "skip" else 0))
            without += missing
            if len(rows) > len(samples):
                passed_over += int(rows["size"][-1])
                name = rows["key"][-1].decode(errors="replace")
                example = example or f"{self.shards[number]}/{name}"
            if number and not number % 100:
                log.info("%d of %d shards are indexed", number, len(self.shards))
        total = sum(counts)
        if without:
            done = "skipped" if self.missing_captions == "skip" else 'used with the caption ""'
            log.warning("%d samples in %s have no caption (%s)", without, self.path, done)
        sample = (
            f"a sample is KEY{KINDS[self.kind][0]} beside KEY.txt or KEY.json with a "
            f"{self.caption_key!r}"
        )
        told = f"{passed_over} files in {self.path} are passed over, e.g. {example}"
        if not total:
            raise FileNotFoundError(
                f"{self.path}: {len(self.shards)} shard(s) hold no {self.kind} with a caption: "
                f"{sample}{f'; {told}' if passed_over else ''}."
            )
        if passed_over:
            warn_once(f"{told}; {sample}")
        return np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def captions(self) -> Iterator[str]:
        """List the captions of all samples but those that cannot be read (`load` reports them)."""
        for number, shard in enumerate(self.shards):
            for row in self._used(number):
                with contextlib.suppress(BadExample):
                    yield from self._captions(shard, shard, row) or ("",)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read a clip from a random place of video `index`, or image `index`."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = self._used(number)[index - (self._ends[number - 1] if number else 0)]
        shard = self.shards[number]
        name = f"{shard}/{row['key'].decode(errors='replace')}{KINDS[self.kind][row['suffix']]}"
        file = Packed(name, _bytes(shard, name, row["offset"], row["size"]))
        captions = self._captions(shard, name, row)
        return captioned(read_content(file, self.kind, self.shape, rng), captions, rng)

    def _captions(self, shard: str, name: str, row: Any) -> tuple[str, ...]:
        """The captions of a sample; () if it has none and needs none."""
        found: tuple[str, ...] = ()
        try:
            if row["text_size"]:
                data = _bytes(shard, name, row["text_offset"], row["text_size"])
                found = unique([data.decode("utf-8-sig")])
            if not found and row["json_size"]:
                data = _bytes(shard, name, row["json_offset"], row["json_size"])
                found = captions_in(self._value(parsed(data.decode("utf-8-sig"))))
        except ValueError as error:
            raise BadExample(name, f"its caption cannot be read ({str(error)[:120]})") from error
        if not found and self.missing_captions == "skip":
            raise BadExample(name, "its caption is blank")
        return found

    def _value(self, found: Any) -> Any:
        """The caption in the content of a .json."""
        if not isinstance(found, dict):
            return found
        if self.caption_key not in found:
            raise ValueError(f"its .json has no {self.caption_key!r}")
        return found[self.caption_key]

    def _used(self, number: int) -> np.ndarray:
        """The samples of a shard that are examples."""
        rows = _samples(self._rows(number))
        return rows if self.missing_captions == "empty" else rows[_captioned(rows)]

    def _rows(self, number: int) -> np.ndarray:
        """The index of a shard, read from its file when it is needed."""
        shard = self.shards[number]
        return _index(shard, paths.version(shard), self.kind, self._folder)

    def _all_rows(self) -> Iterator[np.ndarray]:
        """The indices of all shards, in order."""
        if not paths.is_remote(self.shards[0]):
            yield from map(self._rows, range(len(self.shards)))
            return
        with futures.ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            for start in range(0, len(self.shards), _SIDE_BY_SIDE):
                end = min(start + _SIDE_BY_SIDE, len(self.shards))
                yield from pool.map(self._rows, range(start, end))

    @property
    def _folder(self) -> str:
        return paths.expanded(self.index_dir) or paths.cache_folder("shards")


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
    """The shards that do not exist; an object store is asked for one listing, not for each."""
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
    """The index of a shard, one row for each sample, from its file in `folder`, made if need be."""
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


def _samples(rows: np.ndarray) -> np.ndarray:
    """The samples of an index, without the row that counts members that are not used."""
    return rows[:-1] if len(rows) and rows["suffix"][-1] == _PASSED_OVER else rows


def _captioned(rows: np.ndarray) -> np.ndarray:
    """Which samples have a file that may hold a caption."""
    return (rows["text_size"] > 0) | (rows["json_size"] > 0)


def _found(shard: str, suffixes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Read the rows of a shard: its samples in order, then the count of unused members, if any."""
    stems: dict[str, dict[str, tuple[int, int, str]]] = {}
    unused: dict[str, None] = {}
    for name, offset, size in _members(shard):
        stem, ending = posixpath.splitext(name)
        if posixpath.basename(name).startswith("."):
            continue
        unused[name] = None
        if (ending := ending.lower()) in (*suffixes, ".txt", ".json"):
            stems.setdefault(composed(stem), {})[ending] = (offset, size, name)
    keys = collections.Counter(
        _key(stem) for stem, parts in stems.items() if _content(parts, suffixes)
    )
    for stem, parts in stems.items():
        if not (content := _content(parts, suffixes)):
            continue
        texts = {ending: parts[ending] for ending in (".txt", ".json") if ending in parts}
        if (key := _key(stem)) != stem:
            of_key = stems.get(key, {})
            shared = {e: of_key[e] for e in (".txt", ".json") if e in of_key}
            if keys[key] == 1:
                texts = shared | texts
            elif not texts and (shared or _content(of_key, suffixes)):
                continue  # one of several members of a key, and none says what it is
        for *_, name in (parts[content], *texts.values()):
            unused.pop(name, None)
        places = [texts.get(ending, (0, 0))[:2] for ending in (".txt", ".json")]
        yield (
            stem.encode(errors="backslashreplace")[-64:],
            suffixes.index(content),
            *parts[content][:2],
            *(
                number
                for at, size in places
                for number in ((at, size) if size <= JSON_BYTES else (0, 0))
            ),
        )
    if unused:
        example = next(iter(unused)).encode(errors="backslashreplace")[-64:]
        yield example, _PASSED_OVER, 0, len(unused), 0, 0, 0, 0


def _key(stem: str) -> str:
    """The key of a sample in WebDataset: its name up to the first dot."""
    folder, slash, base = stem.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _content(parts: Mapping[str, Any], suffixes: Sequence[str]) -> str:
    """The suffix of the member that is the content of a sample; "" if there is none."""
    return next((suffix for suffix in suffixes if suffix in parts), "")


def _members(shard: str) -> Iterator[tuple[str, int, int]]:
    """List (name, offset, size) of the whole files in a tar; warn if the tar is cut."""
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
    """Read a part of a shard."""
    try:
        data = paths.read(shard, int(offset), int(size))
    except OSError as error:
        raise BadExample(name, f"its shard cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise BadExample(name, "its shard is shorter than when it was indexed")
    return data
