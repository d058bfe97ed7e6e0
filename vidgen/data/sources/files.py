"""The file of one example: where its bytes are, and how its defects are reported.

Files come from anywhere and are read for months, so nothing in one may end a training: not a header
that promises 65,535 x 65,535 pixels, nor a damaged table. All of it is a `BadExample`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import struct
from collections.abc import Iterator

import av.error
from PIL import Image

from vidgen import paths
from vidgen.data.source import BadExample

# [guess] 8192 x 8192. A frame of 8K video has half as many; decoded, this is 200 MB.
MAX_PIXELS = 1 << 26
_MAX_SIDE = 1 << 15  # [guess] a strip of one pixel is damage, not a panorama


@dataclasses.dataclass(frozen=True)
class Packed:
    """The content of a file that lies inside another, such as a tar shard.

    Attributes:
      name: where it was, for messages; its suffix says what it is.
      data: all its bytes.
    """

    name: str
    data: bytes = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return self.name


File = str | os.PathLike | Packed

# what Pillow lets through where a damaged file trips its parsers
_PARSER_ERRORS = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, struct.error)
_PARSER_ERRORS += (Image.DecompressionBombError, Image.DecompressionBombWarning)


def suffix_of(path: File) -> str:
    """Return the suffix of a file, such as ".mp4".

    Args:
      path: the path of the file, or a packed one, whose name has the suffix.

    Returns:
      The suffix in lower case; "" where there is none.
    """
    return pathlib.PurePath(str(path)).suffix.lower()


def readable(path: File) -> str | io.BytesIO | io.BufferedReader:
    """Return what PyAV and Pillow can open.

    Args:
      path: the path of the file, here or in an object store, or a packed one.

    Returns:
      A path on this machine, or an object to read like a file.

    Raises:
      BadExample: an object of a store is empty.
    """
    if isinstance(path, Packed):
        return io.BytesIO(path.data)
    if not paths.is_remote(path):
        return os.fspath(path)
    file = paths.open_binary(path)
    if not file.seek(0, io.SEEK_END):
        raise BadExample(path, "the file is empty")
    file.seek(0)
    return file


def check_size(path: File, height: int, width: int) -> None:
    """Check that a picture can be decoded in bounded memory.

    Args:
      path: the path of the file, for the message.
      height: in pixels, as the header says.
      width: likewise.

    Raises:
      BadExample: it has more than `MAX_PIXELS`, or a side of more than 32,768.
    """
    if height * width > MAX_PIXELS or max(height, width) > _MAX_SIDE:
        raise BadExample(path, f"its picture of {width} x {height} is too large")


@contextlib.contextmanager
def as_bad_example(path: File) -> Iterator[None]:
    """Turn all that a damaged or missing file can raise in the block into BadExample.

    Args:
      path: the path of the file that is read there.

    Yields:
      Nothing.

    Raises:
      BadExample: the file is empty, missing or damaged.
    """
    try:
        if not paths.is_remote(path):  # or else it is seen when it is opened
            size = len(path.data) if isinstance(path, Packed) else paths.stat(path).size
            if size == 0:
                raise BadExample(path, "the file is empty")
        yield
    except av.error.FFmpegError as error:
        raise BadExample(path, f"cannot be decoded ({error.strerror})") from error
    except _PARSER_ERRORS as error:
        raise BadExample(path, f"cannot be read ({_short(error)})") from error


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
