"""What a person sees while a film is made."""

from __future__ import annotations

import logging
import time
from typing import Any

from vidgen.progress import duration, progress_bar
from vidgen.story.segments import Segment

log = logging.getLogger(__name__)

_SAY_EVERY = 60.0  # seconds between two lines where there is no terminal


class FilmProgress:
    """A bar of the whole film: scene, segment, frames, and the time left.

    The first segment compiles, so it tells nothing about the others; until there is another, no
    time is shown. Where there is no terminal, a line is logged at each scene and once a minute.
    """

    def __init__(self, segments: list[Segment], begin: int = 0, label: str = "") -> None:
        """A bar over `segments`, of which `begin` are there already."""
        self._label = f"{label}: " if label else ""
        self._segments = segments
        self._scenes = 1 + max(s.scene for s in segments)
        self._total = segments[-1].end_frame
        self._last_line = 0.0
        self._mark: float | None = None
        self._timed = 0  # frames made since the mark
        self._current: Segment | None = None
        done = segments[begin - 1].end_frame if begin else 0
        self._bar = progress_bar(
            self._total,
            initial=done,
            bar_format="{desc} |{bar}| {n:.0f}/{total} frames{postfix}",
        )

    def begin(self, segment: Segment) -> None:
        """A segment is being made."""
        before, self._current = self._current, segment
        self._bar.set_description_str(self._place(segment), refresh=False)
        self._bar.refresh()
        new_scene = before is None or before.scene != segment.scene
        if self._bar.disable and (new_scene or time.monotonic() - self._last_line > _SAY_EVERY):
            self._last_line = time.monotonic()
            left = self._left(segment.first_frame)
            frames = f"{segment.first_frame}/{self._total} frames"
            log.info("%s, %s%s", self._place(segment), frames, left)

    def step(self, done: int, total: int) -> None:
        """`done` of the `total` sampling steps of the segment are done."""
        if self._current is not None and not self._bar.disable:
            self._bar.n = self._current.first_frame + self._current.frames * done / total
            self._bar.refresh()

    def end(self, segment: Segment) -> None:
        """The segment is finished."""
        if self._mark is None:
            self._mark = time.monotonic()
        else:
            self._timed += segment.frames
        self._bar.set_postfix_str(self._left(segment.end_frame).removeprefix(", "), refresh=False)
        self._bar.n = segment.end_frame
        self._bar.refresh()

    def _place(self, segment: Segment) -> str:
        return (
            f"{self._label}scene {segment.scene + 1}/{self._scenes} "
            f"segment {segment.index + 1}/{len(self._segments)}"
        )

    def _left(self, frames: int) -> str:
        if self._mark is None or not self._timed:
            return ""
        pace = (time.monotonic() - self._mark) / self._timed
        return f", {duration(pace * (self._total - frames))} left"

    def __enter__(self) -> FilmProgress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()
