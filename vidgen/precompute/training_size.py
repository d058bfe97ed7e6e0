"""Which experiment, and which clip, suits a user's videos.

length   what 95 % of the videos reach fits one clip; so no more are too short
rate     the experiment's own; where its clip is longer than the videos, a higher one, but no more
         frames a second than the files have
size     the pixels of the experiment's own clip, in the shape that most videos have
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidgen.data.video.files import Probed
from vidgen.types import VideoShape

_STRIDE = 4  # of both networks below: sides are multiples of it
_WIDEST = 2.5  # [guess] wider ones are cropped: a side of 16 pixels then still shows something


class Suggestion(NamedTuple):
    """A training that suits.

    Attributes:
      experiment: its file.
      shape: the shape of a clip.
      changes: NAME=VALUE for what the file says otherwise.
    """

    experiment: str
    shape: VideoShape
    changes: tuple[str, ...]


# The base models that a laptop trains, longer clips first; tests compare them with their files.
EXPERIMENTS = {
    "experiments/imagen_base_demo.gin": VideoShape(frames=16, height=16, width=16, fps=3.0),
    "experiments/imagen_base_tiny.gin": VideoShape(frames=8, height=16, width=16, fps=8.0),
}


def suggest(files: Sequence[Probed]) -> Suggestion:
    """Choose an experiment for videos, and change its clip where it does not suit them.

    Args:
      files: what the videos are; of none, the last experiment is returned as it is.

    Returns:
      The experiment, the clip, and the bindings that make its clip this one.
    """
    if not files:
        name, shape = list(EXPERIMENTS.items())[-1]
        return Suggestion(name, shape, ())
    seconds = sorted(file.seconds for file in files)[int(0.05 * len(files))]
    rate = float(np.median([file.fps for file in files]))
    fitting = [(n, s) for n, s in EXPERIMENTS.items() if s.frames / s.fps <= 1.01 * seconds]
    name, base = (fitting or list(EXPERIMENTS.items()))[0 if fitting else -1]
    frames, fps = base.frames, base.fps
    if frames / fps > 1.01 * seconds:
        fps = min(math.floor(100 * rate) / 100, math.ceil(10 * frames / seconds) / 10)
        frames = max(1, min(frames, math.floor(seconds * fps + 0.1)))
    height, width = _sides(base, [math.log(file.width / file.height) for file in files])
    shape = dataclasses.replace(base, frames=frames, fps=fps, height=height, width=width)
    changes = tuple(
        f"base/VideoShape.{field}={value!r}"
        for field, value in dataclasses.asdict(shape).items()
        if value != getattr(base, field)
    )
    return Suggestion(name, shape, changes)


def _sides(base: VideoShape, logs: Sequence[float]) -> tuple[int, int]:
    """Return height and width for the median of the logarithms of width / height."""
    aspect = math.exp(float(np.median(logs)))
    longer = min(max(aspect, 1 / aspect), _WIDEST)
    short = min(base.height, base.width)
    long = max(short, round(short * longer / _STRIDE) * _STRIDE)
    return (short, long) if aspect > 1 else (long, short)
