"""The progress of a video that is made segment by segment, on a terminal or in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from vidgen.inference.preview import Look, StepPreview
from vidgen.model import SampledModel
from vidgen.progress import duration, progress_bar
from vidgen.story.segments import Segment
from vidgen.types import Predict

log = logging.getLogger(__name__)

# Is called after every step with (segment, steps done, steps, the prediction).
SegmentLook = Callable[[Segment, int, int, Predict], None]

_LOG_EVERY = 60.0  # seconds between two lines where there is no terminal


class StoryProgress:
    """Shows scene, segment, frames and the time left; use it in a `with` block.

    The first segment compiles, so it says nothing about the others: no time is shown until there
    is another. Where there is no terminal, a line is logged at each scene and once a minute.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        begin: int = 0,
        label: str = "",
        look: SegmentLook | None = None,
    ) -> None:
        """Open the bar.

        Args:
          segments: all segments of the video.
          begin: how many of them are finished already.
          label: what the video comes from; "" shows nothing.
          look: is called after every step; None is nobody (`shown_to`).
        """
        self._label = f"{label}: " if label else ""
        self._segments, self._look = segments, look
        self._scenes = 1 + max(s.scene for s in segments)
        self._total = segments[-1].end_frame
        self._last_line = 0.0
        self._start: float | None = None  # of the second segment
        self._timed = 0  # frames made since then
        self._current: Segment | None = None
        self._bar = progress_bar(
            self._total,
            initial=segments[begin - 1].end_frame if begin else 0,
            bar_format="{desc} |{bar}| {n:.0f}/{total} frames{postfix}",
        )

    def begin(self, segment: Segment) -> None:
        """Show that a segment is being made.

        Args:
          segment: the one that begins; call it before `step`.
        """
        place = (
            f"{self._label}scene {segment.scene + 1}/{self._scenes} "
            f"segment {segment.index + 1}/{len(self._segments)}"
        )
        new_scene = self._current is None or self._current.scene != segment.scene
        self._current = segment
        self._bar.set_description_str(place)
        if self._bar.disable and (new_scene or time.monotonic() - self._last_line > _LOG_EVERY):
            self._last_line = time.monotonic()
            left = self._time_left(segment.first_frame)
            log.info("%s, %s/%s frames%s", place, segment.first_frame, self._total, left)

    def step(self, done: int, total: int, predict: Predict) -> None:
        """Show how far the segment is; this is the `on_step` of `Generator.generate`.

        Args:
          done: sampling steps that are finished.
          total: sampling steps of the segment.
          predict: computes the current prediction.
        """
        if self._current is not None and not self._bar.disable:
            self._bar.n = self._current.first_frame + self._current.frames * done / total
            self._bar.refresh()
        if self._look is not None and self._current is not None:
            self._look(self._current, done, total, predict)

    def end(self, segment: Segment) -> None:
        """Show that a segment is finished.

        Args:
          segment: the one that ended.
        """
        if self._start is None:
            self._start = time.monotonic()
        else:
            self._timed += segment.frames
        left = self._time_left(segment.end_frame).removeprefix(", ")
        self._bar.n = segment.end_frame
        self._bar.set_postfix_str(left)

    def _time_left(self, frames: int) -> str:
        if self._start is None or not self._timed:
            return ""
        pace = (time.monotonic() - self._start) / self._timed
        return f", {duration(pace * (self._total - frames))} left"

    def __enter__(self) -> StoryProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def shown_to(
    look: Look | None, model: SampledModel, segments: Sequence[Segment], stages: Sequence[str]
) -> SegmentLook | None:
    """Turn a callback of a run into one of its segments.

    Args:
      look: is called with a `StepPreview` after every step; None is nobody.
      model: makes the segments.
      segments: all of the video.
      stages: names of those that the video passes through.

    Returns:
      A callback for `StoryProgress`; None where nobody looks.
    """
    if look is None:
        return None

    def show(segment: Segment, done: int, steps: int, predict: Predict) -> None:
        look(
            StepPreview(
                stage=model.name,
                stages=tuple(stages),
                step=done,
                steps=steps,
                window=segment.index,
                windows=len(segments),
                scene=segment.scene,
                prompts=(segment.prompts[-1][0],),
                fps=model.shape.fps,
                predict=predict,
            )
        )

    return show
