"""Sets of clips in files: a folder of videos, or an array in one file.

    folder    mp4, webm, gif, png, npy, npz, ...   one clip a file, in the order of their names
    array     .npy "n t h w c", or an .npz with one such array

Wrong input is told before anything is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidgen import paths
from vidgen.data.content_hash import content_hash
from vidgen.data.sources.captions import folder_captions, warn_once
from vidgen.data.video import transforms
from vidgen.data.video.files import PILLOW_SUFFIXES, VIDEO_SUFFIXES
from vidgen.data.video.footage import (
    ARRAY_SUFFIXES,
    SLACK,
    STILL_SUFFIXES,
    Footage,
    FootageError,
    open_footage,
)
from vidgen.evals.clips import ClipSet, digest
from vidgen.types import VideoShape

_SUFFIXES = {*VIDEO_SUFFIXES, *STILL_SUFFIXES, *PILLOW_SUFFIXES, *ARRAY_SUFFIXES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """What is taken of each file.

    Attributes:
      frames: the first so many; None is all.
      stride: every so many-th frame.
      fps: frames a second before `stride`; None is the file's own. Arrays have no rate.
      size: height and width: cropped around the center to that aspect, and resized with
        anti-aliasing; None leaves frames as they are.
    """

    frames: int | None = None
    stride: int = 1
    fps: float | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be more than 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderClips:
    """The videos in a folder and its sub-folders.

    Attributes:
      path: the folder.
      window: what is taken of each.
      limit: the first so many files; None is all.
    """

    path: str
    window: Window = Window()
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.files:
            kinds = ", ".join(sorted(_SUFFIXES))
            raise ValueError(f"{self.path}: there is no video in this folder ({kinds}).")
        for file, shape in zip(self.files, self._shapes, strict=True):
            _check_same(file, shape, self.files[0], self.shape)
        _ = self._captions

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """In the order of their names."""
        root = Path(self.path).expanduser()
        found = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        return tuple(found[: self.limit])

    @property
    def name(self) -> str:
        """For people."""
        return self.path

    @property
    def shape(self) -> VideoShape:
        """Of every clip."""
        return self._shapes[0]

    @functools.cached_property
    def _shapes(self) -> tuple[VideoShape, ...]:
        return tuple(_shape_of(file, self.window) for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """The files without folder and suffix."""
        root = Path(self.path).expanduser()
        return tuple(str(file.relative_to(root).with_suffix("")) for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Of the names and the content of the files, their captions, and what is taken of them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        rows = [
            (name, content_hash(file)) for name, file in zip(self.names, self.files, strict=True)
        ]
        return digest(rows, self.window, self._captions)

    @functools.cached_property
    def _captions(self) -> tuple[str, ...]:
        """The first caption of each, "" where there is none (data/sources/captions.py)."""
        root = Path(self.path).expanduser()
        wanted = [file.relative_to(root).as_posix() for file in self.files]
        found = folder_captions(str(root), sorted(paths.files_under(root)), wanted)
        if found.unreadable:
            file, why = next(iter(found.unreadable.items()))
            raise ValueError(f"{root / file}: {why}; mend its caption, or leave this clip out.")
        for notice in found.notices:
            warn_once(notice)
        return tuple(found.captions.get(file, ("",))[0] for file in wanted)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """A clip, and the first of its captions."""
        file = self.files[number]
        try:
            return _opened(file, self.window).read(self._shapes[number]), self._captions[number]
        except FootageError as error:
            raise ValueError(str(error)) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayClips:
    """The clips of one .npy or .npz file: uint8, or float in [-1, 1].

    Attributes:
      path: the file.
      window: what is taken of each; its fps does not matter.
      limit: the first so many; None is all.
    """

    path: str
    window: Window = Window()
    limit: int | None = None
    names: None = None

    def __post_init__(self) -> None:
        _frames_of(self.path, self._array.shape[1], self.window)

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return _read_array(Path(self.path).expanduser())[: self.limit]

    @property
    def name(self) -> str:
        """For people."""
        return self.path

    @property
    def shape(self) -> VideoShape:
        """Of every clip."""
        _, t, h, w, c = self._array.shape
        frames = _frames_of(self.path, t, self.window)
        height, width = self.window.size or (h, w)
        return VideoShape(frames=frames, height=height, width=width, channels=c)

    @property
    def fingerprint(self) -> str:
        """Of the file's content, and of what is taken of it."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(content_hash(self.path), self.window, self.limit)

    def __len__(self) -> int:
        return len(self._array)

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """A clip, without a caption."""
        clip = self._array[number][:: self.window.stride][: self.shape.frames]
        if clip.dtype == np.uint8:
            clip = transforms.to_float(clip)
        clip = clip.astype(np.float32)
        _check_numbers(f"{self.path}: clip {number}", clip)
        if clip.shape[1:3] != (self.shape.height, self.shape.width):
            size = (self.shape.height, self.shape.width)
            small = [transforms.fit(frame, *size) for frame in transforms.to_uint8(clip)]
            clip = transforms.to_float(np.stack(small))
        return clip, ""


def opened(path: str, window: Window = Window(), limit: int | None = None) -> ClipSet:
    """The clips of a folder or of an array file.

    Raises:
      ValueError: they cannot be compared: there is none, they have several sizes, ...
      FileNotFoundError: nothing is called so.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return FolderClips(path=path, window=window, limit=limit)
    if not place.exists():
        raise FileNotFoundError(f"there is no folder and no file {path}.")
    if place.suffix.lower() not in ARRAY_SUFFIXES:
        raise ValueError(f"{path} is one file; give a folder of videos, or an .npz or .npy array.")
    return ArrayClips(path=path, window=window, limit=limit)


def _opened(file: Path, window: Window) -> Footage:
    rate = window.fps or 1.0  # of an array, whose frames are taken one by one
    return open_footage(file).at_rate(rate)


def _shape_of(file: Path, window: Window) -> VideoShape:
    """The clip that is taken of a file, at the rate at which that takes the right frames."""
    try:
        footage = _opened(file, window)
    except FootageError as error:
        raise ValueError(str(error)) from error
    rate = window.fps or footage.fps
    here = 1 if footage.is_still else math.floor(footage.seconds * rate + 0.5 + SLACK)
    frames = _frames_of(str(file), here, window)
    height, width = window.size or (footage.height, footage.width)
    return VideoShape(frames=frames, height=height, width=width, fps=rate / window.stride)


def _frames_of(what: str, here: int, window: Window) -> int:
    """Frames that are taken of `here` many."""
    after = -(-here // window.stride)
    if window.frames is None:
        return after
    if window.frames > after:
        stride = f" with a stride of {window.stride}" if window.stride > 1 else ""
        raise ValueError(
            f"{what}: {here} frames are too few for {window.frames}{stride}; lower --frames, or "
            "leave this clip out."
        )
    return window.frames


def _check_same(file: Path, shape: VideoShape, first: Path, wanted: VideoShape) -> None:
    if shape.thwc != wanted.thwc:
        raise ValueError(
            f"{file}: {shape}, but {first.name} is {wanted} (frames x height x width); give "
            "--size=HEIGHTxWIDTH and --frames=N to make them one."
        )


def _check_numbers(what: str, clip: np.ndarray) -> None:
    if not np.isfinite(clip).all():
        raise ValueError(f"{what} holds pixels that are no numbers (NaN or infinite).")
    if np.abs(clip).max() > 1 + 1e-3:
        raise ValueError(
            f"{what} reaches {float(np.abs(clip).max()):.4g}; give uint8, or float in [-1, 1]."
        )


def _read_array(path: Path) -> np.ndarray:
    """Clips "n t h w c" of a file; an .npy is not read into memory as a whole."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no numpy file that can be read.") from error
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            arrays = dict(loaded)
        videos = [array for array in arrays.values() if array.ndim >= 4]
        if len(videos) != 1:
            held = ", ".join(arrays) or "nothing"
            raise ValueError(f"{path} holds {held}; it must hold one array (n, t, h, w, 3).")
        (loaded,) = videos
    if loaded.ndim != 5 or loaded.shape[-1] != 3 or not loaded.size:
        raise ValueError(f"{path}: its shape is {loaded.shape}; clips are (n, t, h, w, 3).")
    if loaded.dtype != np.uint8 and not np.issubdtype(loaded.dtype, np.floating):
        raise ValueError(f"{path} holds {loaded.dtype}; clips are uint8, or float in [-1, 1].")
    return loaded
