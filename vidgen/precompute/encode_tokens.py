"""Encoding the videos of a data set once, for many trainings of a transformer: `vidgen encode`.

Every process encodes the examples of its own part and writes them shard by shard
(data/cache/token_cache.py). Killed at any moment, the same command resumes after the last
complete shard.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vidgen.data.cache import token_cache
from vidgen.data.pipeline import in_order
from vidgen.data.source import BadExample, Example, Source, TokenExample
from vidgen.data.video.transforms import to_float
from vidgen.progress import progress_bar
from vidgen.train.batches import this_process, wait_for_all_processes
from vidgen.train.frozen import fingerprint
from vidgen.types import Frozen, Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeTokens:
    """The run; calling it encodes every example that is not there yet.

    Attributes:
      source: the data whose videos are encoded.
      tokenizer: a `VideoTokenizer`.
      weights: loads {"tokenizer": its weights}.
      output: folder to write.
      draws: clips cut from each example, at random places; 1 where a file is no longer than a clip.
      seed: the seed of the cuts.
      batch_size: clips encoded at a time.
      shard_size: examples of a shard, what a killed process has to do again at most.
      workers: processes that read videos; 0 reads in a thread of this one.
    """

    source: Source
    tokenizer: Any
    weights: Callable[[], Frozen]
    output: str
    draws: int = 1
    seed: int = 0
    batch_size: int = 16
    shard_size: int = 1024
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("batch_size", 1), ("shard_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"EncodeTokens.{name} is {getattr(self, name)}; it must be >= {least}."
                )
        if not str(self.output):
            raise ValueError("TOKEN_CACHE is empty; name a folder for the tokens.")

    def __call__(self) -> None:
        """Encode what is missing, and log how many examples there are.

        Of several processes each returns when all parts are there, so that a training may follow.
        """
        part, parts = this_process()
        shape, frozen = self.source.shape, self.weights() or {}
        manifest = token_cache.TokenCacheManifest(
            tokenizer=fingerprint(lambda: frozen),
            codes=self.tokenizer.codes,
            grid=self.tokenizer.grid(shape.frames, shape.height, shape.width),
            clip=token_cache.clip_of(shape),
            examples=len(self.source),
            draws=self.draws,
            seed=self.seed,
            parts=parts,
            shard_size=self.shard_size,
        )
        manifest.agree(self.output)
        shards = token_cache.TokenShards(self.output)
        done = shards.count(part)
        if done < manifest.shards(part):
            self._encode(frozen["tokenizer"], manifest, part, done)
        summary = shards.finish_part(part)
        count, bad = summary["examples"], summary["bad"]
        log.info("%d examples are in %s, %d of them cannot be used", count, self.output, bad)
        wait_for_all_processes("tokens encoded")

    def _encode(
        self, params: Params, manifest: token_cache.TokenCacheManifest, part: int, done: int
    ) -> None:
        """Write the shards of a part from number `done` on."""
        encode, shards = jax.jit(self.tokenizer.encode), token_cache.TokenShards(self.output)
        numbers = manifest.of_part(part)[done * self.shard_size :]
        loaded = in_order(self.source, numbers, seed=self.seed, workers=self.workers)
        total = len(manifest.of_part(part))
        with progress_bar(
            total, initial=total - len(numbers), unit=" clips", desc="encoding"
        ) as progress:
            for number in range(done, manifest.shards(part)):
                of_shard = itertools.islice(loaded, self.shard_size)
                shard: list[TokenExample | BadExample] = []
                while batch := list(itertools.islice(of_shard, self.batch_size)):
                    shard += self._encoded(encode, params, batch)
                    progress.update(len(batch))
                shards.add(part, number, shard, manifest.dtype)

    def _encoded(
        self, encode: Callable, params: Params, batch: Sequence[Any]
    ) -> Iterator[TokenExample | BadExample]:
        """Encode examples; batches are padded to one size, so that one program is compiled."""
        video = np.zeros((self.batch_size, *self.source.shape.thwc), np.float32)
        for row, example in enumerate(batch):
            if isinstance(example, Example):
                video[row] = to_float(example.video)
        tokens = np.asarray(encode(params, video))
        for row, example in enumerate(batch):
            if isinstance(example, BadExample):
                yield example
                continue
            # Of unrelated images the first alone is trained on (phenaki/token_batch.py).
            captions = example.caption
            yield TokenExample(
                tokens=tokens[row],
                caption=captions if isinstance(captions, str) else captions[0],
                independent_frames=example.independent_frames,
                captions=example.captions,
            )
