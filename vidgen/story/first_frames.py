"""The frames of a video that a story continues, and how the true video goes on after them.

Frames of the file are counted at a rate r of its own, those of the story at f. The story begins at
the time E/r at which what may be seen ends, so that k frames before it the file shows the frame

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


def read_first_frames(
    first: FirstFrames, shape: VideoShape, most: int, patch_time: int
) -> Float[np.ndarray, "k h w c"]:
    """Read the last frames that may be seen, at the story's rate.

    Args:
      first: the file, and which of its frames may be seen.
      shape: size and rate of a clip of the story.
      most: K, the most frames to read; fewer come where the file has fewer.
      patch_time: frames p of a patch in time: 1 + j p frames are whole tokens.

    Returns:
      1 + j p frames in [-1, 1]; one where the file is a picture.

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


def read_true_video(
    path: str, start: int, end: int | None, rate: float, shape: VideoShape
) -> Float[np.ndarray, "t h w c"]:
    """Read the part of a file that a story is compared with.

    Args:
      path: the file.
      start: number of the first frame, counted at `rate`.
      end: number of the frame after the last, likewise; None is the end of the file.
      rate: frames per second at which `start` and `end` are counted.
      shape: size and rate of the result, and the most frames that it has.

    Returns:
      The frames in [-1, 1].

    Raises:
      FootageError: the file cannot be used, or has no frame there.
    """
    footage, begin = open_footage(path).at_rate(rate), start / rate
    frames = footage.frames_at(shape.fps, begin)
    if end is not None:
        frames = min(frames, math.floor((end - start) * shape.fps / rate + SLACK))
    part = dataclasses.replace(shape, frames=max(1, min(shape.frames, frames)))
    return footage.read(part, begin)
