"""Video tokens on disk: made once by `vidgen encode`, read while training in the place of videos.

    FOLDER/manifest.json                    tokenizer (with its weights), clip, grid, examples
           part_00003.json                  a finished part: examples, bad ones, fingerprint
           tokens-00003-000012.array_record a record for each example of a shard

Example i of a source, cut for the d-th time, is number n = d len(source) + i; it belongs to part
n mod parts. A record is found by its number alone, so there is no index. A shard gets its name
when it is complete: one that was being written when a process was killed is written again, and no
example is lost or there twice. An example that cannot be used keeps its place, with the reason.

The folder may be in an object store (vidgen/paths.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgpack
import numpy as np
from jaxtyping import Int

from vidgen import paths
from vidgen.data.cache.cache_folders import (
    CacheError,
    CacheManifest,
    complete_shards,
    done,
    path_in,
)
from vidgen.data.source import BadExample, Source, TokenExample
from vidgen.data.sources.array_records import RecordsError, read_all, read_record, write_records
from vidgen.data.sources.caption_text import drawn
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCacheManifest(CacheManifest):
    """What a cache of tokens holds.

    Attributes:
      tokenizer: identity of the network and its weights.
      codes: size of its codebook; tokens are below it.
      grid: tokens of a clip, (time, rows, columns).
      clip: of the videos: frames, height, width, channels, fps.
      examples: of the source.
      draws: how often each of them was cut.
      seed: of the cuts.
    """

    holds = "tokens"

    tokenizer: str
    codes: int
    grid: tuple[int, int, int]
    clip: tuple[int | float, ...]
    examples: int
    draws: int
    seed: int

    @property
    def numbers(self) -> int:
        """Records of all parts."""
        return self.examples * self.draws

    def of_part(self, part: int) -> range:
        """The numbers of a part, in order."""
        return range(part, self.numbers, self.parts)

    def shards(self, part: int) -> int:
        """How many shards a part has."""
        return -(-len(self.of_part(part)) // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """Of a stored token."""
        return np.dtype("<u2" if self.codes <= 1 << 16 else "<u4")


def written(folder: str | os.PathLike, part: int) -> int:
    """How many complete shards a part has: 0, 1, ... without a gap."""
    there = paths.names_in(paths.expanded(folder))
    return complete_shards(there, lambda number: {_shard(part, number)})


def write_shard(
    folder: str | os.PathLike,
    part: int,
    number: int,
    examples: Sequence[TokenExample | BadExample],
    dtype: np.dtype,
) -> None:
    """Writes one complete shard."""
    records = (_packed(example, dtype) for example in examples)
    write_records(path_in(folder, _shard(part, number)), records)


def _packed(example: TokenExample | BadExample, dtype: np.dtype) -> bytes:
    if isinstance(example, BadExample):
        record: dict[str, Any] = {"path": example.path, "reason": example.reason}
    else:
        tokens = np.ascontiguousarray(example.tokens.astype(dtype))
        record = {"tokens": tokens.tobytes(), "caption": example.caption}
        record["independent"] = example.independent_frames
        if example.captions:
            record["captions"] = example.captions
    return cast(bytes, msgpack.packb(record, unicode_errors="surrogatepass"))


def finish_part(folder: str | os.PathLike, part: int) -> dict[str, Any]:
    """Says that a part has all its examples; returns what it holds: examples, bad, fingerprint."""
    count, bad, digest = 0, 0, hashlib.sha256()
    for number in range(written(folder, part)):
        for record in read_all(path_in(folder, _shard(part, number))):
            count, bad = count + 1, bad + ("reason" in _unpacked(record))
            digest.update(record)
    found = {"examples": count, "bad": bad, "fingerprint": digest.hexdigest()[:32]}
    paths.write(path_in(folder, done(part)), json.dumps(found).encode())
    return found


def _shard(part: int, number: int) -> str:
    return f"tokens-{part:05}-{number:06}.array_record"


def _unpacked(record: bytes) -> dict[str, Any]:
    return msgpack.unpackb(record, unicode_errors="surrogatepass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCache(Source):
    """The tokens of a folder, as a source.

    Attributes:
      path: the folder that `vidgen encode` wrote.
      shape: the clip that the model is for; that of the cache must be equal.
      tokenizer: identity of the tokenizer that the model has (`runs.trained.fingerprint`); ""
        takes tokens of any.

    Raises:
      CacheError: the cache is not finished, or of another tokenizer or clip.
    """

    path: str
    shape: VideoShape
    tokenizer: str = ""

    def __post_init__(self) -> None:
        manifest = self._manifest
        if self.tokenizer and manifest.tokenizer != self.tokenizer:
            raise CacheError(
                f"the tokens in {self.path} were made by the tokenizer {manifest.tokenizer}; this "
                f"run has {self.tokenizer}. Take that tokenizer (TOKENIZER_DIR), or encode again."
            )
        if manifest.clip != clip_of(self.shape):
            raise CacheError(
                f"the tokens in {self.path} are of clips {manifest.clip}; this run has "
                f"{clip_of(self.shape)} (frames, height, width, channels, fps). Encode again."
            )
        there = paths.names_in(paths.expanded(self.path))
        for part in range(manifest.parts):
            wanted = [done(part), *(_shard(part, n) for n in range(manifest.shards(part)))]
            missing = next((name for name in wanted if name not in there), None)
            if missing is not None:
                raise CacheError(
                    f"{self.path} is not finished: {missing} is missing; run the same vidgen "
                    "encode again, it goes on."
                )

    @functools.cached_property
    def _manifest(self) -> TokenCacheManifest:
        return TokenCacheManifest.read(self.path)

    def __len__(self) -> int:
        return self._manifest.numbers

    @property
    def grid(self) -> tuple[int, int, int]:
        """The tokens of a clip."""
        return self._manifest.grid

    def captions(self) -> Iterator[str]:
        """Those of all usable examples."""
        for index in range(len(self)):
            with contextlib.suppress(BadExample):  # `load` will tell of it
                record = self._record(index)
                if "caption" in record:
                    yield from record.get("captions") or (record["caption"],)

    def load(self, index: int, rng: np.random.Generator) -> TokenExample:
        """Example `index`, with one of its captions.

        Raises:
          BadExample: its video could not be used.
        """
        record = self._record(index)
        if "reason" in record:
            raise BadExample(record["path"], record["reason"])
        tokens: Int[np.ndarray, "n"] = np.frombuffer(record["tokens"], self._manifest.dtype)
        captions = tuple(record.get("captions", ()))  # absent where there is one
        return TokenExample(
            tokens=tokens.reshape(self.grid).astype(np.int32),
            caption=drawn(captions or (record["caption"],), rng),
            independent_frames=record["independent"],
            captions=captions,
        )

    def _record(self, index: int) -> dict[str, Any]:
        place, part = divmod(index, self._manifest.parts)
        number, record = divmod(place, self._manifest.shard_size)
        shard = path_in(self.path, _shard(part, number))
        try:
            return _unpacked(read_record(shard, record))
        except RecordsError as error:
            reason = str(error).removeprefix(f"{shard}: ").rstrip(".")
            raise BadExample(f"{shard}[{record}]", reason) from error


def clip_of(shape: VideoShape) -> tuple[int | float, ...]:
    """What a manifest says of a clip: frames, height, width, channels, fps."""
    return (*shape.thwc, shape.fps)
