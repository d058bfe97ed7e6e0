"""Clips to files: the suffix of the name chooses the format.

    .mp4  H.264, plays everywhere          .gif, .webp  animations (webp is lossless)
    .webm VP9                              .png   sheet of all frames, one row per clip
    .npy  the numbers as given             several clips in one video: tiled side by side

A file appears whole or not at all: it is encoded in memory, written under a temporary name in
the same folder, and renamed. A film too long for that is written by `VideoStream`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidgen.data.video import stream, transforms
from vidgen.data.video.animated_pictures import GifSink, WebpSink
from vidgen.data.video.sinks import AV_KINDS, AvSink
from vidgen.data.video.stream import check_rate


def write_video(
    path: str | os.PathLike,
    video: np.ndarray | Sequence[np.ndarray],
    fps: float | int,
    *,
    min_side: int = 128,
) -> None:
    """Write one clip "t h w c" or several "b t h w c", float in [-1, 1], c = 3 or 1.

    Args:
      path: the suffix chooses the format, see the module docstring.
      video: one array, or a sequence of clips of one shape.
      fps: frames per second, > 0; at most 50 in a gif and 90 in a webp (`check_rate`).
      min_side: clips with a smaller side are enlarged by the least whole factor that reaches it,
        each pixel becoming a square, since players blur or refuse tiny videos. 0 or 1 turns this
        off; npy is never enlarged.

    Raises:
      ValueError: unknown suffix, a rate that the format cannot play, or not a video.
      OSError: the file cannot be written; names the path.
    """
    path = pathlib.Path(path)
    check_suffix(path)
    check_rate(path, fps)
    clips = np.asarray(video)
    if clips.ndim not in (4, 5) or clips.shape[-1] not in (1, 3) or not clips.size:
        raise ValueError(
            f"a video to write has shape {clips.shape}; expected t h w c or b t h w c, c = 3 or 1."
        )
    if path.suffix.lower() == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, clips)
        return _write_whole(path, buffer.getvalue())
    pixels = transforms.to_uint8(clips if clips.ndim == 5 else clips[None])
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    factor = max(1, math.ceil(min_side / min(pixels.shape[2:4])))
    pixels = pixels.repeat(factor, axis=2).repeat(factor, axis=3)
    _write_whole(path, _ENCODERS[path.suffix.lower()](pixels, fps))


def check_suffix(path: str | os.PathLike) -> None:
    """Check that `write_video` has a format for a suffix, before anything long begins.

    Args:
      path: the path of the file that will be written.

    Raises:
      ValueError: it has none.
    """
    stream.check_suffix_among(SUFFIXES, path)


def _write_whole(path: pathlib.Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with stream.errors_naming(path):
            part.write_bytes(data)
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _tile(clips: UInt8[np.ndarray, "b t h w 3"]) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Tile all clips in one video: a grid about as wide as high, white in empty places."""
    b, t, h, w, c = clips.shape
    columns = min(b, math.ceil(math.sqrt(b * h / w))) if b > 1 else 1
    rows = math.ceil(b / columns)
    grid = np.full((rows * columns, t, h, w, c), 255, np.uint8)
    grid[:b] = clips
    grid = grid.reshape(rows, columns, t, h, w, c).transpose(2, 0, 3, 1, 4, 5)
    return np.ascontiguousarray(grid.reshape(t, rows * h, columns * w, c))


def animation(clips: UInt8[np.ndarray, "b t h w 3"], fps: float | int, **options: object) -> bytes:
    """Encode all clips side by side as one animated WebP that repeats for ever.

    Args:
      clips: the clips, tiled in a grid about as wide as high.
      fps: frames per second, at most `animated_pictures.fastest(".webp")`.
      **options: options of Pillow for a WebP, such as `quality`.

    Returns:
      The bytes of the file.
    """
    return _encoded(functools.partial(WebpSink, **options), clips, fps)


def _encoded(
    make_sink: Callable[..., AvSink | GifSink | WebpSink],
    clips: UInt8[np.ndarray, "b t h w 3"],
    fps: float | int,
) -> bytes:
    frames, buffer = _tile(clips), io.BytesIO()
    sink = make_sink(buffer, fps, frames.shape[1:3])
    sink.write(frames)
    sink.end()
    return buffer.getvalue()


def _encode_png(clips: np.ndarray, fps: float | int) -> bytes:
    del fps  # a sheet has no time
    b, t, h, w, c = clips.shape
    sheet = clips.transpose(0, 2, 1, 3, 4).reshape(b * h, t * w, c)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(buffer, format="PNG")
    return buffer.getvalue()


_ENCODERS = {
    kind: functools.partial(_encoded, functools.partial(AvSink, kind=kind, growing=False))
    for kind in AV_KINDS
} | {
    ".gif": functools.partial(_encoded, GifSink),
    ".webp": functools.partial(animation, lossless=True),
    ".png": _encode_png,
}
SUFFIXES = (*_ENCODERS, ".npy")
