"""A cache in front of any text encoder, and what all encoders share.

An encoder is a host function: it takes strings and returns numpy arrays, so that captions can be
encoded while the device trains. Prompts become `length` token states of width `dim`; the mask is
True on real tokens, and states where it is False are zero. The encoder is frozen: nothing is ever
differentiated with respect to it (Imagen Video conditions every stage on frozen T5-XXL).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from vidgen import checks
from vidgen.types import TextEmbedding, TextEncoder

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedEncoder:
    """An encoder that remembers the prompts that it saw last.

    Only prompts that it does not remember are encoded, each once, in one batch whose size is filled
    up to a power of two with empty prompts: a compiled encoder then meets few different shapes.

    Attributes:
      encoder: the encoder behind the cache.
      capacity: number of prompts that are remembered; the least recently used one goes first. One
        takes 4 · length · dim bytes: 49 kB for 32 tokens of width 384.
    """

    encoder: TextEncoder
    capacity: int = 4096
    _memory: collections.OrderedDict = dataclasses.field(
        default_factory=collections.OrderedDict, init=False, repr=False, compare=False
    )
    _lock: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        checks.at_least(self, capacity=1)

    @property
    def name(self) -> str:
        """The wrapped encoder's name."""
        return self.encoder.name

    @property
    def dim(self) -> int:
        """The wrapped encoder's width."""
        return self.encoder.dim

    @property
    def length(self) -> int:
        """The wrapped encoder's length."""
        return self.encoder.length

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Encode the prompts that are not remembered, and join them; see `TextEncoder.__call__`."""
        require_prompts(prompts)
        with self._lock:  # a prefetching thread and the sampler may share one encoder
            rows = {p: self._memory[p] for p in prompts if p in self._memory}
            rows |= self._encode([p for p in dict.fromkeys(prompts) if p not in rows])
            for prompt in dict.fromkeys(prompts):
                self._memory[prompt] = rows[prompt]
                self._memory.move_to_end(prompt)
            while len(self._memory) > self.capacity:
                self._memory.popitem(last=False)
        tokens, mask = zip(*(rows[prompt] for prompt in prompts), strict=True)
        return host_embedding(np.stack(tokens), np.stack(mask))

    def _encode(self, prompts: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        if not prompts:
            return {}
        text = self.encoder(pad_to_power_of_two(prompts))
        # Copies: a view of one row would keep the whole batch alive.
        return {
            prompt: (np.array(text.tokens[i]), np.array(text.mask[i]))
            for i, prompt in enumerate(prompts)
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoText:
    """Encodes every prompt as the null prompt, for models that read no text, such as a tokenizer.

    Attributes:
      dim: width of a token state.
      length: number of tokens.
    """

    dim: int = 1
    length: int = 1

    @property
    def name(self) -> str:
        """The name that tells this encoder from others."""
        return "no-text"

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Return a null prompt for each of the prompts; see `TextEncoder.__call__`."""
        require_prompts(prompts)
        shape = (len(prompts), self.length)
        return host_embedding(np.zeros((*shape, self.dim), np.float32), np.zeros(shape, bool))


def host_embedding(
    tokens: Float[np.ndarray, "b s d"], mask: Bool[np.ndarray, "b s"]
) -> TextEmbedding:
    """Put numpy arrays into a TextEmbedding, where they stay on the host.

    Args:
      tokens: states of the tokens, float32, 0 on padding.
      mask: True on real tokens.

    Returns:
      The embedding of b prompts.
    """
    # The struct's fields are declared as device arrays; numpy arrays are as good a leaf.
    return TextEmbedding(tokens=cast(Any, tokens), mask=cast(Any, mask))


def pad_to_power_of_two(prompts: Sequence[str]) -> list[str]:
    """Fill up a list of prompts with empty ones to the next power of two.

    Args:
      prompts: one or more.

    Returns:
      The prompts, with empty ones behind them.
    """
    size = 1 << (len(prompts) - 1).bit_length()
    return [*prompts, *[""] * (size - len(prompts))]


def require_prompts(prompts: Sequence[str]) -> None:
    """Check that there are prompts, in a list.

    Args:
      prompts: what a caller passes to an encoder.

    Raises:
      ValueError: the list is empty, or one string stands in the place of a list.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts must be a list of strings; got the string {prompts!r}.")
    if not prompts:
        raise ValueError("there are no prompts to encode; give at least one.")


@functools.cache
def warn_truncated(encoder: str, length: int) -> None:
    """Warn once for each encoder and length that prompts are cut.

    Args:
      encoder: name of the encoder, for the message.
      length: number of tokens that it keeps.
    """
    _log.warning(
        "%s keeps %d tokens of a prompt, and at least one prompt is longer: its end is ignored "
        "(this is said once). Set `length` higher if the ends of your captions matter.",
        encoder,
        length,
    )
