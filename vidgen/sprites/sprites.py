"""Sprite videos: an unbounded, learnable, captioned video set that ships with the package.

One animated sprite moves over a plain background, and the caption says exactly that:
`a tiger moving right on a green background`. With u in [0, 1] the time within the clip, the
sprite's center and side are (in units of canvas height, width and the smaller of both)

    center(u) = middle + direction * travel * (u - 1/2)        side(u) = scale * growth(u)

so the sprite passes near the middle of the canvas at half time, at constant speed, and covers
0.4 to 0.5 of the canvas: direction of motion is never in doubt. Its own 16-frame animation loops
at 8 frames per second, from a random phase. A scene does not depend on resolution or frame rate;
the same scene can be rendered for every stage of a cascade. With a `duration`, frame i of a clip is
at u = (start + i/fps)/duration, so clips of different rates show the same moments and a short
clip is a window of a long one; without, the first frame is at u = 0 and the last at u = 1.

With `turns` or `arrivals` the world has walls, and a clip begins anywhere between them: the data
from which a model learns to continue another motion than its caption names, as Phenaki's stories
ask of it. A clip with a turn shows another motion for a part of its first half, then the caption's;
one with an arrival has been on its way already, and comes to a wall soon or stands there; all
others go on with their motion, from where there is room for half of it. See scenes.py.

Which triples are held out: see split.py.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from vidgen import checks
from vidgen.data.source import Example, Source
from vidgen.sprites import grammar, scenes
from vidgen.sprites import render as sprite_frames
from vidgen.sprites import split as sprite_split
from vidgen.sprites.scenes import BACKGROUNDS, MOTIONS, SpriteMotion, SpriteScene
from vidgen.sprites.split import Triple
from vidgen.types import VideoShape

# One noun each, chosen by eye at 16 x 16: no two share both color and silhouette.
EASY_SUBJECTS = ("tiger", "octopus", "frog", "panda", "whale", "crab", "star", "snail")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sprites(Source):
    """Source of sprite videos; example `index` shows triple `index % len(triples(split))`.

    Attributes:
      shape: clip to render; channels must be 3.
      subjects: sprite names, or the name of a set: "easy" (8), "animals", "all" (699).
      backgrounds: keys of BACKGROUNDS.
      motions: keys of MOTIONS.
      split: "train", "held_out" or "all" triples; see the module docstring.
      held_out_fraction: share of triples kept from training.
      scale: range of the sprite's side, relative to the smaller canvas side.
      travel: range of the distance covered, relative to the canvas side it moves along.
      jitter: largest offset of the middle of the path, relative to the canvas.
      templates: how many caption templates to draw from; 1 gives canonical captions only.
      turns: share of clips that begin with another motion than their caption's.
      arrivals: share of clips whose motion began up to two clips earlier.
      stills: single images in place of clips, anywhere on the canvas, with captions without a
        motion; the frames of `shape` become 1. For joint training (data/sources/images.py).
      duration: seconds of a whole scene; a clip is a window of it, from a random frame of the
        clip's own frame rate on (with walls, from its beginning). None: the clip is the whole
        scene, whatever its length.
      size: number of examples in one pass; None counts every triple once.
      seed: selects the held-out split (what is drawn inside a scene comes from the pipeline).
    """

    shape: VideoShape
    subjects: str | Sequence[str] = EASY_SUBJECTS
    backgrounds: Sequence[str] = tuple(BACKGROUNDS)
    motions: Sequence[str] = tuple(MOTIONS)[:7]
    split: str = "train"
    held_out_fraction: float = 0.1
    scale: tuple[float, float] = (0.5, 0.65)
    travel: tuple[float, float] = (0.4, 0.5)
    jitter: float = 0.05
    templates: int = len(grammar.TEMPLATES)
    turns: float = 0.0
    arrivals: float = 0.0
    stills: bool = False
    duration: float | None = None
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        subjects = _subject_set(self.subjects) if isinstance(self.subjects, str) else self.subjects
        for name, values, known in (
            ("subjects", subjects, sprite_frames.catalog()),
            ("backgrounds", self.backgrounds, BACKGROUNDS),
            ("motions", self.motions, MOTIONS),
        ):
            object.__setattr__(self, name, _checked(name, values, known))
        if self.stills:
            object.__setattr__(self, "shape", dataclasses.replace(self.shape, frames=1))
        object.__setattr__(self, "scale", tuple(self.scale))
        object.__setattr__(self, "travel", tuple(self.travel))
        self._check_numbers()
        if not self.triples(self.split):
            raise ValueError(
                f"Sprites has no triple in split {self.split!r}: held_out_fraction is "
                f"{self.held_out_fraction} of {len(self.triples('all'))}; give more names."
            )

    def _check_numbers(self) -> None:
        checks.one_of(self, split=("train", "held_out", "all"))
        checks.share(self, "held_out_fraction")
        checks.at_least(self, jitter=0, size=1)
        shape, scale, travel = self.shape, self.scale, self.travel
        turns, arrivals, limit = self.turns, self.arrivals, len(grammar.TEMPLATES)
        for valid, message in (
            (shape.channels == 3, f"shape.channels is {shape.channels}; sprites are RGB, set 3."),
            (
                1 <= self.templates <= limit,
                f"templates is {self.templates}; expected 1 to {limit}.",
            ),
            (0 < scale[0] <= scale[1], f"scale is {scale}; expected 0 < low <= high."),
            (0 <= travel[0] <= travel[1], f"travel is {travel}; expected 0 <= low <= high."),
            (
                min(turns, arrivals) >= 0 and turns + arrivals <= 1,
                f"turns is {turns} and arrivals is {arrivals}; expected shares from 0 to 1 that "
                "add up to 1 at most.",
            ),
            (
                not self._walls or self.stills or shape.frames >= 3,
                f"turns needs clips of 3 frames or more, not {shape.frames}.",
            ),
            (
                self.duration is None or self.duration >= shape.seconds - 1e-6,
                f"duration is {self.duration} s, but its clips last {shape.seconds:g} s "
                f"({shape.frames} frames at {shape.fps:g} a second).",
            ),
        ):
            if not valid:
                raise ValueError(f"Sprites.{message}")

    def __len__(self) -> int:
        return len(self.triples(self.split)) if self.size is None else self.size

    def triples(self, split: str = "all") -> tuple[Triple, ...]:
        """List the (subject, motion, background) triples of a split, in a fixed order.

        Args:
          split: "train", "held_out", or "all" for the first and then the second.

        Returns:
          The triples.

        Raises:
          KeyError: there is no such split.
        """
        train, held_out, _ = self._split
        return {"train": train, "held_out": held_out, "all": train + held_out}[split]

    @property
    def _split(self) -> sprite_split.Split:
        names = (tuple(self.subjects), tuple(self.motions), tuple(self.backgrounds))
        return sprite_split.split(*names, self.held_out_fraction, self.seed)

    def scene(self, index: int, rng: np.random.Generator) -> SpriteScene:
        """Draw the scene of an example.

        Args:
          index: number of the example; it says which triple, index % number of triples.
          rng: draws all else.

        Returns:
          The scene; with `stills` it has no motion.
        """
        triples = self.triples(self.split)
        subject, motion, background = triples[index % len(triples)]
        return self.scene_of(subject, motion, background, rng)

    def scene_of(
        self, subject: str, motion: str, background: str, rng: np.random.Generator
    ) -> SpriteScene:
        """Draw a scene of a triple.

        Args:
          subject: sprite name.
          motion: key of MOTIONS.
          background: key of BACKGROUNDS.
          rng: draws place, size, speed, phase and wording.

        Returns:
          The scene; with `stills` it has no motion.
        """
        reach = self.travel[1] / 2 if self.stills else self.jitter
        middle = rng.uniform(0.5 - reach, 0.5 + reach, 2)
        scene = SpriteScene(
            subject=subject,
            motion=None if self.stills else motion,
            background=background,
            middle=(float(middle[0]), float(middle[1])),
            travel=float(rng.uniform(*self.travel)),
            scale=float(rng.uniform(*self.scale)),
            phase=float(rng.random()),
            template=int(rng.integers(self.templates)),
            duration=None if self.stills else self.duration,
            start=0.0 if self.stills or self._walls else self._start(rng),
        )
        if self.stills or not self._walls:
            return scene
        return scene.along(self._course(scene, rng))

    @property
    def _walls(self) -> bool:
        return self.turns > 0 or self.arrivals > 0

    @property
    def frame_time(self) -> float:
        """The difference of u from one frame to the next."""
        if self.duration is not None:
            return 1 / (self.shape.fps * self.duration)
        return 1 / max(1, self.shape.frames - 1)

    def _course(self, scene: SpriteScene, rng: np.random.Generator) -> SpriteMotion:
        """Draw the path of a clip between walls."""
        assert scene.motion is not None
        clip = (self.shape.frames - 1) * self.frame_time
        kind, frames = rng.random(), int(rng.integers(1, self.shape.frames // 2 + 1))
        others = self._others(scene)
        if kind < self.turns and others:
            before = (others[rng.integers(len(others))], frames * self.frame_time)
            lead = (clip - before[1]) / 2
            return scenes.draw_course(scene.motion, scene.travel, lead, rng, before=before)
        if self.turns <= kind < self.turns + self.arrivals:
            course = scenes.draw_course(scene.motion, scene.travel, 0.0, rng)
            y, x, size = course.at(rng.uniform(0.0, 2 * clip, 1))[0].tolist()
            return dataclasses.replace(course, begin=(y, x, size))
        return scenes.draw_course(scene.motion, scene.travel, clip / 2, rng)

    def _others(self, scene: SpriteScene) -> list[str]:
        """List motions that may come before that of `scene`; training shows no held-out triple."""
        others = [motion for motion in self.motions if motion != scene.motion]
        if self.split != "train":
            return others
        seen = self._split.seen
        return [m for m in others if (scene.subject, m, scene.background) in seen]

    def _start(self, rng: np.random.Generator) -> float:
        """Draw the seconds into the scene at which a clip begins; a whole number of its frames."""
        if self.duration is None:
            return 0.0
        spare = round(self.duration * self.shape.fps) - self.shape.frames
        return int(rng.integers(max(spare, 0) + 1)) / self.shape.fps

    def render(
        self, scene: SpriteScene, shape: VideoShape | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Draw the frames of a scene.

        Args:
          scene: what to draw.
          shape: shape of the clip; None is that of this source.

        Returns:
          RGB frames.
        """
        return scene.render(shape or self.shape)

    def caption(self, scene: SpriteScene) -> str:
        """Write the caption of a scene.

        Args:
          scene: what to describe, in the words of its `template`.

        Returns:
          The caption.
        """
        return grammar.write(scene.subject, scene.motion, scene.background, scene.template)

    def parse_caption(self, caption: str) -> tuple[str, str | None, str]:
        """Read subject, motion and background from a caption.

        Args:
          caption: in any of the templates.

        Returns:
          (subject, motion, background); motion is None for a single image.

        Raises:
          ValueError: it is no caption of these sprites.
        """
        names = (tuple(self.subjects), tuple(self.motions), tuple(self.backgrounds))
        return grammar.parse(caption, *names)

    def for_evaluation(self, shape: VideoShape) -> Sprites:
        """Return clips of another shape with canonical captions; see `Source.for_evaluation`.

        Captions are then equal if they say the same.
        """
        return dataclasses.replace(self, shape=shape, templates=1)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Draw the scene of an example and its caption; see `Source.load`."""
        scene = self.scene(index, rng)
        return Example(video=self.render(scene), caption=self.caption(scene))


def _subject_set(name: str) -> tuple[str, ...]:
    catalog = sprite_frames.catalog()
    animals = tuple(key for key, entry in catalog.items() if entry["group"] == "animals")
    sets = {"easy": EASY_SUBJECTS, "animals": animals, "all": tuple(catalog)}
    if name not in sets:
        raise ValueError(f"Sprites.subjects is {name!r}; give names, or one of {sorted(sets)}.")
    return sets[name]


def _checked(field: str, values: Sequence[str], known: Mapping) -> tuple[str, ...]:
    values = (values,) if isinstance(values, str) else tuple(values)
    if not values:
        raise ValueError(f"Sprites.{field} is empty; give at least one name.")
    if len(set(values)) < len(values):
        raise ValueError(f"Sprites.{field} repeats a name: {values}.")
    for value in values:
        if value not in known:
            close = difflib.get_close_matches(value, known, n=5, cutoff=0.4)
            choices = close or sorted(known)[:10]
            raise ValueError(f"Sprites.{field} has no {value!r}; choose e.g. {', '.join(choices)}.")
    return values
