"""Reads a sprite clip back: which subject, motion and background does it show?

The probe inverts the generator (sprites.py) by hand. A trained classifier would need weights, and
could share a model's mistakes:

    background  the palette color nearest to the median of the border pixels
    motion      center of mass of what differs from the background, frame by frame; a straight line
                through the centers, and through the sizes, gives (down, right, growth), and the
                nearest entry of MOTIONS is the answer
    subject     analysis by synthesis: each candidate is rendered along that path at a few sizes
                and phases of its animation; the one with the smallest squared error is the answer

On true clips of 8x16x16 it reads all three right in over 95 % (tests/sprites/test_probe.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vidgen.data.video.transforms import to_uint8
from vidgen.sprites.scenes import BACKGROUNDS, GROWTH, MOTIONS, SpriteScene
from vidgen.sprites.split import Triple
from vidgen.sprites.sprites import Sprites

_SCALES = (0.46, 0.52, 0.58, 0.64)  # over the range that Sprites draws from
_PHASES = (0.0, 0.25, 0.5, 0.75)
TRAVEL = 0.45  # the middle of the range that Sprites draws from


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the probe reads in one clip.

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
    """Read what a clip shows, out of the names that a source can draw.

    Args:
      video: the clip in [-1, 1], of any size; time grows with its pixels and the number of
        subjects.
      candidates: the source whose subjects, motions and backgrounds come into question.

    Returns:
      The nearest subject, motion and background, and how badly they fit.
    """
    clip = to_uint8(video).astype(np.float32)
    border = border_color(clip)
    background = min(candidates.backgrounds, key=lambda n: distance(border, BACKGROUNDS[n]))
    weight = foreground(clip, border)
    centers, sizes = track(weight)
    motion = _nearest_motion(centers, sizes, candidates.motions)
    errors = {
        subject: _synthesis_error(clip, weight, subject, motion, background, candidates)
        for subject in candidates.subjects
    }
    best = min(errors, key=errors.__getitem__)
    empty = np.mean((clip - np.array(BACKGROUNDS[background], np.float32)) ** 2)
    return Reading(best, motion, background, float(errors[best] / max(empty, 1e-6)))


def smaller(
    clip: Float[np.ndarray, "t h w c"], pixels: int = 32, frames: int = 8
) -> Float[np.ndarray, "t2 h2 w2 c"]:
    """Reduce the size of a clip by whole factors: `read` is slow on large clips.

    Args:
      clip: frames in [-1, 1].
      pixels: about the height that is left.
      frames: about the number of frames that is left.

    Returns:
      Every n-th frame, averaged over squares of pixels that divide height and width; no smaller
      than `pixels` and `frames`.
    """
    clip = clip[:: max(1, len(clip) // frames)]
    t, h, w, c = clip.shape
    divisors = (n for n in range(1, h // pixels + 1) if h % n == 0 and w % n == 0)
    factor = max(divisors, default=1)
    return clip.reshape(t, h // factor, factor, w // factor, factor, c).mean((2, 4))


def accuracy(readings: Sequence[Reading], truth: Sequence[Triple]) -> dict[str, float]:
    """Compute the share of clips that are read right.

    Args:
      readings: of `read`.
      truth: what each clip shows.

    Returns:
      Shares from 0 to 1 of "subject", "motion", "background", and "all" three at once.

    Raises:
      ValueError: there is not one true triple for each reading.
    """
    if not readings or len(readings) != len(truth):
        raise ValueError(f"{len(readings)} readings for {len(truth)} true triples.")
    right = np.array([np.equal(r.triple, t) for r, t in zip(readings, truth, strict=True)])
    shares = dict(zip(("subject", "motion", "background"), right.mean(0).tolist(), strict=True))
    return shares | {"all": float(right.all(1).mean())}


def border_color(clip: Float[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "3"]:
    """Compute the median color of the border pixels.

    Args:
      clip: frames with values from 0 to 255.

    Returns:
      (red, green, blue).
    """
    edges = (clip[:, :1], clip[:, -1:], clip[:, :, :1], clip[:, :, -1:])
    return np.median(np.concatenate([e.reshape(-1, 3) for e in edges]), axis=0)


def distance(a: Float[np.ndarray, "c"], b: Sequence[int]) -> float:
    """Compute the squared Euclidean distance of two vectors.

    Args:
      a: a vector, such as a color.
      b: another, of the same length.

    Returns:
      The squared distance.
    """
    return float(np.sum((np.asarray(a, float) - np.asarray(b, float)) ** 2))


def foreground(
    clip: Float[np.ndarray, "t h w 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "t h w"]:
    """Compute how much each pixel differs from the background.

    Args:
      clip: frames with values from 0 to 255.
      background: its color.

    Returns:
      The largest difference of a channel, from 0 to 1; differences up to 0.15 are 0.
    """
    difference = np.max(np.abs(clip - background), axis=-1) / 255.0
    return np.where(difference > 0.15, difference, 0.0)


def track(
    weight: Float[np.ndarray, "t h w"],
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, "t"]]:
    """Compute where the foreground is in each frame, and how large.

    Args:
      weight: how much a pixel belongs to the foreground, >= 0, as of `foreground`.

    Returns:
      Centers of mass (y, x) as fractions of height and width, and sizes √(mass) in pixels.
    """
    t, h, w = weight.shape
    mass = weight.sum((1, 2)) + 1e-6
    y = (weight.sum(2) * (np.arange(h) + 0.5)).sum(1) / mass / h
    x = (weight.sum(1) * (np.arange(w) + 0.5)).sum(1) / mass / w
    return np.stack([y, x], axis=1), np.sqrt(mass)


def _change(values: Float[np.ndarray, "t *x"]) -> Float[np.ndarray, "*x"]:
    """Compute the change from the first to the last frame along a least-squares line."""
    time = np.linspace(-0.5, 0.5, len(values))
    return np.asarray(np.tensordot(time, values, 1) / np.sum(time**2))


def _nearest_motion(
    centers: Float[np.ndarray, "t 2"], sizes: Float[np.ndarray, "t"], names: Sequence[str]
) -> str:
    travel = _change(centers) / TRAVEL
    growth = _change(sizes) / (2 * GROWTH * max(float(sizes.mean()), 1e-6))
    seen = np.array([*travel, growth])
    return min(names, key=lambda name: distance(seen, MOTIONS[name]))


def _synthesis_error(
    clip: Float[np.ndarray, "t h w 3"],
    weight: Float[np.ndarray, "t h w"],
    subject: str,
    motion: str,
    background: str,
    sprites: Sprites,
) -> float:
    """Find the smallest mean squared error over sizes and phases, all along the clip's path."""
    shape = dataclasses.replace(
        sprites.shape, frames=clip.shape[0], height=clip.shape[1], width=clip.shape[2]
    )
    target = track(weight)[0].mean(0)
    travel = float(np.clip(np.abs(_change(track(weight)[0])).max(), 0.3, 0.6))
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
    return track(foreground(drawn.astype(np.float32), color))[0].mean(0)
