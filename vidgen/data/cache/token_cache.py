"""Video tokens on disk: made once by `vidgen encode`, read while training in the place of videos.

    tokens-00003-000012.array_record    a record for each example (data/cache/cache_folders.py)
    part_00003.json                     examples of part 3, bad ones, a fingerprint

Example i of a source, cut for the d-th time, is number n = d len(source) + i; it belongs to part
n mod parts. A record is found by its number alone, so there is no index. An example that cannot be
used keeps its place, with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgpack
import numpy as np
from jaxtyping import Int

from vidgen.data.cache.cache_folders import CacheError, CacheManifest, CacheShards
from vidgen.data.source import BadExample, Source, TokenExample
from vidgen.data.sources.array_records import RecordsError
from vidgen.data.sources.caption_text import drawn
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCacheManifest(CacheManifest):
    """What a cache of tokens holds.

    Attributes:
      tokenizer: fingerprint of the weights of the tokenizer.
      codes: size of its codebook; tokens are smaller.
      grid: the tokens of a clip, (time, rows, columns).
      clip: the shape of the videos: frames, height, width, channels, fps.
      examples: how many the source has.
      draws: how many clips were cut from each example.
      seed: the seed of the random places of the clips.
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
        """How many records all parts have."""
        return self.examples * self.draws

    def of_part(self, part: int) -> range:
        """Return the numbers of the examples of a part, in order.

        Args:
          part: number of the part.

        Returns:
          Numbers n = d len(source) + i of example i in draw d.
        """
        return range(part, self.numbers, self.parts)

    def shards(self, part: int) -> int:
        """Return how many shards a part has when it is finished.

        Args:
          part: number of the part.

        Returns:
          The number; the last shard may not be full.
        """
        return -(-len(self.of_part(part)) // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """The type of a stored token."""
        return np.dtype("<u2" if self.codes <= 1 << 16 else "<u4")


@dataclasses.dataclass(frozen=True)
class TokenShards(CacheShards):
    """The shards of tokens in a folder."""

    name = "tokens"

    def add(
        self,
        part: int,
        number: int,
        examples: Sequence[TokenExample | BadExample],
        dtype: np.dtype,
    ) -> None:
        """Write one complete shard.

        Args:
          part: number of the part.
          number: the number of the shard in its part.
          examples: the tokens in the order of `of_part`, or why there are none.
          dtype: to store the tokens in (`TokenCacheManifest.dtype`).
        """
        self.write(part, number, (_packed(example, dtype) for example in examples))

    def finish_part(self, part: int) -> dict[str, Any]:
        """Mark a part as finished.

        Args:
          part: number of the part.

        Returns:
          The summary that is written: `examples`, how many of them are `bad`, and a `fingerprint`.
        """
        count, bad, digest = 0, 0, hashlib.sha256()
        for record in self.read_all(part):
            count, bad = count + 1, bad + ("reason" in _unpacked(record))
            digest.update(record)
        summary = {"examples": count, "bad": bad, "fingerprint": digest.hexdigest()[:32]}
        self.finish(part, summary)
        return summary


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


def _unpacked(record: bytes) -> dict[str, Any]:
    return msgpack.unpackb(record, unicode_errors="surrogatepass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCache(Source):
    """The tokens in a folder, as a source.

    Attributes:
      path: the folder that `vidgen encode` wrote.
      shape: the clip that the model is for; the cache must have the same.
      tokenizer: fingerprint of the tokenizer that the model has (`train.frozen.fingerprint`); ""
        takes the tokens of any.

    Raises:
      CacheError: the cache is not finished, or is of another tokenizer or clip.
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
        TokenShards(self.path).check_finished(map(manifest.shards, range(manifest.parts)))

    @functools.cached_property
    def _manifest(self) -> TokenCacheManifest:
        return TokenCacheManifest.read(self.path)

    def __len__(self) -> int:
        return self._manifest.numbers

    @property
    def grid(self) -> tuple[int, int, int]:
        """The tokens of a clip: (time, rows, columns)."""
        return self._manifest.grid

    def captions(self) -> Iterator[str]:
        """List the captions of all examples that can be used; see `Source.captions`."""
        for index in range(len(self)):
            with contextlib.suppress(BadExample):  # `load` reports it
                record = self._record(index)
                if "caption" in record:
                    yield from record.get("captions") or (record["caption"],)

    def load(self, index: int, rng: np.random.Generator) -> TokenExample:
        """Read the tokens of an example and one of its captions; see `Source.load`.

        Raises:
          BadExample: its video could not be used, or its record is damaged.
        """
        record = self._record(index)
        if "reason" in record:
            raise BadExample(record["path"], record["reason"])
        tokens: Int[np.ndarray, "n"] = np.frombuffer(record["tokens"], self._manifest.dtype)
        captions = tuple(record.get("captions", ()))  # absent if there is only one
        return TokenExample(
            tokens=tokens.reshape(self.grid).astype(np.int32),
            caption=drawn(captions or (record["caption"],), rng),
            independent_frames=record["independent"],
            captions=captions,
        )

    def _record(self, index: int) -> dict[str, Any]:
        place, part = divmod(index, self._manifest.parts)
        number, record = divmod(place, self._manifest.shard_size)
        shards = TokenShards(self.path)
        try:
            return _unpacked(shards.read(part, number, record))
        except RecordsError as error:
            shard = shards.path(part, number)
            reason = str(error).removeprefix(f"{shard}: ").rstrip(".")
            raise BadExample(f"{shard}[{record}]", reason) from error


def clip_of(shape: VideoShape) -> tuple[int | float, ...]:
    """Describe a clip as a manifest does.

    Args:
      shape: the shape of the clip.

    Returns:
      (frames, height, width, channels, fps).
    """
    return (*shape.thwc, shape.fps)
