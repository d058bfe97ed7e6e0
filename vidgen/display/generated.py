"""What the Python face returns: clips and films that play in a notebook, save themselves, iterate.

for clip in clips:          a `Clip` for each prompt and sample
    clip.save("a.mp4")
    for frame in clip: ...  "h w c", in about [-1, 1]
    numpy.asarray(clip)     "t h w c"
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vidgen.data.video import encode as video_writer
from vidgen.display import clips as inline
from vidgen.display.sheets import SceneRow


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One video.

    Attributes:
      video: its frames, in about [-1, 1].
      fps: frames per second.
      prompt: what it was to show; "" is video without text.
    """

    video: Float[np.ndarray, "t h w c"]
    fps: float
    prompt: str = ""

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.video)

    def __iter__(self) -> Iterator[Float[np.ndarray, "h w c"]]:
        return iter(self.video)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.video, dtype, copy=copy)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the clip to a file, as `vidgen generate -o` would.

        Args:
          path: the suffix is the format (.mp4, .npy, ...).

        Returns:
          The path.

        Raises:
          ValueError: there is no such format, or it cannot play at this rate.
          OSError: the file cannot be written.
        """
        video_writer.write_video(path, self.video, self.fps)
        return Path(path)

    def __repr__(self) -> str:
        frames, height, width = self.video.shape[:3]
        size = f"{frames} frames of {height}x{width} at {self.fps:g} fps"
        return f"{type(self).__name__}({self.prompt!r}, {size})"

    def _repr_html_(self) -> str:
        captions = [self.prompt] if self.prompt else []
        return inline.video(self.video, self.fps, captions=captions).text


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Film(Clip):
    """A story as a video.

    Attributes:
      scenes: prompts, and the frames that were made for each.
    """

    scenes: tuple[SceneRow, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Clips of some prompts, as every stage of the model made them.

    Attributes:
      prompts: one a clip.
      stages: videos by the stage that made them, in about [-1, 1].
      rates: frames per second, by stage.
    """

    prompts: tuple[str, ...]
    stages: Mapping[str, Float[np.ndarray, "b _t _h _w c"]]
    rates: Mapping[str, float]

    @property
    def video(self) -> Float[np.ndarray, "b t h w c"]:
        """The clips of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def fps(self) -> float:
        """Frames per second of the last stage."""
        return list(self.rates.values())[-1]

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.prompts)

    def __getitem__(self, number: int) -> Clip:
        return Clip(video=self.video[number], fps=self.fps, prompt=self.prompts[number])

    def __iter__(self) -> Iterator[Clip]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.video, dtype, copy=copy)

    def each_stage(self, number: int = 0) -> dict[str, Float[np.ndarray, "t h w c"]]:
        """Take one clip as every stage made it.

        Args:
          number: number of the clip, from 0.

        Returns:
          Its video by the name of the stage, in about [-1, 1].
        """
        return {name: videos[number] for name, videos in self.stages.items()}

    def save(self, path: str | os.PathLike, stage: str | None = None) -> Path:
        """Write the clips of a stage in one file, several side by side.

        Args:
          path: the suffix is the format (.mp4, .npy, ...).
          stage: name of the stage; None is the last.

        Returns:
          The path.

        Raises:
          ValueError: there is no such stage, or no such format.
          OSError: the file cannot be written.
        """
        name = list(self.stages)[-1] if stage is None else stage
        if name not in self.stages:
            raise ValueError(f"there is no stage {name!r}; choose from {', '.join(self.stages)}.")
        videos = self.stages[name]
        video_writer.write_video(path, videos if len(videos) > 1 else videos[0], self.rates[name])
        return Path(path)

    def __repr__(self) -> str:
        frames, height, width = self.video.shape[1:4]
        size = f"{frames} frames of {height}x{width} at {self.fps:g} fps"
        return f"Clips({list(self.prompts)}, {size}, stages: {', '.join(self.stages)})"

    def _repr_html_(self) -> str:
        return inline.video(self.video, self.fps, captions=self.prompts).text
