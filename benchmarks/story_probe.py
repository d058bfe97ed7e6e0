"""Reads a film of a sprite part by part, for benchmarks/story_strip.py.

`read_part` reads consecutive frames of a film, where the sprite is anywhere, of any size, and may
stand at a wall in the end. Each candidate subject is followed: drawn over what is seen, frame by
frame at its center and size. Those of the best one are fitted by a ramp of m frames followed by
rest, for every m; the direction of the best ramp is the motion.

A motion changes at frame n where the move from frame n - 1 to frame n is the first of another one.
Near the planned frame the states s of the sprite (`SpriteTrack`) are fitted, for all h, by

    s(k) = s(h) + before * min(k - h, 0) + after * max(k - h, 0)

and the best h + 1 is that frame, unless `before` and `after` are alike. A picture changes where two
frames differ far more than those around them do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vidgen.data.video.transforms import to_uint8
from vidgen.sprites import probe, render, scenes
from vidgen.sprites.probe import TRAVEL, Reading
from vidgen.sprites.scenes import ANIMATION_FPS, BACKGROUNDS, GROWTH, MOTIONS, SpriteScene, paint
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

REACH = 6  # frames on both sides of the planned one to look at
_PHASES = (0.0, 0.25, 0.5, 0.75)
_GROWN = 0.575 * 2 * GROWTH  # change of a side, in the middle of the range that Sprites draws from
_MOVES = 0.15  # of the way of a whole clip: a part that changes less stands still
_LOOKS = 6  # frames of a part to compare with candidates
_STANDS_OUT = 3.0  # times the median difference of neighboring frames
_LEAST_CUT = 0.03  # mean difference in [-1, 1]: more than a sprite of half the canvas in motion


class SpriteTrack(NamedTuple):
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
        return np.concatenate([self.path / TRAVEL, self.sides[:, None] / _GROWN], axis=1)


def read_part(video: Float[np.ndarray, "t h w 3"], candidates: Sprites) -> Reading:
    """As `read`, for consecutive frames of a film; see the module docstring.

    Raises:
      ValueError: fewer than 3 frames.
    """
    if len(video) < 3:
        raise ValueError(f"a part of {len(video)} frames shows no motion; give 3 or more.")
    border = probe.border_color(to_uint8(video).astype(np.float32))
    background = min(candidates.backgrounds, key=lambda n: probe.distance(border, BACKGROUNDS[n]))
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
) -> SpriteTrack:
    """Where `subject` is in each frame, or in those with the `chosen` numbers, and how large.

    It is drawn where the mass of the frame is, and moved and resized until its drawing has the
    same center and mass: those of a sprite in that pose, half of it outside of the canvas or not.
    """
    chosen = np.arange(len(video)) if chosen is None else chosen
    clip = to_uint8(video[chosen]).astype(np.float32)
    frames, height, width, _ = clip.shape
    shape = dataclasses.replace(candidates.shape, frames=frames, height=height, width=width)
    color = np.array(BACKGROUNDS[background], np.float32)
    centers, masses = probe.track(probe.foreground(clip, color))
    loop, found = len(render.frames(subject)), []
    for phase in _PHASES:
        poses = [int(phase * loop + i * ANIMATION_FPS / shape.fps) for i in chosen]
        path, sides = centers, np.full(frames, 0.5)
        for _ in range(4):
            drawn = paint(subject, background, shape, path, sides, poses).astype(np.float32)
            found.append(SpriteTrack(path, sides, float(np.mean((drawn - clip) ** 2))))
            seen_centers, seen_masses = probe.track(probe.foreground(drawn, color))
            path = np.clip(path + centers - seen_centers, 0.0, 1.0)
            sides = np.clip(sides * np.clip(masses / seen_masses, 0.5, 2.0), 0.1, 1.2)
    return min(found, key=lambda one: one.error)


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
    return min(moves, key=lambda name: probe.distance(change / max(largest, 1e-6), MOTIONS[name]))


def motion_change(
    states: Float[np.ndarray, "t d"], planned: int, least: float, *, reach: int = REACH
) -> int | None:
    """The frame that shows the first move of another motion.

    Args:
      states: where and how large the sprite is in each frame of the film.
      planned: frame near which to look.
      least: smallest change of velocity (per frame, along any axis) that counts.
      reach: frames on either side.

    Returns:
      The number of the frame; None where the sprite just goes on.
    """
    first, last = max(0, planned - reach), min(len(states), planned + reach)
    window = states[first:last]
    k, fits = np.arange(len(window)), []
    for h in range(1, len(window) - 1):
        shape = np.stack([np.ones(len(k)), np.minimum(k - h, 0), np.maximum(k - h, 0)], axis=1)
        weights = np.linalg.lstsq(shape, window, rcond=None)[0]
        error = float(np.sum((window - shape @ weights) ** 2))
        fits.append((error, h, float(np.abs(weights[2] - weights[1]).max())))
    if not fits:
        return None
    _, h, change = min(fits)
    return first + h + 1 if change >= least else None


def picture_change(
    video: Float[np.ndarray, "t h w c"], planned: int, *, reach: int = REACH
) -> int | None:
    """The first frame of another picture, near the planned one; None where there is none."""
    first, last = max(0, planned - reach), min(len(video), planned + reach)
    if last - first < 3:
        return None
    differences = np.abs(np.diff(video[first:last], axis=0)).mean(axis=(1, 2, 3))
    top = int(differences.argmax())
    stands_out = differences[top] > _STANDS_OUT * float(np.median(differences))
    return first + top + 1 if stands_out and differences[top] > _LEAST_CUT else None


def film(
    sprites: Sprites,
    subject: str,
    background: str,
    parts: Sequence[tuple[str, int]],
    rng: np.random.Generator,
) -> tuple[SpriteScene, VideoShape]:
    """What a model should make of a story: one sprite, several motions, in a world with walls.

    Args:
      sprites: the source whose clips the model was trained on.
      subject: a sprite's name.
      background: key of BACKGROUNDS.
      parts: (motion, frames) in their order; the first frame of a part shows its first move.
      rng: draws the place from where the first motion has room, size, speed and phase.

    Returns:
      The scene and its shape, for `render`. Its speed is that of a clip of this source.
    """
    if min(frames for _, frames in parts) < 1:
        raise ValueError(f"a part of a film has 1 frame or more; the parts are {parts}.")
    travel, unit = float(rng.uniform(*sprites.travel)), sprites.frame_time
    lengths = [frames * unit for _, frames in parts]
    lengths[0] -= unit  # its first frame is the place to begin, without a move
    first = min(1.0, lengths[0])
    course = scenes.draw_course(parts[0][0], travel, first, rng)
    walk = tuple((motion, length) for (motion, _), length in zip(parts, lengths, strict=True))
    scene = SpriteScene(
        subject=subject,
        motion=parts[-1][0],
        background=background,
        middle=(0.5, 0.5),
        travel=travel,
        scale=float(rng.uniform(*sprites.scale)),
        phase=float(rng.random()),
        duration=1 / (unit * sprites.shape.fps),
    )
    shape = dataclasses.replace(sprites.shape, frames=sum(frames for _, frames in parts))
    return scene.along(dataclasses.replace(course, parts=walk)), shape
