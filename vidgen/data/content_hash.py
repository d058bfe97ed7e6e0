"""What tells the content of a file from another: its bytes, never its name or its times."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def content_hash(path: str | os.PathLike) -> str:
    """16 hex digits of the bytes of a file.

    Raises:
      OSError: it cannot be read.
    """
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
