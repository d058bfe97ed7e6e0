"""Sets of clips in files: a folder of videos, or an array in one file.

    folder    mp4, webm, gif, png, npy, npz, ...   one clip a file, in the order of their names
    array     .npy "n t h w c", or an .npz with one such array: uint8, or float in [-1, 1]

Wrong input is an error before anything is computed.
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
    open_footage,
)
from vidgen.evals.clips import ClipSet, digest
from vidgen.types import VideoShape

_SUFFIXES = {*VIDEO_SUFFIXES, *STILL_SUFFIXES, *PILLOW_SUFFIXES, *ARRAY_SUFFIXES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Which frames are taken of each file.

    Attributes:
      frames: the number of first frames; None: all.
      stride: every so many-th frame.
      fps: frames per second before `stride`; None: the file's own. Arrays have no rate.
      size: height and width, to which frames are cropped around the center and resized with
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

    def frames_of(self, what: str, count: int) -> int:
        """Return how many frames are taken of a clip.

        Args:
          what: names the clip, for the message.
          count: frames that it has, before the stride.

        Returns:
          Frames after the stride.

        Raises:
          ValueError: they are too few.
        """
        after = -(-count // self.stride)
        if self.frames is None or self.frames <= after:
            return self.frames or after
        stride = f" with a stride of {self.stride}" if self.stride > 1 else ""
        raise ValueError(
            f"{what}: {count} frames are too few for {self.frames}{stride}; lower --frames, or "
            "leave this clip out."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderClips:
    """The videos in a folder and its sub-folders.

    Attributes:
      name: the folder.
      window: which frames are taken of each file.
      files: the files, in the order of their names.
      shapes: the size of each clip; all have the same frames, height and width.
      captions: the first caption of each file, "" where there is none.
    """

    name: str
    window: Window
    files: tuple[Path, ...]
    shapes: tuple[VideoShape, ...]
    captions: tuple[str, ...]

    @property
    def shape(self) -> VideoShape:
        """The size of every clip."""
        return self.shapes[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The files without folder and suffix."""
        root = Path(self.name).expanduser()
        return tuple(str(file.relative_to(root).with_suffix("")) for file in self.files)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' names and content, their captions, and the window."""
        content = [(n, content_hash(f)) for n, f in zip(self.names, self.files, strict=True)]
        return digest(content, self.window, self.captions)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Read the video of a file, and its first caption; see `ClipSet.read`.

        Raises:
          ValueError: the file is damaged.
        """
        footage = _open(self.files[number], self.window)
        return footage.read(self.shapes[number]), self.captions[number]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayClips:
    """The clips of one .npy or .npz file.

    Attributes:
      name: the file.
      window: which frames are taken of each clip.
      array: the clips, "n t h w c".
      shape: the size of every clip that is taken.
    """

    name: str
    window: Window
    array: np.ndarray = dataclasses.field(repr=False)
    shape: VideoShape
    names: None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the file's content, the window, and the number of clips."""
        return digest(content_hash(self.name), self.window, len(self.array))

    def __len__(self) -> int:
        return len(self.array)

    def read(self, number: int) -> tuple[Float[np.ndarray, "t h w c"], str]:
        """Read a clip of the array, which has no caption; see `ClipSet.read`.

        Raises:
          ValueError: pixels are out of range, NaN or inf.
        """
        clip = self.array[number][:: self.window.stride][: self.shape.frames]
        clip = transforms.to_float(clip) if clip.dtype == np.uint8 else clip.astype(np.float32)
        largest = float(np.abs(clip).max())
        if not largest <= 1 + 1e-3:
            pixels = f"{self.name}: clip {number}"
            if not np.isfinite(clip).all():
                raise ValueError(f"{pixels} contains NaN or inf.")
            raise ValueError(f"{pixels} reaches {largest:.4g}; give uint8, or float in [-1, 1].")
        size = (self.shape.height, self.shape.width)
        if clip.shape[1:3] != size:
            frames = [transforms.fit(frame, *size) for frame in transforms.to_uint8(clip)]
            clip = transforms.to_float(np.stack(frames))
        return clip, ""


def open_clips(path: str, window: Window = Window(), limit: int | None = None) -> ClipSet:
    """Open the clips of a folder or of an array file.

    Args:
      path: the folder or the file.
      window: which frames are taken of each clip.
      limit: the number of first clips; None: all.

    Returns:
      The set; no frame is read yet.

    Raises:
      ValueError: the clips cannot be compared: there is none, they differ in size, ...
      FileNotFoundError: there is no such folder or file.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(path, window, limit)
    if not place.exists():
        raise FileNotFoundError(f"there is no folder and no file {path}.")
    if place.suffix.lower() not in ARRAY_SUFFIXES:
        raise ValueError(f"{path} is one file; give a folder of videos, or an .npz or .npy array.")
    array = _read_array(place)[:limit]
    _, t, h, w, c = array.shape
    height, width = window.size or (h, w)
    shape = VideoShape(frames=window.frames_of(path, t), height=height, width=width, channels=c)
    return ArrayClips(name=path, window=window, array=array, shape=shape)


def _open_folder(path: str, window: Window, limit: int | None) -> FolderClips:
    root = Path(path).expanduser()
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    files = files[:limit]
    if not files:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise ValueError(f"{path}: there is no video in this folder ({kinds}).")
    shapes = tuple(_shape_of(file, window) for file in files)
    for file, shape in zip(files, shapes, strict=True):
        if shape.thwc != shapes[0].thwc:
            raise ValueError(
                f"{file}: {shape}, but {files[0].name} is {shapes[0]} (frames x height x width); "
                "give --size=HEIGHTxWIDTH and --frames=N to make them one."
            )
    names = [file.relative_to(root).as_posix() for file in files]
    listed = folder_captions(str(root), sorted(paths.files_under(root)), names)
    for file, why in listed.unreadable.items():
        raise ValueError(f"{root / file}: {why}; mend its caption, or leave this clip out.")
    for notice in listed.notices:
        warn_once(notice)
    captions = tuple(listed.captions.get(name, ("",))[0] for name in names)
    return FolderClips(
        name=path, window=window, files=tuple(files), shapes=shapes, captions=captions
    )


def _open(file: Path, window: Window) -> Footage:
    return open_footage(file).at_rate(window.fps or 1.0)  # 1: of an array, whose rate is unknown


def _shape_of(file: Path, window: Window) -> VideoShape:
    """Return the clip that is taken of a file, at the rate at which that takes the right frames."""
    footage = _open(file, window)
    rate = window.fps or footage.fps
    count = 1 if footage.is_still else math.floor(footage.seconds * rate + 0.5 + SLACK)
    height, width = window.size or (footage.height, footage.width)
    frames = window.frames_of(str(file), count)
    return VideoShape(frames=frames, height=height, width=width, fps=rate / window.stride)


def _read_array(path: Path) -> np.ndarray:
    """Map the clips "n t h w c" of a file; an .npy is not read into memory as a whole."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no numpy file that can be read.") from error
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            arrays = dict(loaded)
        videos = [array for array in arrays.values() if array.ndim >= 4]
        if len(videos) != 1:
            names = ", ".join(arrays) or "nothing"
            raise ValueError(f"{path} holds {names}; it must hold one array (n, t, h, w, 3).")
        (loaded,) = videos
    if loaded.ndim != 5 or loaded.shape[-1] != 3 or not loaded.size:
        raise ValueError(f"{path}: its shape is {loaded.shape}; clips are (n, t, h, w, 3).")
    if loaded.dtype != np.uint8 and not np.issubdtype(loaded.dtype, np.floating):
        raise ValueError(f"{path} holds {loaded.dtype}; clips are uint8, or float in [-1, 1].")
    return loaded
