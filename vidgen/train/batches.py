"""Training batches, prepared one ahead in a thread: captions encoded, pixels in [-1, 1].

With each batch comes the position of the data after it, which is what a checkpoint taken after
training on it must hold; the reader itself is already one batch further.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vidgen.data.source import Batches
from vidgen.data.video.transforms import to_float
from vidgen.types import TextEmbedding, TextEncoder, TokenBatch, VideoBatch

_LOOK_EVERY = 0.01  # seconds: whether the step before has ended, while a batch is waited for


class EncodedBatch(NamedTuple):
    """A batch of this process, and the position of the data after it."""

    batch: VideoBatch | TokenBatch
    position: Any


def encode_batch(raw: dict[str, Any], encoder: TextEncoder) -> VideoBatch | TokenBatch:
    """Make the batch of a model, in numpy, out of the dict of a data pipeline.

    Args:
      raw: `video`, uint8 or float in [-1, 1], or `tokens`; `independent_frames`; `fps` where the
        data has several rates; and `caption`, all of them strings, or all of them sequences of
        strings, one for each frame.
      encoder: encodes the captions.

    Returns:
      A TokenBatch where the dict has `tokens`, else a VideoBatch with float32 pixels in [-1, 1].
    """
    independent: Any = np.asarray(raw["independent_frames"], bool)
    text = encode_captions(list(raw["caption"]), encoder)
    if "tokens" in raw:
        tokens: Any = np.asarray(raw["tokens"], np.int32)
        return TokenBatch(tokens=tokens, text=text, independent_frames=independent)
    video: Any = to_float(np.asarray(raw["video"]))
    rates: Any = raw.get("fps")
    return VideoBatch(video=video, text=text, independent_frames=independent, fps=rates)


def encode_captions(captions: Sequence[str | Sequence[str]], encoder: TextEncoder) -> TextEmbedding:
    """Encode b captions as "b s d", or b sequences of t captions as "b t s d".

    Training, generation and evaluation all encode here. A caption without a word is the null
    prompt, with no tokens at all, whatever the encoder makes of "": clips without a caption train
    the half of guidance that is without text, and an empty prompt asks for what they taught.

    Args:
      captions: b strings, or b sequences of t strings, one for each frame; at least one.
      encoder: turns strings into token states; it gets each different string of a batch once.

    Returns:
      float32 tokens and their mask, in numpy; `encoder.length` tokens, whatever the captions.
    """
    if isinstance(captions[0], str):
        return _encoded([str(caption) for caption in captions], encoder)
    rows = [[str(caption) for caption in row] for row in captions]
    unique = list(dict.fromkeys(caption for row in rows for caption in row))
    place = {caption: i for i, caption in enumerate(unique)}
    index = np.array([[place[caption] for caption in row] for row in rows])
    # The number of different captions changes with every batch: round it up to a power of two, so
    # that a compiled encoder sees few sizes.
    unique += [""] * ((1 << (len(unique) - 1).bit_length()) - len(unique))
    return jax.tree.map(lambda x: np.asarray(x)[index], _encoded(unique, encoder))


def is_empty(caption: str) -> bool:
    """Whether a caption or a prompt says nothing: it is empty or white space.

    Args:
      caption: one caption or prompt.

    Returns:
      True where it is trained and sampled as no text at all.
    """
    return not caption.strip()


def _encoded(captions: list[str], encoder: TextEncoder) -> TextEmbedding:
    """Encode one caption a row; rows of empty captions have no tokens."""
    empty = np.array([is_empty(caption) for caption in captions])
    if empty.all():
        shape = (len(captions), encoder.length)
        tokens: Any = np.zeros((*shape, encoder.dim), np.float32)
        mask: Any = np.zeros(shape, bool)
        return TextEmbedding(tokens=tokens, mask=mask)
    text = encoder(captions)
    if not empty.any():
        return text
    tokens, mask = np.array(text.tokens), np.array(text.mask)
    tokens[empty], mask[empty] = 0, False
    return TextEmbedding(tokens=tokens, mask=mask)


class BatchPrefetcher:
    """Prepares each `EncodedBatch`; `waited` adds up the seconds in which nothing else ran."""

    def __init__(self, iterator: Batches, encoder: TextEncoder) -> None:
        """Start to prepare the first batch at the iterator's position."""
        self._iterator = iterator
        self._encoder = encoder
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidgen-batches")
        self._next: Future[EncodedBatch | None] = self._pool.submit(self._prepare)
        self.waited = 0.0

    def next_while(self, is_running: Callable[[], bool]) -> EncodedBatch | None:
        """Return the next batch, and add to `waited` the time when nothing ran.

        A batch may come late because its captions are encoded on the device that the step before
        keeps busy: no time is lost until that step is done.

        Args:
          is_running: whether the device still has work.

        Returns:
          The batch; None where the data ended.
        """
        is_there = False
        while not is_there:
            start = time.perf_counter()
            is_there = bool(futures.wait([self._next], timeout=_LOOK_EVERY).done)
            if not is_running():
                self.waited += time.perf_counter() - start
        encoded = self._next.result()
        if encoded is not None:
            self._next = self._pool.submit(self._prepare)
        return encoded

    def _prepare(self) -> EncodedBatch | None:
        try:
            raw = next(self._iterator)
        except StopIteration:  # cannot travel through a Future
            return None
        return EncodedBatch(encode_batch(raw, self._encoder), self._iterator.get_state())

    def close(self) -> None:
        """Stop the thread and the reader's workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._iterator.close()


def this_process() -> tuple[int, int]:
    """Return (index, count) of this process among those of the run."""
    return jax.process_index(), jax.process_count()


def wait_for_all_processes(what: str) -> None:
    """Return when every process of the run has called this.

    Args:
      what: a name of the moment, the same in every process, for the message of a mismatch.
    """
    multihost_utils.sync_global_devices(what)
