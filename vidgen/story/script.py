"""A story as data: scenes with their prompts and lengths (Phenaki, section 3.3), checked as one.

`story_files` reads it from text, YAML or StoryBench's JSON; `story_plan` cuts it into the segments
that a model makes one after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

FITS = ("exact", "nearest", "trim")


class StoryError(ValueError):
    """A story that cannot be told; the message names its source, the scene and the key."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One prompt and how long it is shown.

    Attributes:
      prompt: what to show.
      frames: new frames of this scene, or
      seconds: its length in time. With neither, the story shares its frames among such scenes, or
        each gets three segments.
      seed: of this scene alone: its noise does not depend on what comes before it in the list, but
        for scenes of the same seed, of which each has noise of its own.
      guidance: how strongly to follow the prompt; None is the story's, then the model's.
      steps: of sampling; likewise.
      transition: segments over which the prompt passes from that of the scene before to this one:
        of n, the j-th (from 1) mixes the two with weights 1 - j / (n + 1) and j / (n + 1).
      overlap: frames of the scene before that this one continues from: 0 is a cut, None all that
        the model remembers (its context).
    """

    prompt: str
    frames: int | None = None
    seconds: float | int | None = None
    seed: int | None = None
    guidance: float | int | None = None
    steps: int | None = None
    transition: int = 0
    overlap: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstFrames:
    """A video that a story continues: its frames from `start` to before `end` (None: the last).

    They are counted at `fps` frames a second, those of the model where it is None. The film begins
    where they end: none at or beyond `end` is ever seen.
    """

    path: str
    start: int = 0
    end: int | None = None
    fps: float | None = None


@dataclasses.dataclass(frozen=True)
class Story:
    """Scenes in the order in which they are told.

    Attributes:
      scenes: at least one.
      frames: of the whole film; those that no scene claims go evenly to scenes without a length.
      seed: of all scenes without their own; None is the seed of the run.
      guidance: likewise; None is the model's.
      steps: likewise.
      fit: what becomes of a length that is no whole number of segments. "exact" refuses it,
        "nearest" takes the nearest that is, "trim" cuts the last segment of the scene.
      first: a video that the story continues, for the benchmark's tasks.
      source: the file or so that error messages name.

    Raises:
      StoryError: no scene, an empty prompt, a number out of range, ...
    """

    scenes: Sequence[Scene]
    frames: int | None = None
    seed: int | None = None
    guidance: float | int | None = None
    steps: int | None = None
    fit: str = "exact"
    first: FirstFrames | None = None
    source: str = "story"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenes", tuple(self.scenes))
        if not self.scenes:
            raise StoryError(f"{self.source}: no scene; a story has one or more.")
        if self.fit not in FITS:
            raise StoryError(f"{self.source}: fit is {self.fit!r}; choose {', '.join(FITS)}.")
        _check_numbers(self.source, self, ("frames", "seed", "guidance", "steps"))
        for i, scene in enumerate(self.scenes):
            where = self.where(i)
            if not scene.prompt.strip():
                raise StoryError(f"{where}: prompt is empty; say what to show.")
            if scene.frames is not None and scene.seconds is not None:
                raise StoryError(f"{where}: both frames and seconds are given; keep one of them.")
            _check_numbers(where, scene, tuple(_LEAST))
        if self.scenes[0].transition:
            raise StoryError(
                f"{self.where(0)}: transition is {self.scenes[0].transition}; no scene comes "
                f"before, so it must be 0."
            )

    def where(self, index: int) -> str:
        """How messages name a scene, by its number from 1."""
        return f"{self.source}: scene {index + 1}"

    def identity(self) -> dict[str, Any]:
        """All that the film depends on, as plain data that JSON can hold."""
        found = dataclasses.asdict(self)
        del found["source"]
        return found | {"scenes": list(found["scenes"])}


# the least value of each number, and whether it must be more than that
_LEAST = {
    "frames": (1, False),
    "seconds": (0, True),
    "seed": (0, False),
    "guidance": (0, False),
    "steps": (1, False),
    "transition": (0, False),
    "overlap": (0, False),
}


def _check_numbers(where: str, holder: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value, (least, more) = getattr(holder, name), _LEAST[name]
        if value is None:
            continue
        if not math.isfinite(value) or value < least or (more and value == least):
            bound = f"more than {least}" if more else f"{least} or more"
            raise StoryError(f"{where}: {name} is {value}; it must be {bound}.")
        if name == "seed" and value >= 2**32:
            raise StoryError(f"{where}: seed is {value}; it must be less than 2^32.")
