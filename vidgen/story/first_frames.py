"""The frames of a video that a film goes on from, and how the true film goes on after them.

Frames of the video are counted at a rate r of its own, those of the film at f. The film begins at
the time E/r at which what may be seen ends, so that k frames before it the video shows the frame

    n(k) = ⌊E - k r / f⌋,   k = 1 ... K;   n(k) < E
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from vidgen.data.video.footage import SLACK, open_footage
from vidgen.story.script import FirstFrames
from vidgen.types import VideoShape


def read(
    first: FirstFrames, shape: VideoShape, most: int, patch_time: int
) -> Float[np.ndarray, "k h w c"]:
    """The last frames of `first` at the film's rate, in [-1, 1]; one of a picture.

    Args:
      first: the video, and which of its frames may be seen.
      shape: of a clip of the film: size and rate.
      most: K, of frames; fewer come where there are fewer.
      patch_time: frames p of a patch in time: whole tokens are 1 + j p frames.

    Raises:
      FootageError: the file cannot be used, or ends before `first.end`.
    """
    rate = first.fps or shape.fps
    footage = open_footage(first.path).at_rate(rate)
    if footage.is_still:
        return footage.read(dataclasses.replace(shape, frames=1))
    end = max(1, footage.frames_at(rate)) if first.end is None else first.end
    there = max(1, math.floor((end - first.start) * shape.fps / rate + SLACK))
    count = 1 + (min(most, there) - 1) // patch_time * patch_time
    before = np.arange(count, 0, -1) * rate / shape.fps
    numbers = np.maximum(np.floor(end - before + SLACK).astype(int), first.start)
    part = dataclasses.replace(shape, frames=int(end - numbers[0]), fps=rate)
    return footage.read(part, numbers[0] / rate)[numbers - numbers[0]]


def true_film(
    path: str, start: int, end: int | None, rate: float, shape: VideoShape
) -> Float[np.ndarray, "t h w c"]:
    """The video from frame `start` to before `end` (None: its last), in [-1, 1].

    Args:
      path: the video.
      start: counted at `rate`, as `end`.
      end: likewise.
      rate: frames a second.
      shape: of the film: size and rate, and the most frames that come.

    Raises:
      FootageError: the file cannot be used, or has no frame there.
    """
    footage, begin = open_footage(path).at_rate(rate), start / rate
    frames = footage.frames_at(shape.fps, begin)
    if end is not None:
        frames = min(frames, math.floor((end - start) * shape.fps / rate + SLACK))
    part = dataclasses.replace(shape, frames=max(1, min(shape.frames, frames)))
    return footage.read(part, begin)
