"""StoryBench (Bugliarello et al. 2023): a film for each story of a task file, as its metrics want.

    OUTPUT/made/raw/NAME.npz          `video` uint8 (t, h, samples * w, 3): samples side by side
    OUTPUT/ground_truth/raw/NAME.npz  the true film, where the videos of the task file are here

NAME is the `comment` of the story. The two folders are `data/MODEL/TASK/DATASET` and
`data/ground_truth/TASK/DATASET` of StoryBench's own scripts, which compute their metrics from
there. Frames that a film goes on from are in neither. A film that is there is not made again.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from vidgen import paths
from vidgen.data.footage import FootageError, open_footage
from vidgen.data.transforms import to_uint8
from vidgen.runs import story_bench
from vidgen.runs.tell import Tell

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoryBenchmark:
    """All films of a task file.

    Attributes:
      tell: how a story is told; its own story and output are replaced.
      tasks: the task file.
      output: folder of the films.
      samples: films of each story, with seeds that follow each other.
      limit: the first so many stories; None is all.
    """

    tell: Tell
    tasks: Path
    output: Path
    samples: int = 1
    limit: int | None = None

    def __call__(self) -> tuple[Path, Path | None]:
        """Makes the films; the folder of these, and of the true ones where all are here."""
        made, truth = (self.output / name / "raw" for name in ("made", "ground_truth"))
        stories, complete = list(self._stories()), True
        for name, entry, story in tqdm(stories, desc="stories", unit="film", disable=None):
            path = made / f"{name}.npz"
            if not path.exists():
                films = [self._film(name, story, sample) for sample in range(self.samples)]
                paths.write(path, _npz(np.concatenate(films, axis=2)))
            with np.load(path) as film:
                frames = len(film["video"])
            complete = self._true_film(entry, frames, truth / f"{name}.npz") and complete
        if not complete:
            log.info("some true films are not here; StoryBench's own metrics need them, too")
        log.info("%d films in %s", len(stories), made)
        return made, truth if complete else None

    def _stories(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        """(name, entry, story) of each."""
        text = self.tasks.read_text(encoding="utf-8")
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise ValueError(f"{self.tasks} holds no list; give a task file of StoryBench.")
        for number, entry in enumerate(entries[: self.limit]):
            story = story_bench.parse(json.dumps([entry]), source=f"{self.tasks}#{number}")
            name = re.sub(r"[^\w.-]+", "_", str(entry.get("comment") or f"story_{number:05}"))
            yield name, entry, story

    def _film(self, name: str, story: Any, sample: int) -> UInt8[np.ndarray, "t h w 3"]:
        """One film, made or gone on with."""
        path = self.output / "films" / f"{name}.{sample}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = self.tell.seed + sample
            film = dataclasses.replace(self.tell, story=story, output=str(path), seed=seed)
            film()
        video = np.load(path)
        return video if video.dtype == np.uint8 else to_uint8(video)

    def _true_film(self, entry: Mapping[str, Any], frames: int, path: Path) -> bool:
        """Writes the true film, at most as long; whether it is here."""
        shape, source = self.tell.model.shape, entry.get("npz_video")
        if path.exists():
            return True
        if not source or not Path(source).expanduser().is_file():
            return False
        start = int(entry.get("npz_gt_video_start_frame") or 0)
        start += int(entry.get("skip_frames_after_generation") or 0)
        try:
            footage = open_footage(source).at_rate(shape.fps)
            here = footage.frames_at(shape.fps, start / shape.fps)
            wanted = dataclasses.replace(shape, frames=max(1, min(frames, here)))
            video = footage.read(wanted, start / shape.fps)
        except FootageError as error:
            raise ValueError(f"{self.tasks}: {error}") from error
        paths.write(path, _npz(to_uint8(video)))
        return True


def _npz(video: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """An npz file with one array."""
    data = io.BytesIO()
    np.savez_compressed(data, video=video)
    return data.getvalue()
