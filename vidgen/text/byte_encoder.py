"""A text encoder for unit tests: bytes to fixed random vectors, with nothing to download."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vidgen import checks
from vidgen.text import encoder
from vidgen.types import TextEmbedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteEncoder:
    """Encodes byte i of a prompt as table[byte i] + place[i], two fixed random tables.

    It knows nothing about language, so a model trained on it cannot generalise to new words. The
    empty prompt has no tokens and so equals the null prompt.

    Attributes:
      dim: width d of a token state.
      length: number of bytes (UTF-8) that are kept of a prompt.
      seed: seed of the random tables, which are the same on every machine (PCG64).
    """

    dim: int = 16
    length: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least(self, dim=1, length=1)

    @property
    def name(self) -> str:
        """The three settings, which determine every output."""
        return f"bytes-{self.dim}-{self.length}-{self.seed}"

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Encode the first `length` bytes of each prompt; see `TextEncoder.__call__`."""
        encoder.require_prompts(prompts)
        texts = [prompt.encode() for prompt in prompts]
        if max(len(text) for text in texts) > self.length:
            encoder.warn_truncated(self.name, self.length)
        padded = b"".join(text[: self.length].ljust(self.length, b"\0") for text in texts)
        ids = np.frombuffer(padded, np.uint8).reshape(len(texts), self.length)
        mask = np.arange(self.length) < np.array([len(text) for text in texts])[:, None]
        table, place = _tables(self.dim, self.length, self.seed)
        return encoder.host_embedding((table[ids] + place) * mask[..., None], mask)


@functools.cache
def _tables(
    dim: int, length: int, seed: int
) -> tuple[Float[np.ndarray, "256 d"], Float[np.ndarray, "s d"]]:
    """Draw vectors of the 256 bytes, and smaller ones of the places, so that order matters."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((256, dim), np.float32)
    return table, 0.5 * rng.standard_normal((length, dim), np.float32)
