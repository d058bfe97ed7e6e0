"""What a caption is, by one rule for text files, tables, shards and records.

A clip has any number of captions: a text is one, a JSON list of texts as many as it has. Each is
one line of at most 10,000 characters that can be encoded; equal ones count once. Null, NaN (which
pandas writes where there is nothing), blank text and an empty list are no caption. Whatever else is
no text is never turned into one.
"""

from __future__ import annotations

import codecs
import functools
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

# [guess] Characters of a caption that are kept: 512 tokens, the most that MiniLM reads, are some
# 2,500 of them, and a million captions of 100 kB would be all the memory there is.
LIMIT = 10_000
TEXT_BYTES = 4 * LIMIT + 3  # that are at least so many characters, with a mark of UTF-8 before them
JSON_BYTES = 16 << 20  # [guess] of one clip's .json; what is longer is no description of a clip

log = logging.getLogger(__name__)


def clean(text: str) -> str:
    """Put a caption into one line that can be encoded.

    Args:
      text: any text; what follows its first 10,000 characters is cut off, with one warning a run.

    Returns:
      Words with single spaces between them; half of a UTF-16 pair becomes U+FFFD.
    """
    if len(text) > LIMIT:
        _warn_cut()
        text = text[:LIMIT]
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can say "\ud83c", which no encoder takes
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return " ".join(text.split())


@functools.cache
def _warn_cut() -> None:
    log.warning("at least one caption is cut to its first %d characters (this is said once)", LIMIT)


def decoded(data: bytes) -> str:
    """Decode UTF-8 of which only the beginning may have been read.

    Args:
      data: at most `TEXT_BYTES`; as many as that may end within a character. A mark of UTF-8 in
        front is left out.

    Returns:
      The text.

    Raises:
      UnicodeDecodeError: it is no UTF-8.
    """
    whole = len(data) < TEXT_BYTES
    return codecs.getincrementaldecoder("utf-8-sig")().decode(data, whole)


def unique(texts: Sequence[str]) -> tuple[str, ...]:
    """Clean captions, and drop blank and repeated ones.

    Args:
      texts: captions of one clip.

    Returns:
      Those that are left, in their order.
    """
    return tuple(dict.fromkeys(text for text in map(clean, texts) if text))


def captions_in(value: object) -> tuple[str, ...]:
    """Read the captions in a JSON value: a text is one, a list has several, null and NaN are none.

    Args:
      value: a value of JSON, or of a table.

    Returns:
      The captions, cleaned.

    Raises:
      ValueError: it is no text and no list of texts; the message is a clause on what it is.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ()
    texts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    for text in texts:
        if not isinstance(text, str):
            where = "is a list with " if texts is value else "is "
            raise ValueError(f"its caption {where}{_kind(text)}, not text")
    return unique(texts)


def _kind(value: object) -> str:
    """Name a JSON value that is no text, for a message."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return f"{value!r}" if isinstance(value, bool) else f"the number {value!r}"


def parsed(text: str | bytes) -> Any:
    """Parse JSON in which no object has a key twice.

    Args:
      text: one value of JSON.

    Returns:
      The value as Python has it.

    Raises:
      ValueError: it is none; the message is a clause.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):  # Python silently keeps the last one
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its JSON has {twice!r} twice in one object")
    return value


def drawn(captions: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of a clip's captions.

    Args:
      captions: all that it has.
      rng: draws evenly; a single caption uses no randomness.

    Returns:
      The caption; "" where there is none.
    """
    if len(captions) < 2:
        return captions[0] if captions else ""
    return captions[int(rng.integers(len(captions)))]
