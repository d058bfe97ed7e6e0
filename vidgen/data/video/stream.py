"""Videos that are written while they are made, in memory that does not grow with their length.

    .mp4   H.264 in fragments of two seconds, so that the beginning plays while the rest is made;
           an ordinary file (index in front) once it is closed
    .webm  VP9 in clusters of two seconds, likewise
    .gif   each frame with a palette of its own; at most 50 frames a second
    .webp  without loss; at most 90 frames a second
    .npy   uint8 or float "t h w c" as given; a valid array, which `np.load` can map, all the time
    .png   a folder of the name without suffix, with one numbered picture a frame

A video grows under another name and appears under its own when it is complete. An encoder holds
back a few frames, so a growing video ends some seconds before the last frame appended.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import av.error
import numpy as np
from jaxtyping import Float, UInt8

from vidgen.data.video import transforms
from vidgen.data.video.animated_pictures import GifSink, WebpSink, fastest
from vidgen.data.video.sinks import AV_KINDS, AvSink, NpySink, PngSink, defragment

_WRITING_ERRORS = (OSError, av.error.FFmpegError)
_Sink = AvSink | GifSink | WebpSink | NpySink | PngSink
_STILLS = (".npy", ".png")  # which have no frame rate
STREAM_SUFFIXES = (*AV_KINDS, ".gif", ".webp", *_STILLS)
# Most frames a second by kind: WebM counts milliseconds, as MP4 with such a rate does here.
RATES = {".mp4": 1000.0, ".webm": 1000.0} | {kind: fastest(kind) for kind in (".gif", ".webp")}
SLOWEST = 0.002  # 655 seconds are the longest delay of a GIF


class VideoStream:
    """A video to which frames are added; use it in a `with` block.

    Leaving the block closes the video, or removes it if there was an error.

    Attributes:
      path: the file that will appear; for .png a folder.
      growing: the file that grows until then.
      frames: how many frames it has.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float | int,
        height: int,
        width: int,
        *,
        growing: str | os.PathLike | None = None,
        min_side: int = 128,
    ) -> None:
        """Begin an empty video.

        Args:
          path: what to write; the suffix is the format, see the module docstring.
          fps: frames per second, > 0.
          height: the height of the frames, in pixels.
          width: likewise.
          growing: where it grows, on the same file system; by default a hidden name beside `path`.
          min_side: as for `write_video`; .npy and .png keep the size.

        Raises:
          ValueError: a suffix that cannot be streamed, or a number that is not positive.
          OSError: cannot be written there; names the path.
        """
        path = pathlib.Path(path)
        check_streamable(path)
        check_rate(path, fps)
        if not (height > 0 and width > 0):
            raise ValueError(f"a film of {height}x{width} cannot be written: it has no pixel.")
        self.path = path.with_suffix("") if path.suffix.lower() == ".png" else path
        hidden = path.with_name(f".{path.name}.{os.getpid()}.part")
        self.growing = hidden if growing is None else pathlib.Path(growing)
        self.frames = 0
        self._suffix, self._size, self._factor = path.suffix.lower(), (height, width), 1
        self._channels: int | None = None
        with errors_naming(path):
            remove(self.growing)
            self._sink: _Sink | None = self._open(fps, min_side)

    def _open(self, fps: float | int, min_side: int) -> _Sink:
        if self._suffix == ".npy":
            return NpySink(self.growing)
        if self._suffix == ".png":
            if self.path.exists() and any(self.path.iterdir()):
                raise FileExistsError(17, "this folder of frames is there already", str(self.path))
            return PngSink(self.growing)
        self.growing.touch()  # PyAV would notice only at the first frame that it cannot be made
        self._factor = max(1, math.ceil(min_side / min(self._size)))
        height, width = (self._factor * side for side in self._size)
        if self._suffix in AV_KINDS:
            return AvSink(str(self.growing), fps, (height, width), kind=self._suffix)
        sink = GifSink if self._suffix == ".gif" else functools.partial(WebpSink, lossless=True)
        return sink(self.growing.open("wb"), fps, (height, width))

    def append(self, frames: UInt8[np.ndarray, "t h w c"] | Float[np.ndarray, "t h w c"]) -> None:
        """Add frames to the end of the video.

        Args:
          frames: uint8 or float in [-1, 1], c = 3 or 1, always of the same kind and size.

        Raises:
          ValueError: another size, or nothing that can be shown.
          OSError: the disk is full, ...; names the path.
        """
        if self._sink is None:
            raise ValueError(f"{self.path} is closed; frames cannot be added to it.")
        if frames.shape[1:3] != self._size or frames.shape[3] not in (1, 3):
            height, width = self._size
            raise ValueError(
                f"{self.path}: frames to append have shape {frames.shape}; expected "
                f"(t, {height}, {width}, 3 or 1)."
            )
        if self._channels not in (None, frames.shape[3]):
            raise ValueError(
                f"{self.path} has {self._channels} channels; frames with {frames.shape[3]} came."
            )
        self._channels = frames.shape[3]
        with errors_naming(self.path):
            if self._suffix == ".npy":
                self._sink.write(frames)
            else:
                pixels = frames if frames.dtype == np.uint8 else transforms.to_uint8(frames)
                for part in np.broadcast_to(pixels, (*pixels.shape[:3], 3)):
                    large = part.repeat(self._factor, axis=0).repeat(self._factor, axis=1)
                    self._sink.write(large[None])
        self.frames += len(frames)

    def end(self) -> None:
        """Write the frames that the encoder holds back, and leave the video at `growing`."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with errors_naming(self.path):
                sink.close()

    def close(self) -> pathlib.Path:
        """End the video, and move it to `path`, replacing a file there.

        Returns:
          The path.

        Raises:
          ValueError: no frame was appended.
          OSError: it cannot be written there; names the path.
        """
        self.end()
        if not self.frames:
            self.discard()
            raise ValueError(f"{self.path} has no frame; append at least one before closing it.")
        with errors_naming(self.path):
            if self._suffix == ".mp4":
                defragment(self.growing)
            if self.path.is_dir() and self.growing.is_dir():
                self.path.rmdir()  # empty, or it would have been refused
            os.replace(self.growing, self.path)
        return self.path

    def discard(self) -> None:
        """End the video and remove it."""
        with contextlib.suppress(OSError):
            self.end()
        with contextlib.suppress(OSError):
            remove(self.growing)

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return self.discard()
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


def check_streamable(path: str | os.PathLike) -> None:
    """Check that a video of this suffix can be streamed, before anything long begins.

    Args:
      path: the path of the file that will be written.

    Raises:
      ValueError: it cannot.
    """
    check_suffix_among(STREAM_SUFFIXES, path)


def check_suffix_among(suffixes: Sequence[str], path: str | os.PathLike) -> None:
    """Check the suffix of a file that will be written.

    Args:
      suffixes: those that there is a format for, in lower case.
      path: the path of the file.

    Raises:
      ValueError: it has another.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(
            f"cannot write {str(path)!r}: unknown suffix {suffix!r}; choose {', '.join(suffixes)}."
        )


def check_rate(path: str | os.PathLike, fps: float | int) -> None:
    """Check that a file of this suffix can play at a rate, before anything long begins.

    Args:
      path: the path of the file that will be written.
      fps: frames per second.

    Raises:
      ValueError: it cannot; the message names formats that can.
    """
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; it must be positive.")
    suffix = pathlib.Path(path).suffix.lower()
    fastest = RATES.get(suffix, math.inf)
    if suffix in RATES and not SLOWEST <= fps <= fastest:
        others = ", ".join([s for s in RATES if SLOWEST <= fps <= RATES[s]] + list(_STILLS))
        raise ValueError(
            f"cannot write {str(path)!r} at {fps:g} frames a second: a {suffix} plays {SLOWEST:g} "
            f"to {fastest:.4g}; choose {others}."
        )


def remove(path: pathlib.Path) -> None:
    """Remove a file, or a folder with its content, if there is one.

    Args:
      path: what to remove; of a link the link itself.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def errors_naming(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever goes wrong with writing in the block into an OSError that names a file.

    Args:
      path: the path of the file that is written there.

    Yields:
      Nothing.
    """
    try:
        yield
    except _WRITING_ERRORS as error:
        reason = error.strerror or str(error)
        text = f"cannot write the video ({reason})"
        raise OSError(error.errno, text, str(path)) from error
