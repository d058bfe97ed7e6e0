"""Reads video files, with PyAV, and with Pillow animated gif, webp and png.

Reading is lazy: seek to the key frame before a random start, decode forward, shrink each chosen
frame at once. Only two full-resolution frames are kept at a time, however long the file is.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Int, UInt8

from vidgen.data.source import BadExample
from vidgen.data.sources.files import File, as_bad_example, suffix_of
from vidgen.data.video import pictures, transforms
from vidgen.data.video.decode import NotInOrder, Timed, opened_video
from vidgen.data.video.header import MICROSECOND
from vidgen.data.video.orientation import upright, upright_size
from vidgen.data.video.pictures import Span
from vidgen.types import VideoShape

Start = np.random.Generator | float | int

PILLOW_SUFFIXES = (".gif", ".webp", ".png", ".apng")
# What FFmpeg reads and people have. New ones at the end: packed data sets keep their places.
VIDEO_SUFFIXES = (
    ".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".gif", ".webp",
    ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".3gp", ".ogv", ".3g2", ".asf", ".dv",
    ".divx", ".f4v", ".ivf", ".m1v", ".m2t", ".m2v", ".mjpeg", ".mjpg", ".mpe", ".mxf", ".nut",
    ".qt", ".rm", ".rmvb", ".vob", ".y4m",
)  # fmt: skip
_UNKNOWN, _BT709 = 2, 1  # numbers of matrices, as in the H.264 standard


class Probed(NamedTuple):
    """The length, rate and size of a file.

    Attributes:
      seconds: how long it plays.
      fps: frames per second, on average.
      height: pixels as displayed.
      width: pixels as displayed.
      frames: how many, of an animated gif, webp or png; None for a video.
    """

    seconds: float
    fps: float
    height: int
    width: int
    frames: int | None = None


class _TooShort(BadExample):
    """The video is too short, as far as its length is known, or ends before that."""


def read_clip(path: File, shape: VideoShape, start: Start) -> UInt8[np.ndarray, "t h w c"]:
    """Read a clip of `shape` from a random or a chosen place of a file.

    The frame nearest in time to start + k / shape.fps is taken for k = 0 .. frames - 1 (so a slower
    file repeats frames), cropped around its center to the wanted aspect ratio, and resized with
    anti-aliasing. Transparent parts become white; it stands upright as players show it.

    Args:
      path: a video, or an animated gif, webp or png.
      shape: what to read; channels must be 3.
      start: seconds from the first frame, or a generator that chooses it, uniformly over all that
        fit.

    Returns:
      The clip, in `shape`.

    Raises:
      BadExample: no such file, not a video, damaged, or too short for the clip.
      ValueError: `shape` is not RGB.
    """
    if shape.channels != 3:
        raise ValueError(f"video files are read as RGB; shape.channels is {shape.channels}, set 3.")
    with as_bad_example(path):
        if suffix_of(path) in PILLOW_SUFFIXES:
            return _read_pillow(path, shape, start)
        return _read_av(path, shape, start)


def probe(path: File) -> Probed:
    """Look up the length, rate and size of a file that `read_clip` can read.

    Of a video only the first frame is decoded, of an animated gif, webp or png all.

    Args:
      path: the path of the file, here or in an object store, or a packed one.

    Returns:
      What the file says; of a file that was cut short, how long it should play.

    Raises:
      BadExample: no such file, not a video, or damaged.
    """
    with as_bad_example(path):
        if suffix_of(path) in PILLOW_SUFFIXES:
            with pictures.opened(path) as image:
                times, span = pictures.timeline(image)
                (height, width), seconds = upright_size(image), span.last + span.step
                return Probed(seconds, len(times) / seconds, height, width, len(times))
        with opened_video(path) as reader:
            first, span = reader.first_frame(), reader.span
            return Probed(span.last + span.step, 1 / span.step, *first.size)


def chosen_frames(
    path: File, times: Sequence[float] | np.ndarray, step: float, shape: VideoShape, start: Start
) -> Int[np.ndarray, " t"]:
    """Choose the frames of a clip among those of a video.

    Args:
      path: the path of the video, for messages.
      times: when each frame is shown, in seconds.
      step: how long the last one is shown, in seconds.
      shape: frames and rate of the clip.
      start: seconds from the first frame, or a generator that chooses it.

    Returns:
      The number of the frame nearest in time for each frame of the clip.

    Raises:
      BadExample: too short for the clip.
    """
    begin = _start(path, Span(float(times[-1]), step), shape, start)
    return transforms.frame_indices(times, begin, shape.fps, shape.frames)


def _start(path: File, span: Span, shape: VideoShape, start: Start) -> float:
    """Choose a start time, in seconds, so that the whole clip fits."""
    needed, where = (shape.frames - 1) / shape.fps, ""
    if isinstance(start, np.random.Generator):
        # the last wanted moment may fall past the last frame by half of the time it is shown
        fits = needed <= span.last + span.step / 2 + MICROSECOND
    else:
        fits = start + needed < span.last + span.step - MICROSECOND
        where = f" from {start:g} s on" if start else ""
    if not fits:
        raise _TooShort(
            path,
            f"too short: {span.last + span.step:.2f} s, a clip of {shape.frames} frames at "
            f"{shape.fps:g} fps needs {needed + 1 / shape.fps:.2f} s{where}",
        )
    if not isinstance(start, np.random.Generator):
        return float(start)
    return float(start.uniform(0.0, max(0.0, span.last - needed)))


def _nearest(
    path: File, decoded: Iterator[Timed], start: float, span: Span, shape: VideoShape
) -> UInt8[np.ndarray, "t h w c"]:
    """Pick the clip that begins at `start` from frames as they are decoded."""
    wanted = collections.deque(start + k / shape.fps for k in range(shape.frames))
    video: list[np.ndarray] = []
    previous: Timed | None = None
    shrunk: np.ndarray | None = None  # `previous` at the wanted size, once it was needed
    for frame in decoded:
        small: np.ndarray | None = None
        while wanted and wanted[0] <= frame.time:
            if previous is not None and wanted[0] - previous.time <= frame.time - wanted[0]:
                shrunk = shrink(previous, shape) if shrunk is None else shrunk
                video.append(shrunk)
            else:
                small = shrink(frame, shape) if small is None else small
                video.append(small)
            wanted.popleft()
        if not wanted:
            return np.stack(video)
        previous, shrunk = frame, small
    if previous is None or wanted[-1] > previous.time + span.step:
        end = 0.0 if previous is None else previous.time
        raise _TooShort(path, f"damaged: its frames end at {end:.2f} s of {span.last:.2f} s")
    last = shrink(previous, shape) if shrunk is None else shrunk
    return np.stack(video + [last] * len(wanted))


def shrink(frame: Timed, shape: VideoShape) -> UInt8[np.ndarray, "h w c"]:
    """Turn a frame upright, crop it around its center to the aspect of `shape`, and resize it.

    Args:
      frame: as it was decoded; pixels that are not square are taken into account.
      shape: height and width of the result.

    Returns:
      RGB, over white where the frame is transparent.
    """
    orientation = frame.orientation
    aspect = 1 / frame.aspect if orientation.swap else frame.aspect
    pixels = orientation.apply(_av_to_rgb(frame.image))
    return transforms.fit(pixels, shape.height, shape.width, aspect)


def _av_to_rgb(image: av.VideoFrame) -> np.ndarray:
    kind = image.format.name
    # What players take colors for that a file says nothing of; FFmpeg would take BT.601 for all.
    if image.colorspace == _UNKNOWN and (image.width >= 1280 or image.height > 576):
        image.colorspace = _BT709
    # By default PyAV starts a thread per core for each frame, which takes 15 times what a frame of
    # 128 x 72 takes; and the cores are those of the loader's other processes.
    if kind.startswith("pal") or any(part.is_alpha for part in image.format.components):
        return transforms.composite(image.to_ndarray(format="rgba", threads=1))
    return image.to_ndarray(format="rgb24", threads=1)


def _read_pillow(path: File, shape: VideoShape, start: Start) -> np.ndarray:
    with pictures.opened(path) as image:
        times, span = pictures.timeline(image)
        chosen = chosen_frames(path, times, span.step, shape, start)
        small = {}
        for i in sorted(set(chosen.tolist())):
            pictures.seek(image, i)
            pixels = pictures.to_rgb(upright(image))
            small[i] = transforms.fit(pixels, shape.height, shape.width)
        return np.stack([small[i] for i in chosen.tolist()])


def _read_av(path: File, shape: VideoShape, start: Start) -> np.ndarray:
    with opened_video(path) as reader:
        for _ in range(4):  # each time with less trust in what the file says of itself
            try:
                begin = _start(path, reader.span, shape, start)
                frames = reader.frames_from(begin)
                clip = _nearest(path, frames, begin, reader.span, shape)
                reader.check_order(frames)
                return clip
            except NotInOrder:
                reader.read_index(by_order=reader.is_indexed)
            except _TooShort:
                if reader.is_indexed:
                    raise
                reader.read_index()
        raise BadExample(path, "damaged: its frames are in no order")
