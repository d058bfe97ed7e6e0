"""Whole videos frame by frame, however long they are; a frame rate from another.

frames  0    1    2    3    4    5    6      24 per second
wanted  ^         ^         ^         ^       8 per second: the nearest in time
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import av
import numpy as np
from jaxtyping import UInt8

from vidgen.data import pictures
from vidgen.data.files import BadExample, File, suffix_of, told_as_bad
from vidgen.data.video_files import PILLOW_SUFFIXES, Timed, decode_from, opened_video, span_of

# Containers round how long they play, and count the sound too; a file that lacks more is cut.
_LACKING = 1.0
_MICROSECOND = 1e-6


@dataclasses.dataclass(frozen=True)
class StreamedFrame:
    """A frame of a film.

    Attributes:
      number: from 0, in the order in which frames are shown.
      step: seconds between frames, on average over the film.
      frame: the frame itself.
    """

    number: int
    step: float
    frame: Timed

    @property
    def time(self) -> float:
        """When it is shown, in seconds from the first frame."""
        return self.frame.time

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels as displayed."""
        image = self.frame.image
        height, width = image.height, round(image.width * self.frame.aspect)
        return (width, height) if round(image.rotation / 90) % 2 else (height, width)

    def thumbnail(self, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """The frame in that size, whatever its own aspect is and which way is up."""
        return self.frame.image.reformat(width=width, height=height, format="rgb24").to_ndarray()


def stream_frames(path: File) -> Iterator[StreamedFrame]:
    """All frames of a file in order, of which only the last is kept here.

    Args:
      path: what `read_clip` reads.

    Raises:
      BadExample: no such file, not a video, damaged, or it ends before it says that it does.
    """
    with told_as_bad(path):
        if suffix_of(path) in PILLOW_SUFFIXES:
            with pictures.opened(path) as image:
                times, span = pictures.timeline(image)
                step = (span.last + span.step) / len(times)
                for number, time in enumerate(times):
                    pictures.seek(image, number)
                    pixels = av.VideoFrame.from_ndarray(pictures.to_rgb(image), format="rgb24")
                    yield StreamedFrame(number, step, Timed(time, pixels))
            return
        with opened_video(path) as (container, stream):
            span, end = span_of(container, stream), -1.0
            for number, frame in enumerate(decode_from(container, stream, 0.0)):
                yield StreamedFrame(number, span.step, frame)
                end = frame.time
        if end < 0:
            raise BadExample(path, "has no frame that can be decoded")
        if end + span.step + _LACKING < span.last:
            raise BadExample(path, f"damaged: its frames end at {end:.2f} s of {span.last:.2f} s")


def at_rate(frames: Iterable[StreamedFrame], fps: float | int) -> Iterator[StreamedFrame]:
    """Of successive frames, the one nearest in time to each of start + k / fps.

    `start` is when the first is shown. Faster films lose frames, slower ones repeat some.
    """
    previous, start, count = None, 0.0, 0
    for frame in frames:
        if previous is None:
            start = frame.time
        else:
            middle = (previous.time + frame.time) / 2 + _MICROSECOND
            while start + count / fps <= middle:
                yield previous
                count += 1
        previous = frame
    while previous is not None and start + count / fps <= previous.time + previous.step / 2:
        yield previous
        count += 1
