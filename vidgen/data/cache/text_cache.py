"""Encoded captions on disk: written once, read while training in the place of an encoder.

    text-00003-000012.array_record    encoded captions (data/cache/cache_folders.py)
    text-00003-000012.npy             SHA-256[:16] of each caption, in the same order
    part_00003.json                   how many captions part 3 has, and a fingerprint of them

    record    n as uint16, the places of the n real tokens as uint16, their n states of width d

A caption belongs to part (hash mod parts), so no two processes encode the same one, whatever source
it comes from. The table is by caption and no copy of the data set, so one table serves every
source, mixture and stage; the encoder behind it takes whatever is not in the table.

Of a folder in an object store, a shard is copied to ~/.cache/vidgen/copies at its first use.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import ml_dtypes
import numpy as np
from jaxtyping import Float

from vidgen.data.cache.cache_folders import CacheError, CacheManifest, CacheShards
from vidgen.types import TextEmbedding, TextEncoder

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_HASH = 16
# What the name of an encoder ends with that was built without its weights (text/t5.py).
_UNKNOWN = "-without-weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextCacheManifest(CacheManifest):
    """What a cache of captions holds.

    Attributes:
      encoder: the name of the encoder, which identifies its weights.
      length: how many tokens captions were cut to.
      dim: the width of a token state.
      dtype: the type of the stored states, one of `DTYPES`.
    """

    holds = "captions"

    encoder: str
    length: int
    dim: int
    dtype: str


def key_of(caption: str) -> bytes:
    """Hash a caption to the key that it is found by.

    Args:
      caption: its text, to the letter.

    Returns:
      The first 16 bytes of its SHA-256.
    """
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()[:_HASH]


def own_captions(
    captions: Iterable[str], part: int, parts: int, done: Iterable[bytes] = ()
) -> Iterator[str]:
    """Choose the captions that one process encodes.

    Args:
      captions: the captions of the whole data set, in any order and any number of times.
      part: number of the process.
      parts: how many processes there are.
      done: keys of captions that are encoded already.

    Yields:
      Each caption of the part once, in the order in which they come.
    """
    seen = set(done)
    for caption in captions:
        key = key_of(caption)
        if int.from_bytes(key[:8], "little") % parts == part and key not in seen:
            seen.add(key)
            yield caption


@dataclasses.dataclass(frozen=True)
class TextShards(CacheShards):
    """The shards of encoded captions in a folder."""

    name = "text"
    keyed = True

    def add(
        self, part: int, number: int, captions: Sequence[str], text: TextEmbedding, *, dtype: str
    ) -> None:
        """Write one complete shard.

        Args:
          part: number of the part.
          number: the number of the shard in its part.
          captions: b captions.
          text: their states "b s d" and mask "b s".
          dtype: one of `DTYPES`, to store the states in.
        """
        rows = zip(np.asarray(text.tokens), np.asarray(text.mask), strict=True)
        self.write(part, number, (_packed(*row, dtype) for row in rows), [*map(key_of, captions)])

    def keys_of(self, part: int) -> Iterator[bytes]:
        """Read the keys of all captions in the complete shards of a part.

        Args:
          part: number of the part.

        Yields:
          The keys of `key_of`.
        """
        for number in range(self.count(part)):
            yield from (bytes(key) for key in self.keys(part, number))

    def finish_part(self, part: int) -> int:
        """Mark a part as finished, with the number of its captions and a fingerprint of their keys.

        Args:
          part: number of the part.

        Returns:
          The number of its captions.
        """
        count, mark = 0, 0
        for key in self.keys_of(part):
            count, mark = count + 1, mark ^ int.from_bytes(key, "little")
        self.finish(part, {"captions": count, "fingerprint": f"{mark:032x}"})
        return count


def _packed(tokens: np.ndarray, mask: np.ndarray, dtype: str) -> bytes:
    where = np.flatnonzero(mask).astype(np.uint16)
    states = np.ascontiguousarray(tokens[where]).astype(DTYPES[dtype])
    return np.uint16(len(where)).tobytes() + where.tobytes() + states.tobytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A text encoder that looks captions up, and encodes only those that it does not find.

    Attributes:
      path: the folder that `vidgen encode` wrote.
      encoder: the encoder that wrote the table. It encodes prompts that are no captions of the data
        (samples, generation), and needs its weights only then.

    Raises:
      CacheError: the cache is not finished, or was written by another encoder.
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
        TextShards(self.path).check_finished([None] * manifest.parts)

    @functools.cached_property
    def _manifest(self) -> TextCacheManifest:
        return TextCacheManifest.read(self.path)

    @property
    def name(self) -> str:
        """The name of the encoder, which identifies its weights."""
        return self._manifest.encoder

    @property
    def dim(self) -> int:
        """The width d of a token state."""
        return self._manifest.dim

    @property
    def length(self) -> int:
        """The number s of tokens of a caption."""
        return self._manifest.length

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Look prompts up in the table, and encode those that are not in it.

        Args:
          prompts: captions of the data, or any other text.

        Returns:
          float32 states "b s d" in numpy, zero where the mask "b s" is False.
        """
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
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys in order, and (part, shard, record) of each."""
        shards = TextShards(self.path)
        names = shards.list_names()
        keys, places = [np.zeros(0, f"S{_HASH}")], [np.zeros((0, 3), np.int32)]
        for part in range(self._manifest.parts):
            for number in range(shards.count(part, names)):
                table = shards.keys(part, number).view(f"S{_HASH}").reshape(-1)
                keys.append(table)
                places.append(np.full((len(table), 3), (part, number, 0), np.int32))
                places[-1][:, 2] = np.arange(len(table))
        flat = np.concatenate(keys)
        order = np.argsort(flat, kind="stable")
        return flat[order], np.concatenate(places)[order]

    def _place(self, caption: str) -> tuple[int, int, int] | None:
        """Return (part, shard, record) of a caption, or None if the table does not have it."""
        keys, places = self._index
        key = np.frombuffer(key_of(caption), f"S{_HASH}")[0]
        at = int(np.searchsorted(keys, key))
        if at == len(keys) or keys[at] != key:
            return None
        part, shard, record = places[at].tolist()
        return part, shard, record

    def _read(
        self, part: int, shard: int, record: int
    ) -> tuple[np.ndarray, Float[np.ndarray, "n d"]]:
        """Read the places of the real tokens of a caption, and their states."""
        data = TextShards(self.path).read(part, shard, record)
        count = int(np.frombuffer(data[:2], np.uint16)[0])
        where = np.frombuffer(data[2 : 2 + 2 * count], np.uint16).astype(np.int64)
        states = np.frombuffer(data[2 + 2 * count :], DTYPES[self._manifest.dtype])
        return where, states.reshape(count, self.dim).astype(np.float32)
