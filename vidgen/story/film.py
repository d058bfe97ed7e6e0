"""A film that is made segment by segment, and goes on where it was when it was stopped.

Beside OUTPUT lies the folder OUTPUT.partial with

    identity.json      what the film depends on: story, model, seed, settings
    000000.npy, ...    the frames of finished segments, uint8
    state.npz          what the next segment needs, and how many are finished
    OUTPUT's name      the film so far, for people to look at (`VideoStream`)

A segment counts once state.npz says so, which is replaced in one step after its frames are on the
disk: whenever the process dies, at most the segment in work is lost. The film so far is encoded
again from the frames when work goes on, so the film does not depend on where it was stopped.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, UInt8

from vidgen.data.video import stream as video_stream
from vidgen.data.video import transforms
from vidgen.data.video.stream import VideoStream

State = Mapping[str, np.ndarray]

_COUNT = "segments finished"  # a name that no array of a state has
_LOCK = "lock"
_IDENTITY = "identity.json"


class ResumeError(ValueError):
    """A film that cannot be continued; the message says what to do."""


class ResumableVideo:
    """The growing film; use it in a `with` block, which leaves all that is finished on the disk.

        with ResumableVideo("film.mp4", fps=8, height=64, width=64, identity={...}) as film:
            begin, state = film.resume()
            for segment in segments[begin:]:
                frames, state = make(segment, state)
                film.append(segment.index, frames, state)
            film.finish()

    Attributes:
      output: the file that will appear.
      folder: where it grows.
      frames: how many it has.
    """

    def __init__(
        self,
        output: str | os.PathLike,
        *,
        fps: float | int,
        height: int,
        width: int,
        identity: Mapping[str, Any],
        restart: bool = False,
    ) -> None:
        """Finds what there is of the film, or makes the folder.

        Args:
          output: the suffix is the format, one that `VideoStream` can write.
          fps: frames per second.
          height: of the frames, in pixels.
          width: likewise.
          identity: what the film depends on, as plain data that JSON can hold: the story's
            `identity()`, the model's fingerprint, the seed, the settings.
          restart: remove what there is and begin anew.

        Raises:
          ResumeError: an unfinished film of another identity, or one that another process makes.
          ValueError: the suffix of `output`, or a rate that this format cannot play.
          OSError: the folder cannot be made or written.
        """
        video_stream.check_streamable(output)
        video_stream.check_rate(output, fps)
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.partial")
        self.frames = 0
        self._ends: list[int] = []  # of each segment, in frames
        self._size, self._fps = (height, width), fps
        size = {"fps": float(fps), "height": height, "width": width}
        self._identity = json.loads(json.dumps({**identity, "film": size}))
        self._next: int | None = None  # known once `resume` was called
        self._stream: VideoStream | None = None
        with video_stream.errors_naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder)
        try:
            self._begin(restart)
        except BaseException:
            self._unlock()
            raise

    def resume(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """(number of the next segment, state after the one before it; None at the beginning).

        Call it once, before the first `append`; it encodes what is finished.

        Raises:
          ResumeError: the folder is damaged.
        """
        path = self.folder / "state.npz"
        if self._next is not None:
            raise ValueError("`resume` is called once, before the first segment.")
        self._stream = VideoStream(self.output, self._fps, *self._size, growing=self.growing)
        state, count = None, 0
        if path.exists():
            state = self._read(_load_arrays, path)
            count = int(state.pop(_COUNT))
        for index in range(count):
            self._show(
                self._read(functools.partial(np.load, allow_pickle=False), self._chunk(index))
            )
        self._next = count
        return count, state

    def append(
        self,
        index: int,
        frames: UInt8[np.ndarray, "t h w 3"] | Float[np.ndarray, "t h w 3"],
        state: State | None = None,
    ) -> None:
        """Adds the new frames of a segment; on return they are safe.

        Args:
          index: number of the segment; they come in order.
          frames: uint8, or float in [-1, 1].
          state: exact arrays that `resume` gives back: the last frames, keys of random numbers,
            ... Of numpy's own kinds of numbers.

        Raises:
          OSError: the disk is full, ...; the film can be continued later.
        """
        if self._next is None:
            raise ValueError("ask `resume` where the film is before appending to it.")
        if index != self._next:
            raise ValueError(f"segment {index} came; the film needs segment {self._next} next.")
        pixels = frames if frames.dtype == np.uint8 else transforms.to_uint8(frames)
        arrays = {name: np.asarray(value) for name, value in (state or {}).items()}
        odd = [name for name, value in arrays.items() if value.dtype.kind not in "biufc"]
        if odd:
            raise ValueError(f"the state of a film holds numbers numpy knows; {odd[0]} is not.")
        arrays[_COUNT] = np.asarray(index + 1)
        _replace(self._chunk(index), lambda file: np.save(file, pixels, allow_pickle=False))
        _replace(self.folder / "state.npz", lambda file: _save_arrays(file, arrays))
        self._next += 1
        self._show(pixels)

    def finish(self) -> Path:
        """Ends the film and moves it to its place, which is returned; the folder is removed.

        Raises:
          ValueError: no segment was appended.
          OSError: it cannot be written there.
        """
        if self._stream is None or not self._next:
            raise ValueError(f"{self.output} has no frame yet; append a segment first.")
        path, self._stream = self._stream.close(), None
        self.discard()
        return path

    def discard(self) -> None:
        """Removes the film so far with its folder."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()
        self._clear()
        self._unlock()
        with contextlib.suppress(OSError):
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()  # where somebody has put a file there, it stays

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Frames number `start` to `stop`, of those that are there, from the disk.

        Raises:
          ResumeError: the folder is damaged.
        """
        load = functools.partial(np.load, mmap_mode="r", allow_pickle=False)
        parts = [np.zeros((0, *self._size, 3), np.uint8)]
        index = bisect.bisect_right(self._ends, start)
        while start < min(stop, self.frames):
            begin = self._ends[index - 1] if index else 0
            parts.append(self._read(load, self._chunk(index))[start - begin : stop - begin])
            start, index = self._ends[index], index + 1
        return np.concatenate(parts)

    def close(self) -> None:
        """Leaves the film as it is, to be looked at and continued."""
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                stream.end()
        finally:
            self._unlock()

    def __enter__(self) -> ResumableVideo:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def growing(self) -> Path:
        """The film so far, for people to look at."""
        return self.folder / self.output.name

    def _begin(self, restart: bool) -> None:
        path = self.folder / _IDENTITY
        if restart:
            self._clear()
        if not path.exists():
            others = {p.name for p in self.folder.iterdir()} - {_LOCK, f"{_IDENTITY}.tmp"}
            if others:
                raise ResumeError(
                    f"{self.folder} is no unfinished film, though it has its name: "
                    f"{min(others)} is in it. Move it away, or name another --output."
                )
            text = json.dumps(self._identity, indent=1, ensure_ascii=False)
            _replace(path, lambda file: file.write(text.encode()))
            return
        old = self._read(lambda path: json.loads(path.read_text(encoding="utf-8")), path)
        told = differences(old, self._identity)
        if told:
            raise ResumeError(
                f"{self.folder} holds an unfinished film of another kind: {told}. Begin this one "
                f"anew with --restart, which removes that, or name another --output."
            )

    def _read(self, load: Callable[[Path], Any], path: Path) -> Any:
        try:
            return load(path)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so the film cannot be continued: begin it anew "
                f"with --restart."
            ) from error

    def _chunk(self, index: int) -> Path:
        return self.folder / f"{index:06}.npy"

    def _show(self, frames: np.ndarray) -> None:
        assert self._stream is not None
        self._stream.append(frames)
        self.frames += len(frames)
        self._ends.append(self.frames)

    def _clear(self) -> None:
        """Removes what films leave in the folder, and nothing else.

        In an order in which a folder that is half cleared is a film that has not begun.
        """
        ours = re.compile(r"state\.npz|\d{6,}\.npy|identity\.json|.*\.tmp")
        found = {p.name for p in self.folder.iterdir()}
        if _IDENTITY not in found:
            return  # some other folder
        first = [name for name in found if ours.fullmatch(name) or self._is_growing(name)]
        for name in sorted(first, key=lambda name: (name == _IDENTITY, name != "state.npz")):
            video_stream.remove(self.folder / name)

    def _is_growing(self, name: str) -> bool:
        return name.removesuffix(".whole") == self.output.name

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def _locked(folder: Path) -> BinaryIO | None:
    """A file that no other process can open so until this one closes it or dies."""
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
            f"another process is making this film in {folder}: wait for it, or name another "
            f"--output."
        ) from error
    return file


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """All of a new file on the disk, or the old one as it was."""
    part = path.with_name(f"{path.name}.tmp")
    with video_stream.errors_naming(path):
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def _save_arrays(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """An npz; unlike with `np.savez`, an array may have any name."""
    with zipfile.ZipFile(file, "w") as target:
        for name, array in arrays.items():
            with target.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in (*arrays.files, _COUNT)}


def differences(old: Any, new: Any, path: str = "", limit: int = 3) -> str:
    """In words what differs, at most `limit` things; "" where nothing does."""
    found = list(_differing(old, new, path))
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _differing(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {str(key): (old.get(key), new.get(key)) for key in {**old, **new}}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = {str(i + 1): pair for i, pair in enumerate(zip(old, new, strict=True))}
    elif old == new:
        return []
    else:
        return [f"{path.strip()} is {_brief(old)} there and {_brief(new)} here"]
    return [text for key, (a, b) in pairs.items() for text in _differing(a, b, f"{path} {key}")]


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} items"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
