"""Encoding the captions of a data set once, for many trainings: `vidgen encode`.

Every process encodes its own captions and writes them shard by shard (data/cache/text_cache.py).
Killed at any moment, the same command resumes after the last complete shard; run on more data
later, it adds what is new.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging

import jax
import numpy as np
from tqdm import tqdm

from vidgen.data.cache import text_cache
from vidgen.data.source import Source, Stream
from vidgen.progress import progress_bar
from vidgen.text.encoder import CachedEncoder
from vidgen.train.batches import encode_captions, this_process, wait_for_all_processes
from vidgen.types import TextEmbedding, TextEncoder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encode:
    """The run; calling it encodes every caption that is not there yet.

    Attributes:
      source: the data whose captions are encoded.
      text_encoder: the frozen encoder, by itself or behind a cache.
      output: folder to write.
      dtype: the type of the stored states: "float32" trains to the same numbers as the encoder
        itself, "bfloat16" takes half the room.
      batch_size: captions encoded at a time.
      shard_size: captions of a shard, what a killed process has to do again at most.
    """

    source: Source | Stream
    text_encoder: TextEncoder
    output: str
    dtype: str = "float32"
    batch_size: int = 64
    shard_size: int = 4096

    def __post_init__(self) -> None:
        if self.dtype not in text_cache.DTYPES:
            choices = ", ".join(text_cache.DTYPES)
            raise ValueError(f"Encode.dtype is {self.dtype!r}; choose one of {choices}.")
        for name in ("batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Encode.{name} is {getattr(self, name)}; it must be >= 1.")
        if not str(self.output):
            raise ValueError("TEXT_CACHE is empty; name a folder for the encoded captions.")

    def __call__(self) -> None:
        """Encode what is missing, and log how many captions there are.

        Of several processes each returns when all parts are there, so that a training may follow.
        """
        part, parts = this_process()
        encoder = self.text_encoder
        if isinstance(encoder, CachedEncoder):  # it would keep what is asked once
            encoder = encoder.encoder
        text_cache.TextCacheManifest(
            encoder=encoder.name,
            length=encoder.length,
            dim=encoder.dim,
            dtype=self.dtype,
            parts=parts,
            shard_size=self.shard_size,
        ).agree(self.output)
        shards = text_cache.TextShards(self.output)
        done = set(shards.keys_of(part))
        fresh = text_cache.own_captions(self.source.captions(), part, parts, done)
        with progress_bar(initial=len(done), unit=" captions", desc="encoding") as progress:
            while shard := list(itertools.islice(fresh, self.shard_size)):
                text = self._encoded(encoder, shard, progress)
                shards.add(part, shards.count(part), shard, text, dtype=self.dtype)
        count = shards.finish_part(part)
        log.info("%d captions are in %s, %d of them new", count, self.output, count - len(done))
        wait_for_all_processes("captions encoded")

    def _encoded(self, encoder: TextEncoder, captions: list[str], progress: tqdm) -> TextEmbedding:
        """Encode captions in batches of one size, so that one program is compiled."""
        batches = []
        for start in range(0, len(captions), self.batch_size):
            batch = captions[start : start + self.batch_size]
            text = encode_captions([*batch, *[""] * (self.batch_size - len(batch))], encoder)
            real = slice(len(batch))
            batches.append(jax.tree.map(lambda x, real=real: np.asarray(x)[real], text))
            progress.update(len(batch))
        return jax.tree.map(lambda *rows: np.concatenate(rows), *batches)
