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

Held-out split: a triple (subject, motion, background) is held out where the first 8 bytes of
sha256("seed/subject/motion/background") over 2^64 fall below `held_out_fraction`. Where this would
leave a pair (or a single name) without any training triple, its triple with the largest hash
returns to training. So everything, and every pair, is seen in training; some triples never are.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vidgen.data import sprite_captions, sprite_frames
from vidgen.data.sources import Example
from vidgen.types import VideoShape

Triple = tuple[str, str, str]  # subject, motion, background

# One noun each, chosen by eye at 16 x 16: no two share both color and silhouette.
EASY_SUBJECTS = ("tiger", "octopus", "frog", "panda", "whale", "crab", "star", "snail")

BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "red": (180, 20, 35),
    "orange": (245, 140, 30),
    "yellow": (250, 225, 80),
    "green": (30, 120, 50),
    "blue": (35, 70, 190),
    "purple": (115, 45, 150),
    "pink": (250, 165, 205),
    "white": (245, 245, 245),
    "gray": (125, 125, 125),
    "black": (15, 15, 15),
}

# name -> (down, right, growth): travel along y and x, and the change of size over a clip
MOTIONS: Mapping[str, tuple[int, int, int]] = {
    "moving left": (0, -1, 0),
    "moving right": (0, 1, 0),
    "moving up": (-1, 0, 0),
    "moving down": (1, 0, 0),
    "standing still": (0, 0, 0),
    "growing": (0, 0, 1),
    "shrinking": (0, 0, -1),
    "moving up and left": (-1, -1, 0),
    "moving up and right": (-1, 1, 0),
    "moving down and left": (1, -1, 0),
    "moving down and right": (1, 1, 0),
}

ANIMATION_FPS = 8.0
GROWTH = 0.4  # a growing sprite goes from 0.6 to 1.4 times its size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth behind one clip.

    Attributes:
      subject: sprite name.
      motion: key of MOTIONS; None for a single image.
      background: key of BACKGROUNDS.
      middle: (y, x) of the sprite at half time, as fractions of height and width.
      travel: distance covered over the clip, as a fraction of height or width.
      scale: side of the sprite at half time, as a fraction of the smaller canvas side.
      phase: start of the sprite's own animation, in [0, 1) of a loop.
      template: index into the caption templates.
      duration: seconds that u = 0 ... 1 stands for; None: the length of the clip.
      start: seconds at which the clip begins.
    """

    subject: str
    motion: str | None
    background: str
    middle: tuple[float, float]
    travel: float
    scale: float
    phase: float
    template: int = 0
    duration: float | None = None
    start: float = 0.0

    def path(self, shape: VideoShape) -> Float[np.ndarray, "t 2"]:
        """(y, x) centers per frame, as fractions of height and width."""
        down, right, _ = MOTIONS[self.motion or "standing still"]
        offset = self.travel * (self._times(shape) - 0.5)
        return np.array(self.middle) + offset[:, None] * np.array([down, right], float)

    def sides(self, shape: VideoShape) -> Float[np.ndarray, " t"]:
        """Side of the sprite per frame, as a fraction of the smaller canvas side."""
        growth = MOTIONS[self.motion or "standing still"][2] * GROWTH
        return self.scale * (1 + 2 * growth * (self._times(shape) - 0.5))

    def _times(self, shape: VideoShape) -> Float[np.ndarray, " t"]:
        """u of every frame."""
        if self.duration is not None:
            return (self.start + np.arange(shape.frames) / shape.fps) / self.duration
        return np.linspace(0.0, 1.0, shape.frames) if shape.frames > 1 else np.array([0.5])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sprites:
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
      stills: single images in place of clips, anywhere on the canvas, with captions without a
        motion; the frames of `shape` become 1. For joint training (data/images.py).
      duration: seconds of a whole scene; a clip is a window of it, from a random frame of the
        clip's own frame rate on. None: the clip is the whole scene, whatever its length.
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
    templates: int = len(sprite_captions.TEMPLATES)
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
        if self.split not in ("train", "held_out", "all"):
            raise ValueError(f"Sprites.split is {self.split!r}; choose train, held_out or all.")
        if self.shape.channels != 3:
            raise ValueError(f"Sprites are RGB; shape.channels is {self.shape.channels}, set 3.")
        if not 1 <= self.templates <= len(sprite_captions.TEMPLATES):
            limit = len(sprite_captions.TEMPLATES)
            raise ValueError(f"Sprites.templates is {self.templates}; expected 1 to {limit}.")
        if not 0 <= self.held_out_fraction <= 1:
            raise ValueError(
                f"Sprites.held_out_fraction is {self.held_out_fraction}; expected 0 to 1."
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Sprites.scale is {self.scale}; expected 0 < low <= high.")
        length = self.shape.frames / self.shape.fps
        if self.duration is not None and self.duration < length - 1e-6:
            raise ValueError(
                f"Sprites.duration is {self.duration} s, but its clips last {length:g} s "
                f"({self.shape.frames} frames at {self.shape.fps:g} a second)."
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"Sprites.size is {self.size}; it must be >= 1.")

    def __len__(self) -> int:
        return len(self.triples(self.split)) if self.size is None else self.size

    def triples(self, split: str = "all") -> tuple[Triple, ...]:
        """(subject, motion, background) triples of a split, in a fixed order."""
        train, held_out = _split(
            tuple(self.subjects),
            tuple(self.motions),
            tuple(self.backgrounds),
            self.held_out_fraction,
            self.seed,
        )
        return {"train": train, "held_out": held_out, "all": train + held_out}[split]

    def scene(self, index: int, rng: np.random.Generator) -> Scene:
        """The scene of example `index`, drawn with `rng`."""
        triples = self.triples(self.split)
        subject, motion, background = triples[index % len(triples)]
        return self.scene_of(subject, motion, background, rng)

    def scene_of(
        self, subject: str, motion: str, background: str, rng: np.random.Generator
    ) -> Scene:
        """A scene of the given triple; place, size, speed, phase and wording come from `rng`."""
        reach = self.travel[1] / 2 if self.stills else self.jitter
        return Scene(
            subject=subject,
            motion=None if self.stills else motion,
            background=background,
            middle=_pair(rng.uniform(0.5 - reach, 0.5 + reach, 2)),
            travel=float(rng.uniform(*self.travel)),
            scale=float(rng.uniform(*self.scale)),
            phase=float(rng.random()),
            template=int(rng.integers(self.templates)),
            duration=None if self.stills else self.duration,
            start=0.0 if self.stills else self._start(rng),
        )

    def _start(self, rng: np.random.Generator) -> float:
        """Seconds into the scene at which a clip begins; a whole number of its frames."""
        if self.duration is None:
            return 0.0
        spare = round(self.duration * self.shape.fps) - self.shape.frames
        return int(rng.integers(max(spare, 0) + 1)) / self.shape.fps

    def render(self, scene: Scene, shape: VideoShape | None = None) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of a scene, in this source's shape or another."""
        shape = shape or self.shape
        video = np.empty(shape.thwc, np.uint8)
        video[:] = BACKGROUNDS[scene.background]
        centers = scene.path(shape) * np.array([shape.height, shape.width])
        sides = scene.sides(shape) * min(shape.height, shape.width)
        loop = len(sprite_frames.frames(scene.subject))
        for i, canvas in enumerate(video):
            elapsed = (scene.start + i / shape.fps) * ANIMATION_FPS
            center = (float(centers[i, 0]), float(centers[i, 1]))
            pose = int(scene.phase * loop + elapsed)
            sprite_frames.paste(canvas, scene.subject, pose, center, float(sides[i]))
        return video

    def caption(self, scene: Scene) -> str:
        """The caption of a scene."""
        return sprite_captions.write(scene.subject, scene.motion, scene.background, scene.template)

    def parse_caption(self, caption: str) -> tuple[str, str | None, str]:
        """(subject, motion, background) of a caption; motion None: a single image."""
        names = (tuple(self.subjects), tuple(self.motions), tuple(self.backgrounds))
        return sprite_captions.parse(caption, *names)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Example `index` with everything random about it drawn from `rng`."""
        scene = self.scene(index, rng)
        return Example(video=self.render(scene), caption=self.caption(scene))


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


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


def _hash(seed: int, triple: Triple) -> float:
    text = "/".join((str(seed), *triple))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@functools.lru_cache(maxsize=64)
def _split(
    subjects: tuple[str, ...],
    motions: tuple[str, ...],
    backgrounds: tuple[str, ...],
    fraction: float,
    seed: int,
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """(train, held out) triples; every name, and every pair where possible, is in train."""
    axes = (subjects, motions, backgrounds)
    score = {triple: _hash(seed, triple) for triple in itertools.product(*axes)}
    train = {triple for triple, value in score.items() if value >= fraction}
    keys = [(axis,) for axis in range(3)]
    # a pair can be covered and still leave something to hold out only if the third axis varies
    keys += [(i, j) for i, j in ((0, 1), (0, 2), (1, 2)) if len(axes[3 - i - j]) > 1]
    for key in keys if fraction < 1 else ():
        best: dict[tuple[str, ...], Triple] = {}
        for triple in score:
            group = tuple(triple[axis] for axis in key)
            if group not in best or score[triple] > score[best[group]]:
                best[group] = triple
        train.update(best.values())
    chosen = tuple(triple for triple in score if triple in train)
    return chosen, tuple(triple for triple in score if triple not in train)
