"""Where a film is cut: given beside it, or found from how much successive frames differ.

    p   mean absolute difference of the pixels of two frames, in [0, 1]
    q   mean over 4 x 4 regions of (1/2) Σ |h - h'|, the histograms of their colors, in [0, 1]
    s = sqrt(p q)

p alone is high where the camera moves, q where the light changes, both where another shot begins.
Histograms of regions tell cuts best among the simple measures (Boreczky and Rowe, Comparison of
video shot boundary detection techniques, 1996); a threshold that adapts to the frames around is
that of Yeo and Liu (Rapid scene analysis on compressed video, 1995). A cut is a frame whose s is

    the highest of the WINDOW frames on either side,  >= RATIO times their mean,  and >= LEAST.

Cuts are found; dissolves and fades are not, and count as one shot. PySceneDetect 0.7.2 finds the
same six cuts in tests/files/big_buck_bunny as this detector (its content, adaptive and histogram
detectors do; its hash detector adds three that are none), and needs OpenCV, 153 MB.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8

THUMBNAIL = (36, 64)  # height and width at which frames are compared
_REGIONS, _LEVELS = 4, 8
F = TypeVar("F")  # whatever stands for a frame
Shot = tuple[int, int]  # first frame, last frame + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutDetector:
    """How cuts are distinguished from motion; see the module docstring.

    Attributes:
      window: frames on either side of a cut that it is compared with; no shot is shorter.
      ratio: how many times their mean it has to differ.
      least: s of a cut, at least.
    """

    # [guess] Chosen on the first 11,500 frames of Big Buck Bunny, 24 per second.
    window: int = 5
    ratio: float = 3.0
    least: float = 0.2

    def __post_init__(self) -> None:
        if self.window < 1 or self.ratio < 1 or not 0 < self.least < 1:
            raise ValueError(
                f"{self} cannot find cuts: window must be >= 1, ratio >= 1, least in (0, 1)."
            )

    def is_cut(self, scores: Sequence[float], at: int) -> bool:
        """Whether a shot begins with a frame.

        Args:
          scores: s of successive frames, each against the one before it.
          at: number of the frame among them; those on both sides are compared with it.

        Returns:
          True for a cut.
        """
        score = scores[at]
        near = [*scores[max(0, at - self.window) : at], *scores[at + 1 : at + 1 + self.window]]
        mean = sum(near) / max(1, len(near))
        return score >= self.least and score >= max(near, default=0) and score >= self.ratio * mean


def difference(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> float:
    """Compute the difference s of two frames; see the module docstring.

    Args:
      before: a frame at the size of `THUMBNAIL`.
      after: the next one, of the same size.

    Returns:
      A number from 0 to 1.
    """
    pixels = np.abs(before.astype(np.int16) - after.astype(np.int16)).mean() / 255
    colors = np.abs(_histograms(before) - _histograms(after)).sum(-1).mean() / 2
    return float(np.sqrt(pixels * colors))


def _histograms(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "n 3 levels"]:
    """Return the share of each level of each color in each region."""
    height, width = (side // _REGIONS for side in frame.shape[:2])
    regions = frame[: height * _REGIONS, : width * _REGIONS].reshape(
        _REGIONS, height, _REGIONS, width, 3
    )
    pixels = regions.transpose(0, 2, 4, 1, 3).reshape(_REGIONS**2 * 3, height * width)
    place = np.arange(len(pixels))[:, None] * _LEVELS + pixels // (256 // _LEVELS)
    counts = np.bincount(place.reshape(-1), minlength=len(pixels) * _LEVELS)
    return counts.reshape(_REGIONS**2, 3, _LEVELS) / pixels.shape[1]


def by_detection(
    frames: Iterable[F],
    thumbnail: Callable[[F], np.ndarray],
    detector: CutDetector,
) -> Iterator[tuple[int, F]]:
    """Find the shots of a video, `detector.window` frames late.

    Args:
      frames: frames of a film, in order.
      thumbnail: returns a frame scaled to `THUMBNAIL`.
      detector: tells cuts.

    Yields:
      (number of the shot, frame) for all frames.
    """
    held: collections.deque[F] = collections.deque()
    scores: list[float] = []  # of the held frames, and of the last ones before them
    before, shot = None, 0

    def judged() -> tuple[int, F]:
        nonlocal shot
        at = len(scores) - len(held)
        shot += detector.is_cut(scores, at)
        del scores[: max(0, at + 1 - detector.window)]
        return shot, held.popleft()

    for frame in frames:
        small = thumbnail(frame)
        if before is not None:
            scores.append(difference(before, small))
            held.append(frame)
        else:
            yield shot, frame  # the first one: there is nothing to compare it with
        before = small
        if len(held) > detector.window:
            yield judged()
    while held:
        yield judged()


def by_list(frames: Iterable[F], shots: Sequence[Shot]) -> Iterator[tuple[int, F]]:
    """Take the frames that are in a listed shot.

    Args:
      frames: frames of a film, in order.
      shots: in order and without overlap; frames between them are left out.

    Yields:
      (number of the shot, frame).
    """
    shot = 0
    for number, frame in enumerate(frames):
        while shot < len(shots) and number >= shots[shot][1]:
            shot += 1
        if shot == len(shots):
            return
        if number >= shots[shot][0]:
            yield shot, frame


def shots_file(video: str | os.PathLike) -> pathlib.Path:
    """Name the file that lists the shots of a video: clip.shots.json beside clip.mp4.

    Args:
      video: path of the video.

    Returns:
      A path; nothing need be there.
    """
    return pathlib.Path(video).with_suffix(".shots.json")


def read_shots(path: str | os.PathLike) -> list[Shot]:
    """Read shots from a JSON file: a list of [first frame, last frame + 1], in order.

    Args:
      path: the path of the file.

    Returns:
      The shots.

    Raises:
      ValueError: it holds something else.
    """
    try:
        shots = [(first, end) for first, end in json.loads(pathlib.Path(path).read_text("utf-8"))]
        end = 0
        for shot in shots:
            if not (type(shot[0]) is type(shot[1]) is int and end <= shot[0] < shot[1]):
                raise ValueError(f"{list(shot)} after frame {end}")
            end = shot[1]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of shots like [[0, 36], [36, 285]], in order and without overlap "
            f"({error})."
        ) from error
    return shots
