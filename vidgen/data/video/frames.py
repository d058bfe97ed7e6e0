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

from vidgen.data.source import BadExample
from vidgen.data.sources.files import File, as_bad_example, suffix_of
from vidgen.data.video import pictures
from vidgen.data.video.decode import LACKING, NotInOrder, Timed, opened_video
from vidgen.data.video.files import PILLOW_SUFFIXES
from vidgen.data.video.header import MICROSECOND
from vidgen.data.video.orientation import upright


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedFrame(Timed):
    """A frame of a video, with its number.

    Attributes:
      number: from 0, in the order in which frames are shown.
      step: seconds between frames, on average over the film.
    """

    number: int
    step: float

    def thumbnail(self, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Scale the stored frame, without regard to its aspect and orientation.

        Args:
          height: in pixels.
          width: likewise.

        Returns:
          RGB; two of them can be compared, but not shown to people.
        """
        small = self.image.reformat(width=width, height=height, format="rgb24", threads=1)
        return small.to_ndarray()


def stream_frames(path: File) -> Iterator[StreamedFrame]:
    """Read all frames of a file in order; only the last is kept in memory.

    Args:
      path: what `read_clip` reads.

    Yields:
      Each frame, in the order in which they are shown.

    Raises:
      BadExample: no such file, not a video, damaged, or it ends before it says that it does.
    """
    with as_bad_example(path):
        if suffix_of(path) in PILLOW_SUFFIXES:
            with pictures.opened(path) as image:
                times, span = pictures.timeline(image)
                step = (span.last + span.step) / len(times)
                for number, time in enumerate(times):
                    pictures.seek(image, number)
                    rgb = np.ascontiguousarray(pictures.to_rgb(upright(image)))
                    pixels = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                    yield StreamedFrame(time, pixels, number=number, step=step)
            return
        with opened_video(path) as reader:
            if not reader.is_indexed:  # all of it is read anyway, and can't be taken back
                reader.read_index()
            span, end = reader.span, -1.0
            try:
                for number, frame in enumerate(reader.frames_from(0.0)):
                    yield StreamedFrame(**vars(frame), number=number, step=span.step)
                    end = frame.time
            except NotInOrder as error:
                reason = f"damaged: its times run backwards after {end:.2f} s"
                raise BadExample(path, reason) from error
        if end < 0:
            raise BadExample(path, "has no frame that can be decoded")
        if end + span.step + LACKING < span.last:
            raise BadExample(path, f"damaged: its frames end at {end:.2f} s of {span.last:.2f} s")


def at_rate(frames: Iterable[StreamedFrame], fps: float | int) -> Iterator[StreamedFrame]:
    """Change the frame rate: take the frame nearest in time to each of start + k / fps.

    Faster films lose frames, slower ones repeat some.

    Args:
      frames: as `stream_frames` yields them; `start` is when the first is shown.
      fps: wanted frames per second.

    Yields:
      Frames that keep their own numbers and moments.
    """
    previous, start, count = None, 0.0, 0
    for frame in frames:
        if previous is None:
            start = frame.time
        else:
            middle = (previous.time + frame.time) / 2 + MICROSECOND
            while start + count / fps <= middle:
                yield previous
                count += 1
        previous = frame
    while previous is not None and start + count / fps <= previous.time + previous.step / 2:
        yield previous
        count += 1
