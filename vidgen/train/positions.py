"""Data positions as JSON in a checkpoint: one text for each process, bytes in hexadecimal."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np


def encoded(position: Any) -> str:
    """Return bytes, or anything that JSON can hold, as text."""
    if isinstance(position, bytes):
        return json.dumps({"hex": position.hex()})
    return json.dumps({"json": position})


def decoded(text: str) -> Any:
    """Return the position that `encoded` turned into text."""
    value = json.loads(text)
    return bytes.fromhex(value["hex"]) if "hex" in value else value["json"]


def gathered(position: Any) -> list[str]:
    """Return the encoded positions of all processes in order; every process gets them all."""
    text = encoded(position)
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def everywhere(condition: bool) -> bool:
    """Whether something is true in all processes, which all ask at the same point."""
    if jax.process_count() == 1:
        return condition
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(condition)).all())
