"""A user's own video, picture or array, in the size and at the times that a model wants.

    video   mp4, webm, ts, gif, ...    the frame nearest in time, cropped to the aspect, resized
    still   png, jpg, ...              the same picture for every frame
    array   npy, "t h w c" or "h w c"  frames one by one; in the wanted size, the numbers as given
            npz that holds one array   likewise

Everything comes out as float in [-1, 1].
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from vidgen.data.source import BadExample
from vidgen.data.sources.images import read_image
from vidgen.data.video import transforms
from vidgen.data.video.files import probe, read_clip
from vidgen.types import VideoShape

STILL_SUFFIXES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ARRAY_SUFFIXES = (".npy", ".npz")
SLACK = 1e-6  # of seconds, and of frames: rounding shall not lose one
# Seconds by which a file may say that it ends too early: a GIF counts hundredths, WebM thousandths.
ROUNDING = 0.006


class FootageError(ValueError):
    """A file cannot be used; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Footage:
    """A file whose size and length are known, and that is not yet read.

    Attributes:
      path: the file.
      kind: "video", "still" or "array".
      height: pixels as displayed.
      width: pixels as displayed.
      seconds: how long it plays; infinite for a still.
      frames: how many an array has; 1 of a still.
      fps: frames a second of a video, on average; those of a gif may last 0.12 s and 0.13 s.
    """

    path: pathlib.Path
    kind: str
    height: int
    width: int
    seconds: float = math.inf
    frames: int = 1
    fps: float = 1.0

    @property
    def is_still(self) -> bool:
        """Whether it is a single picture, whatever the kind of file."""
        return self.kind == "still" or (self.kind == "array" and self.frames == 1)

    def at_rate(self, fps: float) -> Footage:
        """Give an array, which has no frame rate of its own, the one that it is played at.

        Args:
          fps: frames per second.

        Returns:
          A copy that plays as long as its frames last; videos and stills as they are.
        """
        if self.kind != "array" or self.is_still:
            return self
        return dataclasses.replace(self, seconds=self.frames / fps)

    def frames_at(self, fps: float, start: float = 0.0) -> int:
        """Count the frames at a rate, a rounded length taken into account.

        Args:
          fps: frames per second.
          start: seconds to skip.

        Returns:
          How many frames `read` can give from there; 1 of a still.
        """
        if self.is_still:
            return 1
        rounding = min(0.5, SLACK if self.kind == "array" else ROUNDING * fps)  # in frames
        return max(0, math.floor((self.seconds - start) * fps + rounding))

    def read(self, shape: VideoShape, start: float = 0.0) -> Float[np.ndarray, "t h w c"]:
        """Read the frames at start + k / shape.fps seconds, for k = 0 ... shape.frames - 1.

        Args:
          shape: frames, size and rate of the result.
          start: seconds to skip.

        Returns:
          Frames in [-1, 1]; a still is repeated, and a float array of this size comes out as it is
          stored.

        Raises:
          FootageError: it is too short, or damaged.
        """
        if self.kind == "array":
            return self._from_array(shape, start)
        with _as_footage_error():
            if self.is_still:
                frame = transforms.fit(read_image(self.path), shape.height, shape.width)
                return np.broadcast_to(transforms.to_float(frame), shape.thwc)
            return transforms.to_float(read_clip(self.path, shape, float(start)))

    def _from_array(self, shape: VideoShape, start: float) -> Float[np.ndarray, "t h w c"]:
        rate = 0.0 if self.is_still else self.frames / self.seconds
        wanted = np.floor((start + np.arange(shape.frames) / shape.fps) * rate + SLACK).astype(int)
        if wanted[-1] >= self.frames:
            raise FootageError(
                f"{self.path}: too short: {self.frames} frames, {wanted[-1] + 1} are needed."
            )
        video = _array(self.path)[wanted]
        if video.shape[1:3] == (shape.height, shape.width):
            return video if video.dtype == np.float32 else transforms.to_float(video)
        pixels = video if video.dtype == np.uint8 else transforms.to_uint8(video)
        small = [transforms.fit(frame, shape.height, shape.width) for frame in pixels]
        return transforms.to_float(np.stack(small))


def open_footage(path: str | os.PathLike) -> Footage:
    """Open a file far enough to know its size and length.

    Args:
      path: a video, a picture or an array on this machine; ~ is expanded.

    Returns:
      What is known of it; its frames are not read yet.

    Raises:
      FootageError: there is no such file, or it is none that can be read.
    """
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file():
        raise FootageError(f"there is no file {path}.")
    if suffix in ARRAY_SUFFIXES:
        video = _array(path)
        return Footage(path, "array", *video.shape[1:3], frames=len(video))
    with _as_footage_error():
        probed = None if suffix in STILL_SUFFIXES else probe(path)
        if probed is None or probed.frames == 1:
            return Footage(path, "still", *read_image(path).shape[:2])
        seconds, fps, height, width, _ = probed
        return Footage(path, "video", height, width, seconds=seconds, fps=fps)


@contextlib.contextmanager
def _as_footage_error() -> Iterator[None]:
    """Turn BadExample, which skips a file in training, into FootageError."""
    try:
        yield
    except BadExample as error:
        raise FootageError(f"{error}.") from error


def _array(path: pathlib.Path) -> np.ndarray:
    """Load the frames of an npy or npz file, as float32 or uint8."""
    try:
        video = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(video, np.lib.npyio.NpzFile):
            with video:
                (name,) = video.files
                video = video[name]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FootageError(f"{path}: no numpy array that can be read.") from error
    video = video[None] if video.ndim == 3 else video
    if video.ndim != 4 or video.shape[-1] != 3 or not video.size:
        raise FootageError(
            f"{path}: its shape is {video.shape}; a video is (frames, height, width, 3)."
        )
    if video.dtype == np.uint8:
        return video
    if not np.issubdtype(video.dtype, np.floating) or not np.isfinite(video).all():
        raise FootageError(
            f"{path}: it holds {video.dtype}; a video is uint8, or finite float in [-1, 1]."
        )
    return video.astype(np.float32)
