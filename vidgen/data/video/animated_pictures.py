"""Animated pictures, GIF and WebP, written frame by frame, each shown for as long as it should be.

    GIF     delays of whole hundredths of a second
    WebP    delays of whole thousandths

A delay is the difference of two rounded moments, round(100 (k + 1)/fps) - round(100 k/fps), so that
rounding does not add up. Players show a frame of 10 ms or less for 100 ms: that limits the frame
rate. Of a frame, the file holds the rectangle that differs from the frame before; a frame that does
not differ has one pixel, and is still a frame. (Pillow's own writers merge equal frames, and leave
the delay out of a file of one frame.)

    GIF     header, loop for ever, { delay, rectangle with a palette of its own }, end
    WebP    RIFF{ VP8X, ANIM, ANMF{ rectangle, delay, VP8 or VP8L }, ... }
"""

from __future__ import annotations

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import GifImagePlugin, Image

SHORTEST = 10  # ms; players take delays up to this for a mistake
_UNITS = {".gif": 100, ".webp": 1000}  # of delays, in a second
_GIF_HEADER, _GIF_FRAME = "<6sHHBBB", 1 << 2  # the flags of a frame: what it shows stays
_GIF_LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def fastest(suffix: str) -> float:
    """Return the most frames per second that a format can show.

    Args:
      suffix: ".gif" or ".webp".

    Returns:
      The rate whose delay is one unit longer than `SHORTEST`.
    """
    return _UNITS[suffix] / (SHORTEST * _UNITS[suffix] // 1000 + 1)


class _Animation:
    """A file that frames are added to, one after the other."""

    def __init__(self, file: io.BufferedIOBase, suffix: str, fps: float | int) -> None:
        self._file, self._step, self._frames = file, _UNITS[suffix] / fps, 0
        self._before: np.ndarray | None = None

    def _next_delay(self) -> int:
        """Return how long the next frame is shown, in whole units."""
        self._frames += 1
        return round(self._frames * self._step) - round((self._frames - 1) * self._step)

    def end(self) -> None:
        """End the animation, without closing the file."""

    def close(self) -> None:
        """End the animation and close the file."""
        self.end()
        self._file.close()


class GifSink(_Animation):
    """A GIF that grows: each frame has a palette of its own."""

    def __init__(self, file: io.BufferedIOBase, fps: float | int, size: tuple[int, int]) -> None:
        """Begin an animation of frames of this (height, width)."""
        super().__init__(file, ".gif", fps)
        file.write(struct.pack(_GIF_HEADER, b"GIF89a", *size[::-1], 0, 0, 0) + _GIF_LOOP)

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Add frames to the animation.

        Args:
          frames: frames of the size that the sink was made for.
        """
        for pixels in frames:
            part, top, left = _changed(self._before, pixels, even=False)
            image = Image.fromarray(part).quantize(256)
            delay = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, _GIF_FRAME, self._next_delay(), 0, 0)
            data = GifImagePlugin.getdata(image, (left, top), include_color_table=True)
            self._file.write(delay + b"".join(data))
            self._before = pixels
        self._file.flush()

    def end(self) -> None:
        """End the animation, without closing the file."""
        self._file.write(b"\x3b")


class WebpSink(_Animation):
    """A WebP that grows; the length at its beginning is written again with every addition."""

    def __init__(
        self, file: io.BufferedIOBase, fps: float | int, size: tuple[int, int], **options: object
    ) -> None:
        """Begin an animation.

        Args:
          file: can be written at any place.
          fps: frames per second.
          size: height and width of the frames.
          options: options of Pillow, such as `lossless` or `quality`.
        """
        super().__init__(file, ".webp", fps)
        self._options = options
        animated = struct.pack("<I", 2) + _three(size[1] - 1) + _three(size[0] - 1)
        white, for_ever = 0xFFFFFFFF, 0
        file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", animated))
        file.write(_chunk(b"ANIM", struct.pack("<IH", white, for_ever)))

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Add frames to the animation; the file is whole after each call.

        Args:
          frames: frames of the size that the sink was made for.
        """
        for pixels in frames:
            part, top, left = _changed(self._before, pixels, even=True)
            still = io.BytesIO()
            Image.fromarray(part).save(still, "WEBP", **self._options)
            place = (left // 2, top // 2, part.shape[1] - 1, part.shape[0] - 1)
            head = b"".join(map(_three, (*place, self._next_delay())))
            replaces = b"\x02"  # what was there, instead of lying over it
            self._file.write(_chunk(b"ANMF", head + replaces + still.getvalue()[12:]))
            self._before = pixels
        length = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", length - 8))
        self._file.seek(length)
        self._file.flush()


def _changed(
    before: np.ndarray | None, pixels: UInt8[np.ndarray, "h w 3"], even: bool
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], int, int]:
    """Return the part of a frame that changed, at least a pixel, and its top and left."""
    if before is None:
        return np.ascontiguousarray(pixels), 0, 0
    changed = np.any(before != pixels, axis=-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return np.ascontiguousarray(pixels[:1, :1]), 0, 0
    top, left = (int(x[0]) // 2 * 2 if even else int(x[0]) for x in (rows, columns))
    part = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    return np.ascontiguousarray(part), top, left


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
