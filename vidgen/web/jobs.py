"""Generations one after the other: a queue, one worker, and how far the running one is.

    waiting -> running -> done | failed | stopped

Nothing of a generation stays when it ends, however it ends, but the file that it wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidgen.data.video import encode, stream, transforms
from vidgen.inference.preview import Look, StepPreview, StopGenerating
from vidgen.web.commands import OUTPUT, Command

WAITING = 8  # [guess] generations that may wait; each takes from seconds to many minutes
PICTURE_EVERY = 1.0  # [guess] seconds between two pictures, which then take little of the time
MAX_FRAMES, MAX_SIDE = 16, 192  # [guess] of a picture: some 100 kB

# Builds a run from the words of `vidgen generate`; the callback sees its sampling steps.
Build = Callable[[Sequence[str], Look], Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Step:
    """How far a generation is.

    Attributes:
      text: in words.
      share: of all steps that are done, in [0, 1].
    """

    text: str
    share: float


class Job:
    """A generation: what it runs, how far it is, and what came of it.

    Attributes:
      command: what it runs.
      state: waiting, running, done, failed or stopped.
      step: how far it is; None before the first step.
      picture: the current prediction, as an animated WebP; None before the first step and after the
        end.
      pictures: how many there were.
      error: the sentence that says why it failed; None unless it failed.
      video: the file that it wrote, which `Worker.remove` and `Worker.close` remove; None unless it
        is done.
      seconds: that it took; 0 before its end.
      began: when it began to run, or before that to wait, on the clock of `time.monotonic`.
    """

    def __init__(self, command: Command) -> None:
        """Start in the state "waiting".

        Args:
          command: what it will run.
        """
        self.command, self.state = command, "waiting"
        self.step: Step | None = None
        self.picture: bytes | None = None
        self.pictures = 0
        self.error: str | None = None
        self.video: Path | None = None
        self.seconds = 0.0
        self.began = time.monotonic()
        self._stop = threading.Event()
        self._next_picture = 0.0

    def stop(self) -> None:
        """Ask it to end after the sampling step that runs; see `Worker.stop` for one that waits."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or stopped."""
        return self.state in ("done", "failed", "stopped")

    def look(self, preview: StepPreview) -> None:
        """Note a sampling step, and draw the prediction if the last picture is old enough.

        Args:
          preview: the run after that step.

        Raises:
          StopGenerating: `stop` was called.
        """
        if self.is_stopping:
            raise StopGenerating
        self.step = step_of(preview)
        if time.monotonic() >= self._next_picture:
            self.picture = picture_of(preview)
            self.pictures += 1
            self._next_picture = time.monotonic() + PICTURE_EVERY


class Worker:
    """A thread that runs generations one after the other."""

    def __init__(self, build: Build, explain: Callable[[Exception], str]) -> None:
        """Start the thread, which waits for the first generation.

        Args:
          build: builds a run from the words of a command and from the callback that sees its
            sampling steps.
          explain: says in one sentence what went wrong.
        """
        self._build, self._explain = build, explain
        self._folder = Path(tempfile.mkdtemp(prefix="vidgen-web-"))
        self._jobs: list[Job] = []  # the one that runs, and those that wait
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="generations", daemon=True)
        self._thread.start()

    def submit(self, command: Command) -> Job:
        """Put a command at the end of the queue.

        Args:
          command: what to run.

        Returns:
          Its job, which waits or runs.

        Raises:
          ValueError: too many are waiting.
        """
        job = Job(command)
        with self._change:
            if len(self._jobs) > WAITING:
                raise ValueError(f"{WAITING} generations are waiting already: try again later.")
            self._jobs.append(job)
            self._change.notify_all()
        return job

    def ahead(self, job: Job) -> int:
        """Count the jobs that end before a job can begin.

        Args:
          job: of this worker.

        Returns:
          Jobs that run or wait before it; 0 for one that runs or has ended.
        """
        with self._change:
            return self._jobs.index(job) if job in self._jobs else 0

    def stop(self, job: Job) -> None:
        """Stop a job: at once if it waits, after the sampling step if it runs.

        Args:
          job: of this worker; nothing happens to one that has ended.
        """
        job.stop()
        with self._change:
            if job.state == "waiting" and job in self._jobs:
                self._jobs.remove(job)
                job.state = "stopped"

    def remove(self, job: Job) -> None:
        """Stop a job if it has not ended, and delete the video that it wrote.

        Args:
          job: of this worker.
        """
        self.stop(job)
        if job.video is not None:
            shutil.rmtree(job.video.parent, ignore_errors=True)

    def close(self) -> None:
        """Stop all jobs, wait for the sampling step that runs, and delete all files."""
        with self._change:
            self._closed = True
            jobs = list(self._jobs)
            self._change.notify_all()
        for job in jobs:
            self.stop(job)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                job = self._jobs[0]
                job.state, job.began = "running", time.monotonic()
            ended = self._run(job)
            gc.collect()  # what is left in cycles holds weights
            job.seconds = time.monotonic() - job.began
            with self._change:
                self._jobs.remove(job)
                job.state = ended

    def _run(self, job: Job) -> str:
        """Run one; returns how it ended."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        output = folder / OUTPUT
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the path is of no use to anyone
                self._build(job.command.words(str(output)), job.look)()
        except StopGenerating:
            ended = "stopped"
        except Exception as error:
            job.error, ended = self._sentence(job, error), "failed"
        else:
            job.video, ended = output, "done"
        job.picture = None
        if ended != "done":
            shutil.rmtree(folder, ignore_errors=True)
        return ended

    def _sentence(self, job: Job, error: Exception) -> str:
        """Say what went wrong, without where files lie."""
        text, upload = self._explain(error), job.command.upload
        if upload is not None:
            text = text.replace(str(upload), upload.name)
            # A library's message may hold a part of the path: FOLDER/HASH/NAME, cut anywhere.
            text = re.sub(rf"{re.escape(str(upload.parent.parent))}[^\s'\")]*", upload.name, text)
        return re.sub(rf"{re.escape(str(self._folder))}[^\s'\")]*/", "", text)


def step_of(preview: StepPreview) -> Step:
    """Say how far a run is.

    Args:
      preview: the run after a sampling step.

    Returns:
      The text, and the share of the work that is done, for which each stage counts the same, and
      each window of a stage.
    """
    number = list(preview.stages).index(preview.stage)
    of_stage = (preview.window + preview.step / preview.steps) / preview.windows
    places = []
    if len(preview.stages) > 1:
        places.append(f"stage {number + 1} of {len(preview.stages)}, {preview.stage}")
    if preview.scene is not None:
        places.append(f"scene {preview.scene + 1}")
    if preview.windows > 1:
        places.append(f"part {preview.window + 1} of {preview.windows}")
    places.append(f"step {preview.step} of {preview.steps}")
    return Step(" · ".join(places), (number + of_stage) / len(preview.stages))


def picture_of(preview: StepPreview) -> bytes:
    """Draw the first clip of a preview, small.

    Args:
      preview: the run after a sampling step.

    Returns:
      An animated WebP of at most `MAX_FRAMES` frames and `MAX_SIDE` pixels of a side, evenly
      picked; a clip of 32 pixels or less is enlarged, because WebP halves the resolution of colors.
    """
    clip = np.asarray(preview.video)[0]
    frames = -(-len(clip) // MAX_FRAMES)
    pixels = -(-max(clip.shape[1:3]) // MAX_SIDE)
    small = transforms.to_uint8(clip[::frames, ::pixels, ::pixels])
    small = np.broadcast_to(small, (*small.shape[:3], 3))
    larger = max(1, 64 // max(small.shape[1:3]))  # WebP halves the colors
    small = small.repeat(larger, axis=1).repeat(larger, axis=2)
    rate = min(max(preview.fps / frames, stream.SLOWEST), stream.RATES[".webp"])
    return encode.animation(np.ascontiguousarray(small)[None], rate, quality=70)
