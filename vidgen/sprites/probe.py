"""Reads a sprite clip back: which subject, motion and background does it show?

The probe inverts sprites/sprites.py by hand instead of by a trained classifier, so it needs no
weights and cannot have learned a generator's mistakes:

    background  the palette color nearest to the median of the border pixels
    motion      center of mass of what differs from the background, frame by frame; a straight line
                through the centers, and through the sizes, gives (down, right, growth), and the
                nearest entry of MOTIONS is the answer
    subject     analysis by synthesis: each candidate is rendered along that path at a few sizes
                and phases of its animation; the one with the smallest squared error is the answer

On true clips of 8x16x16 it reads all three right in over 95 % (tests/sprites).

`read_part` reads a stretch of a film, where the sprite is anywhere, of any size, and may stand at a
wall in the end. Each candidate subject is followed: drawn over what is seen, frame by frame at its
center and size. Those of the best one are fitted by a ramp of m frames followed by rest, for every
m; the direction of the best ramp is the motion.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidgen.data.video.transforms import to_uint8
from vidgen.sprites import render
from vidgen.sprites.scenes import ANIMATION_FPS, BACKGROUNDS, GROWTH, MOTIONS, SpriteScene, paint
from vidgen.sprites.split import Triple
from vidgen.sprites.sprites import Sprites

_SCALES = (0.46, 0.52, 0.58, 0.64)  # over the range that Sprites draws from
_PHASES = (0.0, 0.25, 0.5, 0.75)
_TRAVEL = 0.45  # the middle of the range that Sprites draws from
_GROWN = 0.575 * 2 * GROWTH  # likewise, of a side
_MOVES = 0.15  # of the way of a whole clip: a part that changes less stands still
_LOOKS = 6  # frames of a part to compare with candidates


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the probe saw in one clip.

    Attributes:
      subject: nearest of the candidates.
      motion: key of MOTIONS among the candidates.
      background: key of BACKGROUNDS among the candidates.
      error: squared error of the best synthesis relative to that of an empty background; 0 for a
        perfect sprite, 1 or more for something else.
    """

    subject: str
    motion: str
    background: str
    error: float

    @property
    def triple(self) -> Triple:
        """(subject, motion, background)."""
        return (self.subject, self.motion, self.background)


def read(video: Float[np.ndarray, "t h w 3"], candidates: Sprites) -> Reading:
    """What `video`, in [-1, 1], shows, out of the names that `candidates` can draw."""
    clip = to_uint8(video).astype(np.float32)
    border = _border_color(clip)
    background = min(candidates.backgrounds, key=lambda n: _distance(border, BACKGROUNDS[n]))
    weight = _foreground(clip, border)
    centers, sizes = _track(weight)
    motion = _nearest_motion(centers, sizes, candidates.motions)
    errors = {
        subject: _synthesis_error(clip, weight, subject, motion, background, candidates)
        for subject in candidates.subjects
    }
    best = min(errors, key=errors.__getitem__)
    empty = np.mean((clip - np.array(BACKGROUNDS[background], np.float32)) ** 2)
    return Reading(best, motion, background, float(errors[best] / max(empty, 1e-6)))


class Followed(NamedTuple):
    """A sprite that is known, found in every frame.

    Attributes:
      path: (y, x) centers, as fractions of the canvas.
      sides: of the sprite, as a fraction of the smaller canvas side.
      error: mean squared difference of the frames from a drawing of it there.
    """

    path: Float[np.ndarray, "t 2"]
    sides: Float[np.ndarray, " t"]
    error: float

    @property
    def states(self) -> Float[np.ndarray, "t 3"]:
        """(down, right, growth), in units of what a whole clip of a motion changes."""
        return np.concatenate([self.path / _TRAVEL, self.sides[:, None] / _GROWN], axis=1)


def read_part(video: Float[np.ndarray, "t h w 3"], candidates: Sprites) -> Reading:
    """As `read`, for consecutive frames of a film; see the module docstring.

    Raises:
      ValueError: fewer than 3 frames.
    """
    if len(video) < 3:
        raise ValueError(f"a part of {len(video)} frames shows no motion; give 3 or more.")
    border = _border_color(to_uint8(video).astype(np.float32))
    background = min(candidates.backgrounds, key=lambda n: _distance(border, BACKGROUNDS[n]))
    chosen = np.unique(np.linspace(0, len(video) - 1, _LOOKS).round().astype(int))
    errors = {
        subject: follow(video, subject, background, candidates, chosen).error
        for subject in candidates.subjects
    }
    best = min(errors, key=errors.__getitem__)
    motion = _ramp_motion(follow(video, best, background, candidates).states, candidates.motions)
    empty = np.mean((to_uint8(video[chosen]) - np.array(BACKGROUNDS[background], float)) ** 2)
    return Reading(best, motion, background, float(errors[best] / max(empty, 1e-6)))


def follow(
    video: Float[np.ndarray, "t h w 3"],
    subject: str,
    background: str,
    candidates: Sprites,
    chosen: Int[np.ndarray, " n"] | None = None,
) -> Followed:
    """Where `subject` is in each frame, or in those with the `chosen` numbers, and how large.

    It is drawn where the mass of the frame is, and moved and resized until its drawing has the
    same center and mass: those of a sprite in that pose, half of it outside of the canvas or not.
    """
    chosen = np.arange(len(video)) if chosen is None else chosen
    clip = to_uint8(video[chosen]).astype(np.float32)
    frames, height, width, _ = clip.shape
    shape = dataclasses.replace(candidates.shape, frames=frames, height=height, width=width)
    color = np.array(BACKGROUNDS[background], np.float32)
    centers, masses = _track(_foreground(clip, color))
    loop, found = len(render.frames(subject)), []
    for phase in _PHASES:
        poses = [int(phase * loop + i * ANIMATION_FPS / shape.fps) for i in chosen]
        path, sides = centers, np.full(frames, 0.5)
        for _ in range(4):
            drawn = paint(subject, background, shape, path, sides, poses).astype(np.float32)
            found.append(Followed(path, sides, float(np.mean((drawn - clip) ** 2))))
            seen_centers, seen_masses = _track(_foreground(drawn, color))
            path = np.clip(path + centers - seen_centers, 0.0, 1.0)
            sides = np.clip(sides * np.clip(masses / seen_masses, 0.5, 2.0), 0.1, 1.2)
    return min(found, key=lambda one: one.error)


def smaller(
    clip: Float[np.ndarray, "t h w c"], pixels: int = 32, frames: int = 8
) -> Float[np.ndarray, "t2 h2 w2 c"]:
    """About so many pixels a side and frames, if there are more: `read` is slow on large clips."""
    clip = clip[:: max(1, len(clip) // frames)]
    factor = max(1, clip.shape[1] // pixels)
    t, h, w, c = clip.shape
    return clip.reshape(t, h // factor, factor, w // factor, factor, c).mean((2, 4))


def accuracy(readings: Sequence[Reading], truth: Sequence[Triple]) -> dict[str, float]:
    """Share of clips read right: subject, motion, background, and all three at once."""
    if not readings or len(readings) != len(truth):
        raise ValueError(f"{len(readings)} readings for {len(truth)} true triples.")
    right = np.array([np.equal(r.triple, t) for r, t in zip(readings, truth, strict=True)])
    shares = dict(zip(("subject", "motion", "background"), right.mean(0).tolist(), strict=True))
    return shares | {"all": float(right.all(1).mean())}


def _border_color(clip: Float[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "3"]:
    edges = (clip[:, :1], clip[:, -1:], clip[:, :, :1], clip[:, :, -1:])
    return np.median(np.concatenate([e.reshape(-1, 3) for e in edges]), axis=0)


def _distance(a: Float[np.ndarray, "c"], b: Sequence[int]) -> float:
    return float(np.sum((np.asarray(a, float) - np.asarray(b, float)) ** 2))


def _foreground(
    clip: Float[np.ndarray, "t h w 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "t h w"]:
    """How much each pixel differs from the background, in [0, 1]; noise below 0.15 is cut."""
    difference = np.max(np.abs(clip - background), axis=-1) / 255.0
    return np.where(difference > 0.15, difference, 0.0)


def _track(
    weight: Float[np.ndarray, "t h w"],
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, "t"]]:
    """Centers of mass (y, x) as fractions of the canvas, and sizes √(mass), per frame."""
    t, h, w = weight.shape
    mass = weight.sum((1, 2)) + 1e-6
    y = (weight.sum(2) * (np.arange(h) + 0.5)).sum(1) / mass / h
    x = (weight.sum(1) * (np.arange(w) + 0.5)).sum(1) / mass / w
    return np.stack([y, x], axis=1), np.sqrt(mass)


def _change(values: Float[np.ndarray, "t *x"]) -> Float[np.ndarray, "*x"]:
    """Change from the first to the last frame along a least-squares line."""
    time = np.linspace(-0.5, 0.5, len(values))
    return np.asarray(np.tensordot(time, values, 1) / np.sum(time**2))


def _nearest_motion(
    centers: Float[np.ndarray, "t 2"], sizes: Float[np.ndarray, "t"], names: Sequence[str]
) -> str:
    travel = _change(centers) / _TRAVEL
    growth = _change(sizes) / (2 * GROWTH * max(float(sizes.mean()), 1e-6))
    seen = np.array([*travel, growth])
    return min(names, key=lambda name: _distance(seen, MOTIONS[name]))


def _ramp_motion(states: Float[np.ndarray, "t 3"], names: Sequence[str]) -> str:
    """The direction of the ramp that fits best, whatever its speed."""
    states = states - states.mean(0)
    fits = []
    for length in range(1, len(states)):
        ramp = np.minimum(np.arange(len(states)) / length, 1.0)
        ramp = ramp - ramp.mean()
        change = ramp @ states / (ramp @ ramp)
        fits.append((float(np.sum((states - ramp[:, None] * change) ** 2)), change))
    change = min(fits, key=lambda fit: fit[0])[1]
    largest = float(np.abs(change).max())
    if largest < _MOVES and "standing still" in names:
        return "standing still"
    moves = [name for name in names if any(MOTIONS[name])] or list(names)
    return min(moves, key=lambda name: _distance(change / max(largest, 1e-6), MOTIONS[name]))


def _synthesis_error(
    clip: Float[np.ndarray, "t h w 3"],
    weight: Float[np.ndarray, "t h w"],
    subject: str,
    motion: str,
    background: str,
    sprites: Sprites,
) -> float:
    """The smallest mean squared error over sizes and phases, each centered on the clip's path."""
    shape = dataclasses.replace(
        sprites.shape, frames=clip.shape[0], height=clip.shape[1], width=clip.shape[2]
    )
    target = _track(weight)[0].mean(0)
    travel = float(np.clip(np.abs(_change(_track(weight)[0])).max(), 0.3, 0.6))
    best = np.inf
    for scale, phase in itertools.product(_SCALES, _PHASES):
        scene = SpriteScene(
            subject=subject,
            motion=motion,
            background=background,
            middle=(0.5, 0.5),
            travel=travel,
            scale=scale,
            phase=phase,
        )
        drawn = sprites.render(scene, shape)
        offset = target - _mean_center(drawn, background)
        middle = (0.5 + float(offset[0]), 0.5 + float(offset[1]))
        drawn = sprites.render(dataclasses.replace(scene, middle=middle), shape)
        best = min(best, float(np.mean((drawn.astype(np.float32) - clip) ** 2)))
    return best


def _mean_center(drawn: UInt8[np.ndarray, "t h w 3"], background: str) -> Float[np.ndarray, "2"]:
    color = np.array(BACKGROUNDS[background], np.float32)
    return _track(_foreground(drawn.astype(np.float32), color))[0].mean(0)
