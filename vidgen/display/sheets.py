"""Frames side by side: of clips, of the scenes of a film, and beside maps of their tokens.

Frames are enlarged without smoothing, so that a model's own pixels are seen.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from vidgen.data.video.transforms import to_uint8
from vidgen.display import shown

MARGIN = 150  # pixels for the names of rows
_LETTERS = 23  # of a name in a line of it
_GAP = 2
_GOLDEN = 0.61803398875  # steps of hue that do not come close to one another soon


@dataclasses.dataclass(frozen=True)
class SceneRow:
    """A stretch of a film.

    Attributes:
      prompt: what it should show.
      begin: its first frame.
      end: its last frame + 1.
    """

    prompt: str
    begin: int
    end: int


# ---- clips ---------------------------------------------------------------------------------------


def frames(
    clips: Mapping[str, np.ndarray] | np.ndarray,
    *,
    captions: Sequence[str] = (),
    columns: int = 8,
    height: int | None = None,
    moments: Float[np.ndarray, "n"] | None = None,
) -> shown.Picture:
    """A sheet with a clip a row, and the same moments of each one below the other.

    Frames are enlarged without smoothing. Where a clip has no frame of its own at a moment, the one
    before is shown, framed in gray: that is what a display would show.

    Args:
      clips: "t h w c" by name, of any sizes and of one length in seconds; or "b t h w c".
      captions: names of the rows of an array.
      columns: how many moments, evenly over the clip.
      height: of a row, in pixels; None is that of the largest clip, but no less than 64.
      moments: others than `columns` says, in [0, 1) of the clip.

    Raises:
      ValueError: there is no clip, or a wrong number of captions.
    """
    rows = clips if isinstance(clips, Mapping) else _named(shown.checked(clips), captions)
    if not rows:
        raise ValueError("there is no clip to show.")
    named = {name: shown.checked(clip)[0] for name, clip in rows.items()}
    side = height or max(64, *(clip.shape[1] for clip in named.values()))
    times = np.arange(columns) / columns if moments is None else moments
    return shown.Picture(_stacked([_row(name, clip, side, times) for name, clip in named.items()]))


def _named(clips: np.ndarray, captions: Sequence[str]) -> dict[str, np.ndarray]:
    names = list(captions) or [f"clip {i}" for i in range(len(clips))]
    if len(names) != len(clips):
        raise ValueError(f"{len(names)} captions for {len(clips)} clips; give one each.")
    numbered = (f"{name}\n#{i}" if names.count(name) > 1 else name for i, name in enumerate(names))
    return dict(zip(numbered, clips, strict=True))


def _row(name: str, clip: np.ndarray, side: int, moments: np.ndarray) -> Image.Image:
    """One clip: its name and size, and its frames at `moments` in [0, 1)."""
    t, h, w, _ = clip.shape
    width = side * w // h
    picture = Image.new("RGB", (MARGIN + len(moments) * (width + _GAP), side + _GAP), "white")
    pen = ImageDraw.Draw(picture)
    lines = [*(line for part in name.split("\n") for line in textwrap.wrap(part, _LETTERS))]
    text = "\n".join([*lines, f"{t} x {h} x {w}"])
    pen.multiline_text((6, side / 2), text, fill="black", anchor="lm", spacing=2)
    for i, moment in enumerate(moments):
        exact = moment * t
        left = MARGIN + i * (width + _GAP)
        picture.paste(_enlarged(clip[int(exact + 1e-6)], side), (left, 0))
        if exact - int(exact + 1e-6) > 1e-6:
            pen.rectangle((left, 0, left + width - 1, side - 1), outline="gray", width=2)
    return picture


def _enlarged(frame: np.ndarray, side: int) -> Image.Image:
    """A frame of so many pixels in height."""
    pixels = to_uint8(frame)
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    width = side * pixels.shape[1] // pixels.shape[0]
    return Image.fromarray(pixels).resize((width, side), Image.Resampling.NEAREST)


def _stacked(rows: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    for i, picture in enumerate(rows):
        sheet.paste(picture, (0, sum(r.height for r in rows[:i])))
    return sheet


# ---- films ---------------------------------------------------------------------------------------


def scenes(
    film: Float[np.ndarray, "t h w c"],
    told: Sequence[SceneRow],
    *,
    columns: int = 14,
    height: int = 96,
    lead: int = 2,
) -> shown.Picture:
    """A film with a scene a row: its prompt, and frames with their numbers.

    A row begins shortly before its scene, whose first frame stands at a red line.

    Args:
      film: in [-1, 1].
      told: its scenes, in order.
      columns: frames of a row, at most.
      height: of a frame on the sheet, in pixels.
      lead: frames of the scene before that a row shows.

    Raises:
      ValueError: there is no scene, or one that ends after the film.
    """
    if not told or max(scene.end for scene in told) > len(film):
        ends = [scene.end for scene in told]
        raise ValueError(f"a film of {len(film)} frames has no scenes that end at {ends}.")
    return shown.Picture(_stacked([_scene(film, scene, height, columns, lead) for scene in told]))


def _scene(film: np.ndarray, scene: SceneRow, side: int, columns: int, lead: int) -> Image.Image:
    """One scene: its prompt above, then at most `columns` frames."""
    begin, lead = scene.begin, min(lead, scene.begin)
    own = np.linspace(begin, scene.end - 1, min(columns - lead, scene.end - begin))
    numbers = [*range(begin - lead, begin), *own.round().astype(int)]
    width = side * film.shape[2] // film.shape[1]
    picture = Image.new("RGB", (columns * (width + 4), side + 34), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((2, 2), f"{begin}-{scene.end - 1}: {scene.prompt}", fill="black")
    for i, number in enumerate(numbers):
        left = i * (width + 4) + 2
        picture.paste(_enlarged(film[number], side), (left, 16))
        color = "gray" if number < begin else "red" if number == begin else "black"
        pen.text((left, side + 17), str(number), fill=color)
        if number == begin:
            pen.line((left - 2, 14, left - 2, side + 30), fill="red", width=3)
    return picture


# ---- tokens --------------------------------------------------------------------------------------


def tokens(
    ids: Int[np.ndarray, "gt gh gw"],
    film: Float[np.ndarray, "t h w c"] | None = None,
    *,
    columns: int = 14,
    height: int = 64,
) -> shown.Picture:
    """Maps of the tokens of a clip, one for each step of time, read like lines of text.

    A code has the same color everywhere, which says nothing else of it. A token that is the one of
    the step before is pale: color shows where the tokenizer saw something change.

    Args:
      ids: the codes of C-ViViT; the first step stands for the first frame alone, each later one for
        as many frames as the patches are long.
      film: the clip they are of; the last frame of each step is then shown above its map.
      columns: steps in a line, at most.
      height: of a map, in pixels.

    Raises:
      ValueError: the film is no clip of so many steps.
    """
    last = None if film is None else _last_frames(len(ids), film)
    colors = _colors(np.asarray(ids))
    side = height + _GAP
    width = height * ids.shape[2] // ids.shape[1] + _GAP
    rows = []
    for start in range(0, len(ids), columns):
        steps = range(start, min(start + columns, len(ids)))
        pictures = [[Image.fromarray(colors[i]) for i in steps]]
        if last is not None:
            pictures.insert(0, [_enlarged(last[i], height) for i in steps])
        row = Image.new("RGB", (min(columns, len(ids)) * width, len(pictures) * side + 14), "white")
        pen = ImageDraw.Draw(row)
        for i, step in enumerate(steps):
            pen.text((i * width, 1), f"step {step}", fill="black")
            for k, line in enumerate(pictures):
                picture = line[i].resize((width - _GAP, height), Image.Resampling.NEAREST)
                row.paste(picture, (i * width, 14 + k * side))
        rows.append(row)
    return shown.Picture(_stacked(rows))


def _last_frames(steps: int, film: np.ndarray) -> Float[np.ndarray, "gt h w c"]:
    """The last frame of each step of time."""
    patch, rest = divmod(len(film) - 1, max(1, steps - 1))
    if rest or (steps == 1 and len(film) > 1):
        raise ValueError(
            f"a film of {len(film)} frames does not have tokens of {steps} steps of time."
        )
    return film[::patch] if patch else film


def _colors(ids: np.ndarray) -> UInt8[np.ndarray, "gt gh gw 3"]:
    """A color for each token; pale where nothing changed."""
    hue = (ids * _GOLDEN) % 1.0
    phase = np.stack([hue, hue + 1 / 3, hue + 2 / 3], axis=-1)
    light = 0.62 + 0.3 * np.sin(2 * math.pi * ((ids * _GOLDEN**2) % 1.0))[..., None] * 0.5
    full = np.clip(light + 0.35 * np.cos(2 * math.pi * phase), 0, 1)
    same = np.zeros(ids.shape, bool)
    same[1:] = ids[1:] == ids[:-1]
    full = np.where(same[..., None], 0.12 * full + 0.88, full)
    return np.rint(255 * full).astype(np.uint8)
