"""What a generated clip begins with: a video to up-sample, and content that must stay as it is.

A stage whose clip lasts T = t / fps seconds has frame k at k / fps. With an overlap of o seconds,

    --first VIDEO   its last o seconds are the frames with k / fps < o       (continuation)
    --last VIDEO    its first o seconds are those with k / fps >= T - o      (in between)
    --first STILL   frame 0                                                  (image to video)
    --last STILL    all frames after the last one of the first, coarsest stage
    --inpaint       every frame, except where the mask is white

so all stages know the same moments, each at its own rate and size.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math

import numpy as np
from jaxtyping import Bool, Float

from vidgen.data.video.footage import ROUNDING, SLACK, Footage, FootageError, open_footage
from vidgen.imagen.cascade import Cascade
from vidgen.types import VideoShape

log = logging.getLogger(__name__)

SIZES = ("model", "own")
_HOLE = -0.8  # a mask pixel that is a tenth white, where -1 is black and 1 is white


@dataclasses.dataclass(frozen=True, kw_only=True)
class Init:
    """The video that the first stage starts from, or that it changes (`Generate.strength`).

    Attributes:
      path: a video, a picture, or an array that an earlier run wrote.
      size: "model": cropped and resized to what the stage takes, and as long; "own": in its own
        size and length, cropped to the multiple that the networks need.
      start: seconds to skip.
    """

    path: str
    size: str = "model"
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"--init_size={self.size}: choose one of {', '.join(SIZES)}.")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"--init_start is {self.start}; it must be >= 0 seconds.")
        _ = self.footage  # a file that is not there is told at once

    @functools.cached_property
    def footage(self) -> Footage:
        """The file, opened."""
        return _opened("init", self.path)

    def sized(
        self, chain: Cascade, *, frames: int | None, height: int | None, width: int | None
    ) -> Cascade:
        """Size a cascade for clips that come from this video.

        Args:
          chain: the stages that run.
          frames: how many the clips have that come out; None is as many as the video gives.
          height: the height of the clips that come out, in pixels; None with `size` "own".
          width: likewise.

        Returns:
          The cascade whose input (or first clip, of a stage that starts from text) is this video.

        Raises:
          ValueError: its stages cannot make that of it.
        """
        wanted, (time, space) = chain.input_shape or chain.stages[0].shape, chain.factors
        footage = self.footage.at_rate(wanted.fps)
        # A stage that starts from text (--strength) shows a picture in all of its frames.
        is_picture = footage.is_still and chain.input_shape is not None
        if is_picture and time > 1:
            raise ValueError(
                f"--init {self.path} is one picture, and {' '.join(chain.names)} put frames "
                "between frames; stop before (--until), or give a video."
            )
        if is_picture and frames is None:
            frames = 1
        if self.size == "model":
            return chain.sized(frames=frames, height=height, width=width)
        if height is not None:
            raise ValueError("--size and --init_size=own contradict each other; leave out one.")
        multiple = chain.multiples[1] // space
        cropped = [n // multiple * multiple for n in (footage.height, footage.width)]
        if not all(cropped):
            raise ValueError(
                f"--init {self.path} is {footage.height}x{footage.width}; frames must have "
                f"{multiple} pixels along each side or more."
            )
        if cropped != [footage.height, footage.width]:
            log.info("%s is cropped to %dx%d, multiples of %d", self.path, *cropped, multiple)
        if frames is None and not footage.is_still:
            frames = footage.frames_at(wanted.fps, self.start) * time
        return chain.sized(frames=frames, height=cropped[0] * space, width=cropped[1] * space)

    def read(self, shape: VideoShape) -> Float[np.ndarray, "t h w c"]:
        """Read the video as frames of a stage.

        Args:
          shape: the frames to read, their size and their rate.

        Returns:
          Frames in [-1, 1].

        Raises:
          ValueError: it is too short, or damaged.
        """
        try:
            return self.footage.at_rate(shape.fps).read(shape, self.start)
        except FootageError as error:
            advice = " Lower --frames, or take --init_size=own." if "short" in str(error) else ""
            raise ValueError(f"--init {error}{advice}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownFiles:
    """Files whose content every clip must have.

    Attributes:
      first: a picture or a video that the clip begins with.
      last: one that it ends with.
      inpaint: a video of which only a part is made anew ...
      mask: ... where this picture or video is white.
      overlap: seconds taken of `first` and `last` if they are videos; None is a quarter of a clip.
    """

    first: str | None = None
    last: str | None = None
    inpaint: str | None = None
    mask: str | None = None
    overlap: float | None = None

    def __post_init__(self) -> None:
        if (self.inpaint is None) != (self.mask is None):
            raise ValueError("--inpaint=VIDEO and --mask=FILE go together; give both or none.")
        if self.inpaint is not None and (self.first or self.last):
            raise ValueError("--inpaint already says what every frame shows; drop --first, --last.")
        if self.overlap is not None and not 0 < self.overlap < math.inf:
            raise ValueError(f"--overlap is {self.overlap}; it must be more than 0 seconds.")
        ends = (self._files["first"], self._files["last"])
        if self.overlap is not None and not any(f and not f.is_still for f in ends):
            raise ValueError("--overlap is for a video as --first or --last; there is none.")

    @functools.cached_property
    def _files(self) -> dict[str, Footage | None]:
        names = ("first", "last", "inpaint", "mask")
        paths = {name: getattr(self, name) for name in names}
        return {n: None if path is None else _opened(n, path) for n, path in paths.items()}

    def __bool__(self) -> bool:
        return any(self._files.values())

    def at(
        self, shape: VideoShape, *, coarse_fps: float, array_fps: float
    ) -> tuple[Float[np.ndarray, "t h w c"], Bool[np.ndarray, "t h w"]]:
        """Read the known video of one stage, and where it is known.

        Args:
          shape: the stage's clip.
          coarse_fps: frame rate of the first stage that runs.
          array_fps: frame rate that arrays count as.

        Returns:
          Frames in [-1, 1], and a mask that is True where they are known; elsewhere they mean
          nothing.

        Raises:
          ValueError: a file is too short, or damaged.
        """
        files = {n: f and f.at_rate(array_fps) for n, f in self._files.items()}
        if files["inpaint"] and files["mask"]:
            hole = _read("mask", files["mask"], shape).max(-1) > _HOLE
            return _read("inpaint", files["inpaint"], shape), ~hole
        video = np.zeros(shape.thwc, np.float32)
        known = np.zeros(shape.thwc[:3], bool)
        if first := files["first"]:
            frames, start = self._beginning(first, shape)
            part = dataclasses.replace(shape, frames=frames)
            video[:frames], known[:frames] = _read("first", first, part, start), True
        if last := files["last"]:
            frames, start = self._ending(last, shape, coarse_fps)
            part = dataclasses.replace(shape, frames=frames)
            video[-frames:], known[-frames:] = _read("last", last, part, start), True
        return video, known

    def _beginning(self, footage: Footage, shape: VideoShape) -> tuple[int, float]:
        """Return how many frames of `first` are used, and from which second on."""
        if footage.is_still:
            return 1, 0.0
        overlap = self._overlap(shape)
        if footage.seconds + ROUNDING < overlap:
            raise ValueError(
                f"--first {footage.path} plays {footage.seconds:.2f} s, less than the overlap of "
                f"{overlap:.2f} s; give --overlap=SECONDS."
            )
        return max(1, math.ceil(overlap * shape.fps - SLACK)), max(0.0, footage.seconds - overlap)

    def _ending(self, footage: Footage, shape: VideoShape, coarse: float) -> tuple[int, float]:
        """Return how many frames of `last` are used, and from which second on."""
        if footage.is_still:
            return min(shape.frames, max(1, round(shape.fps / coarse))), 0.0
        overlap = self._overlap(shape)
        frames = max(1, math.floor(overlap * shape.fps + SLACK))
        return frames, max(0.0, overlap - frames / shape.fps)

    def _overlap(self, shape: VideoShape) -> float:
        length = shape.seconds
        overlap = length / 4 if self.overlap is None else self.overlap
        videos = sum(f is not None and not f.is_still for f in self._files.values())
        if overlap * videos >= length:
            raise ValueError(
                f"--overlap is {overlap:g} s, which leaves nothing to make of {length:.2f} s."
            )
        return overlap


def _opened(flag: str, path: str) -> Footage:
    try:
        return open_footage(path)
    except FootageError as error:
        raise ValueError(f"--{flag}: {error}") from error


def _read(flag: str, footage: Footage, shape: VideoShape, start: float = 0.0) -> np.ndarray:
    try:
        return footage.read(shape, start)
    except FootageError as error:
        raise ValueError(f"--{flag} {error}") from error
