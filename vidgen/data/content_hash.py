"""A fingerprint of the content of a file: of its bytes, never of its name or its times."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def content_hash(path: str | os.PathLike) -> str:
    """Hash the bytes of a file.

    Args:
      path: the path of a file on this machine; ~ is expanded.

    Returns:
      The first 16 hexadecimal digits of its SHA-256.

    Raises:
      OSError: it cannot be read.
    """
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
