"""What a run shows of itself while it samples: the current prediction, and a picture of it.

    run = Generate(..., on_step=look)       look(preview: StepPreview), after every step
    raise StopGenerating                    from `look`: the run ends, and nothing is half-written
    on_step=DrawPreview("now.png")          the picture is drawn anew, at most once a second

The prediction is x̂ of a diffusion model, guided and thresholded; of Phenaki the decoded tokens, all
of which are filled in. It is brought from the device, or decoded, where `video` is looked at and
not before, so a callback that counts steps costs nothing. Looking changes no result.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidgen.data.video import encode, stream
from vidgen.types import Predict

MAX_FRAMES = 8  # [guess] of a drawn clip, evenly spread: a sheet of 128 frames is no picture


class StopGenerating(Exception):
    """Ends a run from its callback; it reaches who called the run.

    Clips that are finished stay, no file is half-written, and a story goes on from its last whole
    part with the same call.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepPreview:
    """The state of a run after a sampling step.

    Attributes:
      stage: the stage that runs.
      stages: all stages of the run, in order.
      step: sampling steps done of this window, from 1.
      steps: sampling steps of a window.
      window: the number of the batch of clips, or of the part of a story, from 0.
      windows: how many of them the stage makes.
      scene: the number of the scene in a story, from 0; None where there is no story.
      prompts: the prompts of the clips in `video`, one each.
      fps: frames per second of `video`.
      predict: what `video` is computed by.
    """

    stage: str
    stages: Sequence[str]
    step: int
    steps: int
    window: int
    windows: int
    scene: int | None = None
    prompts: Sequence[str]
    fps: float
    predict: Predict = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def video(self) -> Float[np.ndarray, "b t h w c"]:
        """The current prediction in [-1, 1], in the size of the stage; the known frames too."""
        rows = np.asarray(self.predict(), np.float32)[: len(self.prompts)]  # a batch is filled up
        return np.clip(rows, -1, 1)


Look = Callable[[StepPreview], None]


def each(*looks: Look) -> Look | None:
    """Join several callbacks to one that calls all of these in turn.

    Args:
      *looks: the callbacks; the first that raises is the last that is called.

    Returns:
      One callback; None where there is none.
    """

    def look(preview: StepPreview) -> None:
        for one in looks:
            one(preview)

    return look if looks else None


class DrawPreview:
    """Draws the current prediction into a file that a viewer can keep open.

    A .png is a sheet with a row for each clip, of at most `MAX_FRAMES` frames; other suffixes are
    those of videos. The file is always whole: it is written beside, and renamed.
    """

    def __init__(
        self,
        path: str | Path,
        every: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draw nothing yet.

        Args:
          path: the file, whose suffix is the format.
          every: the least seconds from the end of a drawing to the next; the last step of a window
            is always drawn. [guess] A second: drawing then takes little of a run.
          clock: tells seconds.

        Raises:
          ValueError: a suffix of no format, or a folder.
        """
        self._path, self._every, self._clock = Path(path), every, clock
        self._next = -np.inf
        encode.check_suffix(self._path)
        if self._path.is_dir():
            raise ValueError(f"--preview={path} is a folder; name a file in it.")

    def __call__(self, preview: StepPreview) -> None:
        """Draw it, if it is time.

        Raises:
          OSError: the file cannot be written.
        """
        if self._clock() < self._next and preview.step < preview.steps:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        video = preview.video
        if self._path.suffix.lower() == ".png":
            count = min(video.shape[1], MAX_FRAMES)
            video = video[:, np.round(np.linspace(0, video.shape[1] - 1, count)).astype(int)]
        fastest = stream.RATES.get(self._path.suffix.lower(), np.inf)
        encode.write_video(self._path, video, float(np.clip(preview.fps, stream.SLOWEST, fastest)))
        self._next = self._clock() + self._every
