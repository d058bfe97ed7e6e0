"""Encoded captions on disk: written once, read while training in the place of an encoder.

    FOLDER/manifest.json                  encoder (with its weights), length, dim, dtype, parts
           part_00003.json                a finished part: captions, fingerprint of them
           text-00003-000012.array_record encoded captions, a record each
           text-00003-000012.npy          SHA-256[:16] of each caption, in the same order

A caption belongs to part (hash mod parts), so no two processes encode the same one, whatever source
it comes from. A shard gets its name when it is complete: one that was being written when a process
was killed is written again, and a caption is never there twice. Records hold the real tokens only.

The folder may be in an object store (vidgen/paths.py). Records are read from files of this machine:
a shard is copied to ~/.cache/vidgen/copies at its first use, which takes as much room there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, cast

import ml_dtypes
import numpy as np
from jaxtyping import Float

from vidgen import paths
from vidgen.data.cache.cache_folders import (
    CacheError,
    CacheManifest,
    complete_shards,
    done,
    path_in,
)
from vidgen.data.sources.array_records import read_record, write_records
from vidgen.types import TextEmbedding, TextEncoder

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_HASH = 16
# What the name of an encoder ends with that was built without its weights (text/t5.py).
_UNKNOWN = "-without-weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextCacheManifest(CacheManifest):
    """What a cache of captions holds.

    Attributes:
      encoder: its name, which tells its weights.
      length: tokens that captions were cut to.
      dim: width of a token.
      dtype: of the stored states.
    """

    holds = "captions"

    encoder: str
    length: int
    dim: int
    dtype: str


def key_of(caption: str) -> bytes:
    """What a caption is found by."""
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()[:_HASH]


def own_captions(
    captions: Iterable[str], part: int, parts: int, done: Iterable[bytes] = ()
) -> Iterator[str]:
    """The captions of one part but those `done`, each once, in the order in which they come."""
    seen = set(done)
    for caption in captions:
        key = key_of(caption)
        if int.from_bytes(key[:8], "little") % parts == part and key not in seen:
            seen.add(key)
            yield caption


def written(folder: str | os.PathLike, part: int) -> int:
    """How many complete shards a part has: 0, 1, ... without a gap."""
    return _complete(paths.names_in(paths.expanded(folder)), part)


def _complete(names: Set[str], part: int) -> int:
    """The same, of the names in the folder."""
    return complete_shards(names, lambda number: set(_shard(part, number)))


def write_shard(
    folder: str | os.PathLike,
    part: int,
    number: int,
    captions: Sequence[str],
    text: TextEmbedding,
    *,
    dtype: str,
) -> None:
    """Writes one complete shard."""
    records, keys = (path_in(folder, name) for name in _shard(part, number))
    rows = zip(np.asarray(text.tokens), np.asarray(text.mask), strict=True)
    write_records(records, (_packed(tokens, mask, dtype) for tokens, mask in rows))
    table = io.BytesIO()
    np.save(table, np.frombuffer(b"".join(map(key_of, captions)), np.dtype((np.void, _HASH))))
    paths.write(keys, table.getvalue())  # last: it says that the shard is complete


def _packed(tokens: np.ndarray, mask: np.ndarray, dtype: str) -> bytes:
    where = np.flatnonzero(mask).astype(np.uint16)
    states = np.ascontiguousarray(tokens[where]).astype(DTYPES[dtype])
    return np.uint16(len(where)).tobytes() + where.tobytes() + states.tobytes()


def finish_part(folder: str | os.PathLike, part: int) -> int:
    """Says that a part has all its captions, and returns how many these are."""
    count, mark = 0, 0
    for key in keys_of(folder, part):
        count, mark = count + 1, mark ^ int.from_bytes(key, "little")
    found = {"captions": count, "fingerprint": f"{mark:032x}"}
    paths.write(path_in(folder, done(part)), json.dumps(found).encode())
    return count


def keys_of(folder: str | os.PathLike, part: int) -> Iterator[bytes]:
    """The keys in all complete shards of a part."""
    for number in range(written(folder, part)):
        yield from (bytes(key) for key in _keys(folder, _shard(part, number)[1]))


def _keys(folder: str | os.PathLike, name: str) -> np.ndarray:
    return np.load(io.BytesIO(paths.read(path_in(folder, name))))


def _shard(part: int, number: int) -> tuple[str, str]:
    """Names of the (records, keys) of a shard."""
    stem = f"text-{part:05}-{number:06}"
    return f"{stem}.array_record", f"{stem}.npy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A text encoder that looks captions up, and encodes only what is not there.

    Attributes:
      path: the folder that `vidgen encode` wrote.
      encoder: the one that it stands for, for prompts that are no captions (samples, generating);
        it need not have its weights until then.

    Raises:
      CacheError: the cache is not finished, or is of another encoder.
    """

    path: str
    encoder: TextEncoder

    def __post_init__(self) -> None:
        manifest = self._manifest
        mine = {"length": self.encoder.length, "dim": self.encoder.dim}
        theirs = {"length": manifest.length, "dim": manifest.dim}
        name = self.encoder.name
        known = name.removesuffix(_UNKNOWN)
        same = manifest.encoder == name if known == name else manifest.encoder.startswith(known)
        if not same or mine != theirs:
            raise CacheError(
                f"the captions in {self.path} were encoded by {manifest.encoder} ({theirs}); this "
                f"run has {name} ({mine}). Use that encoder, or another cache."
            )
        there = paths.names_in(paths.expanded(self.path))
        missing = [part for part in range(manifest.parts) if done(part) not in there]
        if missing:
            raise CacheError(
                f"{self.path} is not finished: part {missing[0]} of {manifest.parts} is missing; "
                "run the same vidgen encode again, it goes on."
            )

    @functools.cached_property
    def _manifest(self) -> TextCacheManifest:
        return TextCacheManifest.read(self.path)

    @property
    def name(self) -> str:
        """That of the encoder."""
        return self._manifest.encoder

    @property
    def dim(self) -> int:
        """Width of a token state."""
        return self._manifest.dim

    @property
    def length(self) -> int:
        """Tokens of a caption."""
        return self._manifest.length

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """numpy float32 states [b s d], zero where the mask [b s] is False."""
        shape = (len(prompts), self.length)
        tokens, mask = np.zeros((*shape, self.dim), np.float32), np.zeros(shape, bool)
        places = [self._place(caption) for caption in prompts]
        for row, place in enumerate(places):
            if place is not None:
                where, states = self._read(*place)
                tokens[row, where], mask[row, where] = states, True
        rest = [row for row, place in enumerate(places) if place is None]
        if rest or not prompts:
            text = self.encoder([prompts[row] for row in rest])
            tokens[rest], mask[rest] = np.asarray(text.tokens), np.asarray(text.mask)
        # The struct's fields are declared as device arrays; numpy arrays are as good a leaf.
        return TextEmbedding(tokens=cast(Any, tokens), mask=cast(Any, mask))

    @functools.cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """All keys in order, (shard, record) of each, and the shards."""
        keys, places, shards = [], [], []
        there = paths.names_in(paths.expanded(self.path))
        for part in range(self._manifest.parts):
            for number in range(_complete(there, part)):
                records, table = _shard(part, number)
                found = _keys(self.path, table)
                keys.append(found.view(f"S{_HASH}").reshape(-1))
                place = np.stack([np.full(len(found), len(shards)), np.arange(len(found))], 1)
                places.append(place.astype(np.int32))
                shards.append(path_in(self.path, records))
        if not keys:
            return np.zeros(0, f"S{_HASH}"), np.zeros((0, 2), np.int32), []
        flat = np.concatenate(keys)
        order = np.argsort(flat, kind="stable")
        return flat[order], np.concatenate(places)[order], shards

    def _place(self, caption: str) -> tuple[int, int] | None:
        """(shard, record) of a caption; None where it is not there."""
        keys, places, _ = self._index
        key = np.frombuffer(key_of(caption), f"S{_HASH}")[0]
        at = int(np.searchsorted(keys, key))
        if at == len(keys) or keys[at] != key:
            return None
        return int(places[at, 0]), int(places[at, 1])

    def _read(self, shard: int, record: int) -> tuple[np.ndarray, Float[np.ndarray, "n d"]]:
        """The places of the real tokens of a caption, and their states."""
        data = read_record(self._index[2][shard], record)
        count = int(np.frombuffer(data[:2], np.uint16)[0])
        where = np.frombuffer(data[2 : 2 + 2 * count], np.uint16).astype(np.int64)
        states = np.frombuffer(data[2 + 2 * count :], DTYPES[self._manifest.dtype])
        return where, states.reshape(count, self.dim).astype(np.float32)
