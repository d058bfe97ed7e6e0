"""StoryBench (Bugliarello et al. 2023): a film for each story of a task file, as its metrics want.

    OUTPUT/made/raw/NAME.npz          `video` uint8 (t, h, samples * w, 3): samples side by side
    OUTPUT/ground_truth/raw/NAME.npz  the true film, where the videos of the task file are here

NAME is the `comment` of the story. The two folders are `data/MODEL/TASK/DATASET` and
`data/ground_truth/TASK/DATASET` of StoryBench's own scripts, which compute their metrics from
there. Frames that a film goes on from are in neither. OUTPUT/films holds each film, and what it was
made of: one that is there is not made again, and is refused where it was made of something else.
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
from vidgen.data.video.footage import FootageError
from vidgen.data.video.transforms import to_uint8
from vidgen.story import first_frames, storybench_task_files
from vidgen.story.resumable_video import differences
from vidgen.story.generate_story import GenerateStory
from vidgen.types import Params

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

    tell: GenerateStory
    tasks: Path
    output: Path
    samples: int = 1
    limit: int | None = None

    def __call__(self) -> tuple[Path, Path | None]:
        """Makes the films; the folder of these, and of the true ones where all are here.

        Raises:
          StoryError: an entry of the task file is wrong.
          ValueError: a film that is there was made of something else.
        """
        made, truth = (self.output / name / "raw" for name in ("made", "ground_truth"))
        stories, complete, params = list(self._stories()), True, self.tell.load()
        made_by = self.tell.stage.identity(params)
        for name, entry, story in tqdm(stories, desc="stories", unit="film", disable=None):
            tells = [self._tell(name, story, sample) for sample in range(self.samples)]
            films = [_film(tell, tell.identity(made_by), params) for tell in tells]
            video = np.concatenate(films, axis=2)
            _write(made / f"{name}.npz", video)
            complete = self._true_film(name, entry, len(video), truth) and complete
        if not complete:
            log.info("some true films are not here; StoryBench's own metrics need them, too")
        log.info("%d films in %s", len(stories), made)
        return made, truth if complete else None

    def _stories(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        """(name, entry, story) of each."""
        text = self.tasks.read_text(encoding="utf-8")
        entries, names = json.loads(text), set()
        if not isinstance(entries, list):
            raise ValueError(f"{self.tasks} holds no list; give a task file of StoryBench.")
        for number, entry in enumerate(entries[: self.limit]):
            source = f"{self.tasks}#{number}"
            story = storybench_task_files.parse(json.dumps([entry]), source=source)
            storybench_task_files.true_frames(
                entry, source
            )  # what is wrong is told before a film is made
            name = re.sub(r"[^\w.-]+", "_", str(entry.get("comment") or f"story_{number:05}"))
            name = f"{name}.{number:05}" if name in names else name
            names.add(name)
            yield name, entry, story

    def _tell(self, name: str, story: Any, sample: int) -> GenerateStory:
        """What makes one film."""
        output = str(self.output / "films" / f"{name}.{sample}.npy")
        seed = (self.tell.seed or 0) + sample
        return dataclasses.replace(self.tell, story=story, output=output, seed=seed)

    def _true_film(self, name: str, entry: Mapping[str, Any], frames: int, folder: Path) -> bool:
        """Writes the true film, at most as long; whether it is here."""
        path, source = folder / f"{name}.npz", entry.get("npz_video")
        if not source or not Path(source).expanduser().is_file():
            return path.exists()
        start, end = storybench_task_files.true_frames(entry, name)
        shape = dataclasses.replace(self.tell.model.shape, frames=frames)
        try:
            video = first_frames.true_film(
                source, start, end, storybench_task_files.TASK_FPS, shape
            )
        except FootageError as error:
            raise ValueError(f"{self.tasks}: {name}: {error}") from error
        _write(path, to_uint8(video))
        return True


def _film(
    tell: GenerateStory, identity: Mapping[str, Any], params: Params
) -> UInt8[np.ndarray, "t h w 3"]:
    """One film: made, or gone on with, or the one that is there if it is made of the same."""
    path = Path(tell.output)
    record, own = path.with_suffix(".json"), json.dumps(identity, indent=1, ensure_ascii=False)
    if path.exists():
        there = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if told := differences(there, json.loads(own)):
            raise ValueError(
                f"{path} is a film of another kind: {told}. Remove it, or name another --output."
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tell.film(identity) as film:
            tell.fill(film, params)
            paths.write(record, own.encode())  # a film never is there without it
            film.finish()
    video = np.load(path)
    return video if video.dtype == np.uint8 else to_uint8(video)


def _write(path: Path, video: UInt8[np.ndarray, "t h w 3"]) -> None:
    """An npz file with one array, unless it is there already."""
    data = _npz(video)
    if not path.exists() or path.read_bytes() != data:
        paths.write(path, data)


def _npz(video: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """An npz file with one array."""
    data = io.BytesIO()
    np.savez_compressed(data, video=video)
    return data.getvalue()
