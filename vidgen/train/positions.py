"""Data positions as JSON in a checkpoint: one text for each process, bytes in hexadecimal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jax.experimental import multihost_utils


def encoded(position: Any) -> str:
    """Write a data position as text.

    Args:
      position: bytes, or anything that JSON can hold.

    Returns:
      JSON; bytes are in it in hexadecimal.
    """
    if isinstance(position, bytes):
        return json.dumps({"hex": position.hex()})
    return json.dumps({"json": position})


def decoded(text: str) -> Any:
    """Read a data position from text.

    Args:
      text: what `encoded` returned.

    Returns:
      The position.
    """
    value = json.loads(text)
    return bytes.fromhex(value["hex"]) if "hex" in value else value["json"]


def gathered(position: Any) -> list[str]:
    """Collect the encoded positions of all processes, which call this together.

    Args:
      position: the position of this process.

    Returns:
      One text for each process, in order; every process gets them all.
    """
    data = np.frombuffer(encoded(position).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def everywhere(condition: bool) -> bool:
    """Check whether something is true in all processes, which all ask at the same point.

    Args:
      condition: what holds in this process.

    Returns:
      True where it holds in all of them.
    """
    return bool(multihost_utils.process_allgather(np.bool_(condition)).all())
