"""The index of a tar shard: which members are a sample, and where they begin.

    row    key, suffix, (offset, size) of the content, of its .txt and of its .json; size 0: none

A shard is read once for its index, which is kept in a small file and mapped into memory, so memory
does not grow with the number of samples. (Without an index, a sample in the middle of a shard would
take reading all before it.) What the indices of many shards count is kept in one more file, or each
of a thousand hosts would open all of them whenever it starts.

Members belong together if their names without suffix are equal, since names with dots are common.
WebDataset's key, which ends at the first dot, is used only if it has one video: "KEY.front.mp4"
may have the captions of KEY. Which of "KEY.left.mp4" and "KEY.mask.mp4" those describe cannot be
told, so such members need a caption of their own name, or else are not used, and counted.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import io
import logging
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.data.sources.caption_text import JSON_BYTES
from vidgen.data.sources.file_names import composed
from vidgen.data.sources.images import KINDS

_UNUSED = 255  # in the place of a suffix: the row of how many members (size) are not used
_ROW = np.dtype(
    [("key", "S64"), ("suffix", "u1"), ("offset", "<i8"), ("size", "<i8")]
    + [("text_offset", "<i8"), ("text_size", "<i4"), ("json_offset", "<i8"), ("json_size", "<i4")]
)
_COUNT = np.dtype([("samples", "<i8"), ("captioned", "<i8"), ("unused", "<i8")])
_VERSION = "2"  # of the rows above and of how they are found

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=64)
def read_index(shard: str, version: tuple[str, ...], kind: str, folder: str) -> np.ndarray:
    """Read the index of a shard, and make it at the first time.

    Args:
      shard: a tar, here or in an object store.
      version: the version of the shard (`paths.version`), so that a changed one is read anew.
      kind: "videos" or "images", what counts as the content of a sample.
      folder: where indices are kept.

    Returns:
      One row for each sample, mapped into memory where it is long; the last row may count members
      that are not used (`samples_of`).

    Raises:
      ValueError: the shard is no tar that can be read in place.
    """
    file = index_file(shard, kind, folder)
    if not paths.is_file(file):
        rows = np.array(list(_find_rows(shard, KINDS[kind])), _ROW)
        stream = io.BytesIO()
        np.save(stream, rows)
        paths.write(file, stream.getvalue())
    if paths.is_remote(file):
        return np.load(io.BytesIO(paths.read(file)))
    return np.load(file, mmap_mode="r" if os.path.getsize(file) > 4096 else None)


def index_file(shard: str, kind: str, folder: str) -> str:
    """Name the file of a shard's index, by where the shard is, its size and its mark.

    Args:
      shard: a tar, here or in an object store.
      kind: "videos" or "images".
      folder: where indices are kept.

    Returns:
      A path in `folder`; the file need not be there.
    """
    size, changed = paths.stat(shard)
    place = shard if paths.is_remote(shard) else os.path.abspath(shard)
    mark = f"{_VERSION}:{place}:{size}:{changed}:{kind}"
    return paths.join(folder, hashlib.sha256(mark.encode()).hexdigest()[:32] + ".npy")


def counted(
    shards: Sequence[str],
    stats: Sequence[paths.Stat],
    folder: str,
    kind: str,
    all_rows: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """Count the samples of each shard, those with a caption, and the members that are not used.

    Args:
      shards: the tar files.
      stats: size and mark of each; the counts are kept as long as these stay the same.
      folder: of the indices.
      kind: of content.
      all_rows: reads the index of each shard; it is called if the counts are not known.

    Returns:
      One row a shard: samples, captioned, unused.
    """
    mark = hashlib.sha256(f"{_VERSION}:{kind}".encode())
    for shard, stat in zip(shards, stats, strict=True):
        place = shard if paths.is_remote(shard) else os.path.abspath(shard)
        mark.update(f"\n{place}:{stat.size}:{stat.mark}".encode(errors="surrogateescape"))
    file = paths.join(folder, f"{mark.hexdigest()[:32]}.counts.npy")
    if len(shards) > 1 and paths.is_file(file):
        return np.load(io.BytesIO(paths.read(file)))
    counts = np.zeros(len(shards), _COUNT)
    for number, rows in enumerate(all_rows()):
        samples = samples_of(rows)
        unused = int(rows["size"][-1]) if len(rows) > len(samples) else 0
        counts[number] = len(samples), int(has_caption(samples).sum()), unused
        if number and not number % 100:
            log.info("%d of %d shards are indexed", number, len(shards))
    if len(shards) > 1:
        stream = io.BytesIO()
        np.save(stream, counts)
        paths.write(file, stream.getvalue())
    return counts


def samples_of(rows: np.ndarray) -> np.ndarray:
    """Return the samples of an index.

    Args:
      rows: as `read_index` returns them.

    Returns:
      The rows without the one that counts members that are not used.
    """
    return rows[:-1] if len(rows) and rows["suffix"][-1] == _UNUSED else rows


def has_caption(rows: np.ndarray) -> np.ndarray:
    """Find the samples that have a file that may hold a caption.

    Args:
      rows: samples of an index.

    Returns:
      A boolean for each.
    """
    return (rows["text_size"] > 0) | (rows["json_size"] > 0)


def _find_rows(shard: str, suffixes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
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
    samples = {stem: end for stem, parts in stems.items() if (end := _content(parts, suffixes))}
    keys = collections.Counter(map(_key, samples))
    for stem, content in samples.items():
        parts = stems[stem]
        texts = {ending: parts[ending] for ending in (".txt", ".json") if ending in parts}
        if (key := _key(stem)) != stem:
            of_key = stems.get(key, {})
            shared = {e: of_key[e] for e in (".txt", ".json") if e in of_key}
            if keys[key] == 1:
                texts = shared | texts
            elif not texts and (shared or key in samples):
                continue  # one of several members of a key, and none says what it is
        for *_, name in (parts[content], *texts.values()):
            unused.pop(name, None)
        row = [stem.encode(errors="backslashreplace")[-64:], suffixes.index(content)]
        row += parts[content][:2]
        for ending in (".txt", ".json"):
            at, size, _ = texts.get(ending, (0, 0, ""))
            row += (at, size) if size <= JSON_BYTES else (0, 0)
        yield tuple(row)
    if unused:
        example = next(iter(unused)).encode(errors="backslashreplace")[-64:]
        yield example, _UNUSED, 0, len(unused), 0, 0, 0, 0


def _key(stem: str) -> str:
    """Return the key of a sample in WebDataset: its name up to the first dot."""
    folder, slash, base = stem.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _content(parts: Mapping[str, Any], suffixes: Sequence[str]) -> str:
    """Return the suffix of the member that is the content of a sample; "" if there is none."""
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
