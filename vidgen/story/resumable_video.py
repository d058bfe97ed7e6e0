"""A video that is made segment by segment, and goes on where it was when it was stopped.

Beside OUTPUT lies the folder OUTPUT.partial with

    identity.json      what the video depends on: story, model, seed, settings
    000000.npy, ...    the frames of finished segments, uint8
    state.npz          how many segments are finished, and the frames that the next one continues
    OUTPUT's name      the video so far, for people to look at (`VideoStream`)

A segment counts once state.npz says so, which is replaced in one step after the segment's frames
are on the disk: whenever the process dies, at most the segment in work is lost. The video so far is
encoded again from the frames when work goes on, so that it does not depend on where it was stopped.

An unfinished video is continued only where its identity is the same. Weights are identified by
their content and not by folder and step, under which training may put others.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from vidgen.data.video import stream as video_stream
from vidgen.data.video import transforms
from vidgen.data.video.stream import VideoStream
from vidgen.types import VideoShape

T = TypeVar("T")

_COUNT, _CONTEXT = "segments finished", "context"  # the arrays of state.npz
_LOCK, _IDENTITY, _STATE = "lock", "identity.json", "state.npz"


class ResumeError(ValueError):
    """A video cannot be continued; the message says why and what to do."""


class ResumableVideo:
    """A growing video; use it in a `with` block, which leaves all that is finished on the disk.

        with ResumableVideo("out.mp4", shape, identity={...}) as video:
            begin, context = video.resume()
            for segment in segments[begin:]:
                frames, context = make(segment, context)
                video.append(segment.index, frames, context)
            video.finish()

    Attributes:
      output: the file that will appear.
      folder: the folder in which it grows.
      growing: the video so far, for people to look at.
      frames: number of frames so far.
    """

    def __init__(
        self,
        output: str | os.PathLike,
        shape: VideoShape,
        *,
        identity: Mapping[str, Any],
        restart: bool = False,
    ) -> None:
        """Find the unfinished video, or make its folder.

        Args:
          output: the file to write; its suffix is the format, one that `VideoStream` can write.
          shape: height, width and rate of the frames; how many there will be is not read.
          identity: all that the video depends on, as plain data that JSON can hold.
          restart: remove the unfinished video and begin anew.

        Raises:
          ResumeError: the unfinished video has another identity, or another process makes it.
          ValueError: the suffix is unknown, or its format cannot play this rate.
          OSError: the folder cannot be made or written.
        """
        video_stream.check_streamable(output)
        video_stream.check_rate(output, shape.fps)
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.partial")
        self.growing = self.folder / self.output.name
        self.frames = 0
        self._ends: list[int] = []  # of each segment, in frames
        self._size, self._fps = (shape.height, shape.width), shape.fps
        size = {"fps": float(shape.fps), "height": shape.height, "width": shape.width}
        self._identity = json.loads(json.dumps({**identity, "film": size}))
        self._next: int | None = None  # known once `resume` was called
        self._stream: VideoStream | None = None
        with video_stream.errors_naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        try:
            if restart:
                self._clear()
            self._check_identity()
        except BaseException:
            self._unlock()
            raise

    def resume(self) -> tuple[int, Float[np.ndarray, "k h w c"] | None]:
        """Encode what is finished. Call it once, before the first `append`.

        Returns:
          The number of the next segment, and the context that came with the last finished one.

        Raises:
          ResumeError: the folder is damaged.
        """
        if self._next is not None:
            raise ValueError("`resume` was called already; call it once, before the first segment.")
        self._stream = VideoStream(self.output, self._fps, *self._size, growing=self.growing)
        context, count, path = None, 0, self.folder / _STATE
        if path.exists():
            count, context = self._read(path, _read_state)
        for index in range(count):
            self._encode(self._read(self._chunk(index), np.load))
        self._next = count
        return count, context

    def append(
        self,
        index: int,
        frames: UInt8[np.ndarray, "t h w 3"] | Float[np.ndarray, "t h w 3"],
        context: Float[np.ndarray, "k h w c"] | None = None,
    ) -> None:
        """Add the new frames of a segment; they are safe on the disk when this returns.

        Args:
          index: number of the segment; segments come in order, from 0.
          frames: uint8, or float in [-1, 1].
          context: the exact frames that the next segment continues, for `resume` to give back.

        Raises:
          OSError: the frames cannot be written; the video can be continued later.
        """
        if self._next is None:
            raise ValueError("call `resume` before the first `append`.")
        if index != self._next:
            raise ValueError(f"segment {index} was appended; the next one is {self._next}.")
        pixels = frames if frames.dtype == np.uint8 else transforms.to_uint8(frames)
        state: dict[str, Any] = {_COUNT: np.asarray(index + 1)}
        if context is not None:
            state[_CONTEXT] = np.asarray(context)
        _replace(self._chunk(index), lambda file: np.save(file, pixels, allow_pickle=False))
        _replace(self.folder / _STATE, lambda file: np.savez(file, **state))
        self._next += 1
        self._encode(pixels)

    def finish(self) -> Path:
        """Move the video to its place and remove the folder.

        Returns:
          The path of the video.

        Raises:
          ValueError: no segment was appended.
          OSError: the video cannot be written there.
        """
        if self._stream is None or not self._next:
            raise ValueError(f"{self.output} has no frame yet; append a segment first.")
        path, self._stream = self._stream.close(), None
        self.discard()
        return path

    def discard(self) -> None:
        """Remove the unfinished video and its folder, in which files of others stay."""
        self._end_stream()
        self._clear()
        self._unlock()
        with contextlib.suppress(OSError):
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Read frames from the disk, as far as they are there.

        Args:
          start: number of the first frame, from 0.
          stop: number of the frame after the last.

        Returns:
          The frames; fewer, or none, where the video ends before `stop`.

        Raises:
          ResumeError: the folder is damaged.
        """
        parts = [np.zeros((0, *self._size, 3), np.uint8)]
        index = bisect.bisect_right(self._ends, start)
        while start < min(stop, self.frames):
            begin = self._ends[index - 1] if index else 0
            chunk = self._read(self._chunk(index), lambda path: np.load(path, mmap_mode="r"))
            parts.append(chunk[start - begin : stop - begin])
            start, index = self._ends[index], index + 1
        return np.concatenate(parts)

    def close(self) -> None:
        """Leave the video as it is, to be looked at and continued."""
        try:
            self._end_stream()
        finally:
            self._unlock()

    def __enter__(self) -> ResumableVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_identity(self) -> None:
        """Write the identity of a new video; compare that of an unfinished one."""
        path = self.folder / _IDENTITY
        if not path.exists():
            others = {p.name for p in self.folder.iterdir()} - {_LOCK, f"{_IDENTITY}.tmp"}
            if others:
                raise ResumeError(
                    f"{self.folder} holds {min(others)}, which belongs to no unfinished video. "
                    "Move the folder away, or name another --output."
                )
            text = json.dumps(self._identity, indent=1, ensure_ascii=False)
            _replace(path, lambda file: file.write(text.encode()))
            return
        old = self._read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
        if changes := differences(old, self._identity):
            raise ResumeError(
                f"{self.folder} holds an unfinished video of something else: {changes}. Begin this "
                "one with --restart, which removes that one, or name another --output."
            )

    def _read(self, path: Path, load: Callable[[Path], T]) -> T:
        try:
            return load(path)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so the video cannot be continued: begin it anew "
                "with --restart."
            ) from error

    def _chunk(self, index: int) -> Path:
        return self.folder / f"{index:06}.npy"

    def _encode(self, frames: np.ndarray) -> None:
        assert self._stream is not None
        self._stream.append(frames)
        self.frames += len(frames)
        self._ends.append(self.frames)

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()

    def _clear(self) -> None:
        """Remove what videos leave in the folder, and nothing else.

        state.npz goes first and identity.json last: a folder that is half cleared is then a video
        that has not begun.
        """
        ours = re.compile(r"state\.npz|\d{6,}\.npy|identity\.json|.*\.tmp")
        names = {p.name for p in self.folder.iterdir()}
        if _IDENTITY not in names:
            return  # some other folder
        encoded = (self.output.name, f"{self.output.name}.whole")
        names = {name for name in names if ours.fullmatch(name) or name in encoded}
        for name in sorted(names, key=lambda name: (name == _IDENTITY, name != _STATE)):
            video_stream.remove(self.folder / name)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def _lock(folder: Path) -> BinaryIO | None:
    """Open a file that no other process can open so until this one closes it or dies."""
    try:
        import fcntl  # not on every system
    except ImportError:
        return None
    file = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ResumeError(
            f"another process is making the video in {folder}: wait for it, or name another "
            "--output."
        ) from error
    return file


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step: all of the new one is on the disk, or the old one is."""
    part = path.with_name(f"{path.name}.tmp")
    with video_stream.errors_naming(path):
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def _read_state(path: Path) -> tuple[int, np.ndarray | None]:
    with np.load(path) as state:
        return int(state[_COUNT]), state[_CONTEXT] if _CONTEXT in state else None


def differences(old: object, new: object, limit: int = 3) -> str:
    """Compare two values of plain data.

    Args:
      old: the value on the disk.
      new: the value of this run.
      limit: how many differences are named.

    Returns:
      The differences in words, "" where there are none.
    """
    lines = _differences(old, new, "")
    more = f" and {len(lines) - limit} more" if len(lines) > limit else ""
    return ", ".join(lines[:limit]) + more


def _differences(old: object, new: object, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {str(key): (old.get(key), new.get(key)) for key in {**old, **new}}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = {str(i + 1): pair for i, pair in enumerate(zip(old, new, strict=True))}
    elif old == new:
        return []
    else:
        return [f"{path.strip()} is {_in_short(old)} there and {_in_short(new)} here"]
    return [text for key, pair in pairs.items() for text in _differences(*pair, f"{path} {key}")]


def _in_short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} items"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
