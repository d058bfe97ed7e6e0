"""The content of a sprite clip: who moves how over which background, and how that is drawn.

With u in [0, 1] the time within a clip, center and side are (in units of canvas height, width and
the smaller of both)

    center(u) = middle + direction * travel * (u - 1/2)        side(u) = scale * growth(u)

A `SpriteMotion` is a path of several motions, one after the other, in a world with walls. From time
u₀ to u₁ of one motion, with p the place and g the size relative to `scale`,

    p(u₁) = clip(p(u₀) + direction * travel * (u₁ - u₀), WALLS)
    g(u₁) = clip(g(u₀) + 2 GROWTH * growth * (u₁ - u₀), 1 - GROWTH, 1 + GROWTH)

so both are continuous, the speed is that of a clip, and a sprite that reaches a wall stands there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vidgen.sprites import render as sprite_frames
from vidgen.types import VideoShape

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
WALLS = (0.2, 0.8)  # of a course: where the center may be, along either axis
_LOW = np.array([WALLS[0], WALLS[0], 1 - GROWTH])  # of (y, x, relative size)
_HIGH = np.array([WALLS[1], WALLS[1], 1 + GROWTH])

Part = tuple[str, float]  # a motion and how long it lasts, in units of u


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpriteMotion:
    """A path through a world with walls.

    Attributes:
      begin: (y, x, relative size) at u = 0, within the walls.
      parts: motions in their order, and how long they last; the last one goes on for ever.
      travel: distance covered in a time of 1, as a fraction of height or width.
    """

    begin: tuple[float, float, float]
    parts: tuple[Part, ...]
    travel: float

    def at(self, u: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3"]:
        """Compute place and size at some times.

        Args:
          u: times >= 0; a clip without a `duration` goes from 0 to 1.

        Returns:
          (y, x, relative size) at each, within the walls.
        """
        states = np.empty((len(u), 3))
        place, since = np.array(self.begin), 0.0
        for motion, length in self.parts:
            rate, later = rates(motion, self.travel), u >= since
            states[later] = np.clip(place + (u[later] - since)[:, None] * rate, _LOW, _HIGH)
            place, since = np.clip(place + length * rate, _LOW, _HIGH), since + length
        return states


def rates(motion: str, travel: float) -> Float[np.ndarray, "3"]:
    """Compute how fast a motion changes place and size.

    Args:
      motion: key of MOTIONS.
      travel: distance covered in a time of 1, as a fraction of height or width.

    Returns:
      The change of (y, x, relative size) in a time of 1.
    """
    down, right, growth = MOTIONS[motion]
    return np.array([down * travel, right * travel, 2 * GROWTH * growth])


def draw_course(
    motion: str, travel: float, lead: float, rng: np.random.Generator, *, before: Part | None = None
) -> SpriteMotion:
    """Draw a path that begins anywhere within the walls from where there is room for `motion`.

    Args:
      motion: what happens in the end.
      travel: distance covered in a time of 1.
      lead: for so long `motion` goes on before a wall may stop it.
      rng: draws the place and the size at the beginning.
      before: what happens first, and for how long; None is nothing.

    Returns:
      The path; in half of them the size is the ordinary one, as far as that fits.
    """
    moved = rates(before[0], travel) * before[1] if before else np.zeros(3)
    needed = rates(motion, travel) * lead
    # What happens first ends at clip(begin + moved), and from there `needed` must fit.
    low = np.where(needed < 0, np.maximum(_LOW, _LOW - needed - moved), _LOW)
    high = np.where(needed > 0, np.minimum(_HIGH, _HIGH - needed - moved), _HIGH)
    high = np.maximum(low, high)
    y, x, size = rng.uniform(low, high).tolist()
    if rng.random() < 0.5:  # the ordinary size should stay the commonest
        size = float(np.clip(1.0, low[2], high[2]))
    parts = ((motion, 1.0),)
    return SpriteMotion(
        begin=(y, x, size), parts=(before, *parts) if before else parts, travel=travel
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpriteScene:
    """The content of one clip.

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
      course: the path where there are walls or several motions, `motion` being the last of them;
        it takes the place of `middle`, and `scale` is then the size that its own is relative to.
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
    course: SpriteMotion | None = None

    def along(self, course: SpriteMotion) -> SpriteScene:
        """Send the sprite of this scene along a path.

        Args:
          course: the path.

        Returns:
          The scene; its `middle` is the place at u = 1/2.
        """
        y, x, _ = course.at(np.array([0.5]))[0].tolist()
        return dataclasses.replace(self, middle=(y, x), course=course)

    def path(self, shape: VideoShape) -> Float[np.ndarray, "t 2"]:
        """Compute where the sprite is in each frame.

        Args:
          shape: shape of the clip, of which the number of frames and the rate count.

        Returns:
          (y, x) of the center, as fractions of height and width.
        """
        if self.course is not None:
            return self.course.at(self._times(shape))[:, :2]
        down, right, _ = MOTIONS[self.motion or "standing still"]
        offset = self.travel * (self._times(shape) - 0.5)
        return np.array(self.middle) + offset[:, None] * np.array([down, right], float)

    def sides(self, shape: VideoShape) -> Float[np.ndarray, " t"]:
        """Compute how large the sprite is in each frame.

        Args:
          shape: shape of the clip, as in `path`.

        Returns:
          The side of its square, as a fraction of the smaller canvas side.
        """
        if self.course is not None:
            return self.scale * self.course.at(self._times(shape))[:, 2]
        growth = MOTIONS[self.motion or "standing still"][2] * GROWTH
        return self.scale * (1 + 2 * growth * (self._times(shape) - 0.5))

    def poses(self, shape: VideoShape) -> list[int]:
        """Compute the frame of the sprite's own animation for each frame of the clip.

        Args:
          shape: shape of the clip, as in `path`.

        Returns:
          Numbers of frames; they grow beyond the length of the animation, which loops.
        """
        loop = len(sprite_frames.frames(self.subject))
        elapsed = [(self.start + i / shape.fps) * ANIMATION_FPS for i in range(shape.frames)]
        return [int(self.phase * loop + time) for time in elapsed]

    def render(self, shape: VideoShape) -> UInt8[np.ndarray, "t h w 3"]:
        """Draw the frames of the scene.

        Args:
          shape: shape of the clip; a scene does not depend on resolution or frame rate.

        Returns:
          RGB frames.
        """
        canvas = functools.partial(paint, self.subject, self.background, shape)
        return canvas(self.path(shape), self.sides(shape), self.poses(shape))

    def _times(self, shape: VideoShape) -> Float[np.ndarray, " t"]:
        """Return u of every frame."""
        if self.duration is not None:
            return (self.start + np.arange(shape.frames) / shape.fps) / self.duration
        return np.linspace(0.0, 1.0, shape.frames) if shape.frames > 1 else np.array([0.5])


def paint(
    subject: str,
    background: str,
    shape: VideoShape,
    path: Float[np.ndarray, "t 2"],
    sides: Float[np.ndarray, " t"],
    poses: Sequence[int],
) -> UInt8[np.ndarray, "t h w 3"]:
    """Draw frames with a sprite at these places, of these sizes and in these poses.

    Args:
      subject: sprite name.
      background: key of BACKGROUNDS.
      shape: shape of the video.
      path: centers, as `SpriteScene.path` gives them.
      sides: as `SpriteScene.sides` gives them.
      poses: frames of the sprite's own animation.

    Returns:
      RGB frames.
    """
    video = np.empty(shape.thwc, np.uint8)
    video[:] = BACKGROUNDS[background]
    centers = path * np.array([shape.height, shape.width])
    sizes = sides * min(shape.height, shape.width)
    for canvas, (y, x), size, pose in zip(video, centers, sizes, poses, strict=True):
        sprite_frames.paste(canvas, subject, pose, (float(y), float(x)), float(size))
    return video
