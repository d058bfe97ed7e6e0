"""Videos of all stories of a StoryBench task file (Bugliarello et al. 2023), for its own metrics.

    OUTPUT/made/raw/NAME.npz          `video` uint8 (t, h, samples * w, 3): samples side by side
    OUTPUT/ground_truth/raw/NAME.npz  the true video, where the videos of the task file are here

NAME is the `comment` of the story. The two folders are `data/MODEL/TASK/DATASET` and
`data/ground_truth/TASK/DATASET` of StoryBench's own scripts, which compute their metrics from
there. The frames that a story continues are in neither. OUTPUT/films holds each video and its
identity: one that is there is not made again, and is refused where it was made of something else.
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

from vidgen import paths
from vidgen.data.video.footage import FootageError
from vidgen.data.video.transforms import to_uint8
from vidgen.progress import progress_bar
from vidgen.story import storybench_task_files
from vidgen.story.first_frames import read_true_video
from vidgen.story.generate_story import GenerateStory
from vidgen.story.resumable_video import differences
from vidgen.story.script import Story
from vidgen.types import Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoryBenchmark:
    """Makes the videos of a task file; the run mode of `vidgen evaluate --protocol=storybench`.

    Attributes:
      generate: how a story is made; its own story and output are replaced.
      tasks: the task file.
      output: folder to write.
      samples: number of videos of each story, with seeds that follow each other.
      limit: number of stories, the first ones; None is all.
    """

    generate: GenerateStory
    tasks: Path
    output: Path
    samples: int = 1
    limit: int | None = None

    def __call__(self) -> tuple[Path, Path | None]:
        """Make the videos.

        Returns:
          The folder of the videos, and that of the true ones where all of them are here.

        Raises:
          StoryError: an entry of the task file is wrong.
          ValueError: a video that is there was made of something else.
        """
        generated, truth = (self.output / name / "raw" for name in ("made", "ground_truth"))
        stories, complete, params = list(self._stories()), True, self.generate.load()
        stage = self.generate.stage.identity(params)
        with progress_bar(len(stories), desc="stories", unit="video") as bar:
            for name, entry, story in stories:
                runs = [self._run(name, story, sample) for sample in range(self.samples)]
                videos = [_load_or_make(run, run.identity(stage), params) for run in runs]
                video = np.concatenate(videos, axis=2)
                _write(generated / f"{name}.npz", video)
                complete = self._write_truth(name, entry, len(video), truth) and complete
                bar.update()
        if not complete:
            log.info("some true videos are not here; StoryBench's own metrics need them, too")
        log.info("%d videos in %s", len(stories), generated)
        return generated, truth if complete else None

    def _stories(self) -> Iterator[tuple[str, Mapping[str, Any], Story]]:
        """Yield (name, entry, story) of each entry; whatever is wrong with one is an error here."""
        entries, names = json.loads(self.tasks.read_text(encoding="utf-8")), set()
        if not isinstance(entries, list):
            raise ValueError(f"{self.tasks} holds no list; give a task file of StoryBench.")
        for number, entry in enumerate(entries[: self.limit]):
            source = f"{self.tasks}#{number}"
            story = storybench_task_files.parse(json.dumps([entry]), source=source)
            storybench_task_files.true_frames(entry, source)
            name = re.sub(r"[^\w.-]+", "_", str(entry.get("comment") or f"story_{number:05}"))
            name = f"{name}.{number:05}" if name in names else name
            names.add(name)
            yield name, entry, story

    def _run(self, name: str, story: Story, sample: int) -> GenerateStory:
        output = str(self.output / "films" / f"{name}.{sample}.npy")
        seed = (self.generate.seed or 0) + sample
        return dataclasses.replace(self.generate, story=story, output=output, seed=seed)

    def _write_truth(self, name: str, entry: Mapping[str, Any], frames: int, folder: Path) -> bool:
        """Write the true video, of at most so many frames; return whether it is here."""
        path, source = folder / f"{name}.npz", entry.get("npz_video")
        if not source or not Path(source).expanduser().is_file():
            return path.exists()
        start, end = storybench_task_files.true_frames(entry, name)
        shape = dataclasses.replace(self.generate.model.shape, frames=frames)
        try:
            video = read_true_video(source, start, end, storybench_task_files.TASK_FPS, shape)
        except FootageError as error:
            raise ValueError(f"{self.tasks}: {name}: {error}") from error
        _write(path, to_uint8(video))
        return True


def _load_or_make(
    run: GenerateStory, identity: Mapping[str, Any], params: Params
) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the video of one story: the one that is there with this identity, or a new one."""
    path = Path(run.output)
    record, text = path.with_suffix(".json"), json.dumps(identity, indent=1, ensure_ascii=False)
    if path.exists():
        there = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if changes := differences(there, json.loads(text)):
            raise ValueError(
                f"{path} was made of something else: {changes}. Remove it, or name another "
                "--output."
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with run.open(identity) as video:
            run.fill(video, params)
            paths.write(record, text.encode())  # a video never is there without its identity
            video.finish()
    frames = np.load(path)
    return frames if frames.dtype == np.uint8 else to_uint8(frames)


def _write(path: Path, video: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Write an npz file with one array, unless it is there already."""
    data = io.BytesIO()
    np.savez_compressed(data, video=video)
    if not path.exists() or path.read_bytes() != data.getvalue():
        paths.write(path, data.getvalue())
