"""A story as data: scenes with their prompts and lengths (Phenaki, section 3.3), checked as one.

`parse` reads it from text, YAML or StoryBench's JSON; `segments` cuts it into the segments that a
model makes one after the other.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

FITS = ("exact", "nearest", "trim")


class StoryError(ValueError):
    """A story is wrong; the message names its source, the scene and the key."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One prompt and how long it is shown.

    Attributes:
      prompt: what to show.
      frames: number of new frames, or
      seconds: length in time. With neither, the story shares its frames among such scenes, or each
        gets three segments.
      seed: seed of this scene alone: its noise depends on no other scene but those before it that
        have the same seed, from which it differs.
      guidance: guidance weight; None is the story's, then the model's.
      steps: sampling steps; None is the story's, then the model's.
      negative: a prompt that guidance leads away from; None is the story's, then none.
      transition: number n of segments over which the prompt passes from that of the scene before to
        this one: the j-th (from 1) mixes the two with weights 1 - j / (n + 1) and j / (n + 1).
      overlap: number of frames of the scene before that this one continues: 0 is a cut, None is the
        context of the model.
    """

    prompt: str
    frames: int | None = None
    seconds: float | int | None = None
    seed: int | None = None
    guidance: float | int | None = None
    steps: int | None = None
    negative: str | None = None
    transition: int = 0
    overlap: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstFrames:
    """The frames of a file that a story continues; the story begins where they end.

    Attributes:
      path: a picture or a video.
      start: number of the first frame that may be seen, from 0.
      end: number of the frame after the last one that may be seen; None is the end of the file.
      fps: frames per second at which `start` and `end` are counted; None is the model's rate.
    """

    path: str
    start: int = 0
    end: int | None = None
    fps: float | None = None


@dataclasses.dataclass(frozen=True)
class Story:
    """Scenes in the order in which they are told.

    Attributes:
      scenes: at least one scene.
      frames: number of frames of the whole video; those that no scene claims go evenly to scenes
        without a length.
      seed: seed of the scenes without one; None is the seed of the run.
      guidance: guidance weight of the scenes without one; None is the model's.
      steps: sampling steps of the scenes without such; None is the model's.
      negative: the negative prompt of the scenes without one.
      fit: what happens to a length that is no whole number of segments: "exact" refuses it,
        "nearest" takes the nearest that is one, "trim" cuts the last segment of the scene.
      first: a video that the story continues, for StoryBench's tasks.
      source: the file that error messages name.

    Raises:
      StoryError: there is no scene, a prompt is empty, a number is out of its range, ...
    """

    scenes: Sequence[Scene]
    frames: int | None = None
    seed: int | None = None
    guidance: float | int | None = None
    steps: int | None = None
    negative: str | None = None
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
        """Name a scene in messages.

        Args:
          index: its number from 0; people read it from 1.

        Returns:
          The source of the story and the scene.
        """
        return f"{self.source}: scene {index + 1}"

    def identity(self) -> dict[str, Any]:
        """Collect all that the video depends on.

        Returns:
          Plain data that JSON can hold; the name of the story's file is not in it.
        """
        fields = dataclasses.asdict(self)
        del fields["source"]
        return fields | {"scenes": list(fields["scenes"])}


# The least value of each number, and whether it must be larger than that.
_LEAST = {
    "frames": (1, False),
    "seconds": (0, True),
    "seed": (0, False),
    "guidance": (0, False),
    "steps": (1, False),
    "transition": (0, False),
    "overlap": (0, False),
}


def _check_numbers(where: str, holder: Scene | Story, names: tuple[str, ...]) -> None:
    for name in names:
        value, (least, more) = getattr(holder, name), _LEAST[name]
        if value is None:
            continue
        if not math.isfinite(value) or value < least or (more and value == least):
            bound = f"more than {least}" if more else f"{least} or more"
            raise StoryError(f"{where}: {name} is {value}; it must be {bound}.")
        if name == "seed" and value >= 2**32:
            raise StoryError(f"{where}: seed is {value}; it must be less than 2^32.")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Write a sentence about an unknown key, with the nearest of those that are known.

    Args:
      key: as a person wrote it.
      known: the keys that there are.

    Returns:
      The end of an error message.
    """
    close = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"unknown key {key!r}{hint} The keys are {', '.join(known)}."
