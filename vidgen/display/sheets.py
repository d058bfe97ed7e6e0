"""Sheets of frames: of clips, of the scenes of a story, and beside maps of their tokens.

Frames are enlarged without smoothing, so that the model's own pixels can be seen.
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
_LINES = 3  # of a caption on a sheet of contacts
_GOLDEN = 0.61803398875  # steps of hue that do not come close to one another soon


@dataclasses.dataclass(frozen=True)
class SceneRow:
    """A scene of a story in a video.

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
    """Draw a row for each clip, with frames of the same moments below each other.

    Where a clip has no frame of its own at a moment, the one before is drawn in a gray frame: that
    is what a display would show.

    Args:
      clips: "t h w c" by name, of any sizes and of one length in seconds; or "b t h w c"; in [-1,
        1].
      captions: names of the rows of an array.
      columns: number of moments, evenly over the clip.
      height: height of a row, in pixels; None is that of the largest clip, but no less than 64.
      moments: places in [0, 1) of the clip, in place of `columns`.

    Returns:
      The sheet.

    Raises:
      ValueError: there is no clip, or not one caption per clip.
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
    """Draw one clip: its name and size, and its frames at `moments` in [0, 1)."""
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
    """Enlarge a frame to a height of `side` pixels."""
    pixels = to_uint8(frame)
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    width = side * pixels.shape[1] // pixels.shape[0]
    return Image.fromarray(pixels).resize((width, side), Image.Resampling.NEAREST)


def _stacked(rows: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    for i, picture in enumerate(rows):
        sheet.paste(picture, (0, sum(r.height for r in rows[:i])))
    return sheet


def contacts(
    clips: Sequence[tuple[str, np.ndarray]], *, columns: int = 2, moments: int = 4
) -> shown.Picture:
    """Draw clips like contact prints: frames of each side by side, its caption above.

    Args:
      clips: (caption, frames "t h w c" in [-1, 1]), all of one size.
      columns: columns of clips on the sheet.
      moments: frames of a clip that are drawn, evenly over it.

    Returns:
      The sheet.

    Raises:
      ValueError: there is no clip.
    """
    if not clips:
        raise ValueError("there is no clip to show.")
    width = max(240, moments * (clips[0][1].shape[2] + _GAP)) + 12
    texts = [_wrapped(caption, width // 7) for caption, _ in clips]
    room = 14 * max(len(lines) for lines in texts)
    cells = [
        _contact(lines, shown.checked(video)[0], moments, (width, room))
        for lines, (_, video) in zip(texts, clips, strict=True)
    ]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return shown.Picture(_stacked([_beside(row, columns) for row in rows]))


def _wrapped(caption: str, letters: int) -> list[str]:
    """Break a caption into lines, with a mark where its end does not fit."""
    lines = textwrap.wrap(caption, letters) or ["(no caption)"]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], lines[_LINES - 1][: letters - 1] + "…"]
    return lines


def _contact(
    lines: Sequence[str], video: np.ndarray, moments: int, room: tuple[int, int]
) -> Image.Image:
    """Draw one clip of a sheet, `room[0]` pixels wide, below `room[1]` pixels for its caption."""
    t, h, w, _ = video.shape
    width, top = room
    picture = Image.new("RGB", (width, top + h + 10), "white")
    pen = ImageDraw.Draw(picture)
    pen.multiline_text((4, top - 2), "\n".join(lines), fill="black", anchor="ld", spacing=2)
    for i, number in enumerate(sorted({k * t // moments for k in range(moments)})):
        picture.paste(_enlarged(video[number], h), (4 + i * (w + _GAP), top))
    return picture


def _beside(pictures: Sequence[Image.Image], places: int) -> Image.Image:
    """Put pictures of one size side by side; places that none takes stay white."""
    width, height = pictures[0].size
    row = Image.new("RGB", (places * width, height), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * width, 0))
    return row


# ---- stories -------------------------------------------------------------------------------------


def scenes(
    video: Float[np.ndarray, "t h w c"],
    rows: Sequence[SceneRow],
    *,
    columns: int = 14,
    height: int = 96,
    lead: int = 2,
) -> shown.Picture:
    """Draw a row for each scene of a story: its prompt, and frames with their numbers.

    A row begins shortly before its scene, whose first frame has a red line at its left.

    Args:
      video: in [-1, 1].
      rows: its scenes, in order.
      columns: the largest number of frames in a row.
      height: height of a frame on the sheet, in pixels.
      lead: number of frames of the scene before that a row shows.

    Returns:
      The sheet.

    Raises:
      ValueError: there is no scene, or one ends after the video.
    """
    if not rows or max(scene.end for scene in rows) > len(video):
        ends = [scene.end for scene in rows]
        raise ValueError(f"a video of {len(video)} frames has no scenes that end at {ends}.")
    return shown.Picture(_stacked([_scene(video, scene, height, columns, lead) for scene in rows]))


def _scene(video: np.ndarray, scene: SceneRow, side: int, columns: int, lead: int) -> Image.Image:
    """Draw one scene: its prompt above, then at most `columns` frames."""
    begin, lead = scene.begin, min(lead, scene.begin)
    inside = np.linspace(begin, scene.end - 1, min(columns - lead, scene.end - begin))
    numbers = [*range(begin - lead, begin), *inside.round().astype(int)]
    width = side * video.shape[2] // video.shape[1]
    picture = Image.new("RGB", (columns * (width + 4), side + 34), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((2, 2), f"{begin}-{scene.end - 1}: {scene.prompt}", fill="black")
    for i, number in enumerate(numbers):
        left = i * (width + 4) + 2
        picture.paste(_enlarged(video[number], side), (left, 16))
        color = "gray" if number < begin else "red" if number == begin else "black"
        pen.text((left, side + 17), str(number), fill=color)
        if number == begin:
            pen.line((left - 2, 14, left - 2, side + 30), fill="red", width=3)
    return picture


# ---- tokens --------------------------------------------------------------------------------------


def tokens(
    ids: Int[np.ndarray, "gt gh gw"],
    video: Float[np.ndarray, "t h w c"] | None = None,
    *,
    columns: int = 14,
    height: int = 64,
) -> shown.Picture:
    """Draw a map of the tokens of a clip for each step of time, in lines like text.

    A code has the same color everywhere; colors mean nothing else. A token that equals the one of
    the step before is pale, so that color shows where the tokenizer saw a change.

    Args:
      ids: the codes of C-ViViT; the first step stands for the first frame alone, each later one for
        as many frames as the patches are long.
      video: the clip in [-1, 1]; the last frame of each step is drawn above its map.
      columns: the largest number of steps in a line.
      height: height of a map, in pixels.

    Returns:
      The sheet.

    Raises:
      ValueError: the video does not have as many steps.
    """
    last = None if video is None else _last_frames(len(ids), video)
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


def _last_frames(steps: int, video: np.ndarray) -> Float[np.ndarray, "gt h w c"]:
    """Return the last frame of each step of time."""
    patch, rest = divmod(len(video) - 1, max(1, steps - 1))
    if rest or (steps == 1 and len(video) > 1):
        raise ValueError(
            f"a video of {len(video)} frames does not have tokens of {steps} steps of time."
        )
    return video[::patch] if patch else video


def _colors(ids: np.ndarray) -> UInt8[np.ndarray, "gt gh gw 3"]:
    """Return a color for each token, pale where nothing changed."""
    hue = (ids * _GOLDEN) % 1.0
    phase = np.stack([hue, hue + 1 / 3, hue + 2 / 3], axis=-1)
    light = 0.62 + 0.3 * np.sin(2 * math.pi * ((ids * _GOLDEN**2) % 1.0))[..., None] * 0.5
    full = np.clip(light + 0.35 * np.cos(2 * math.pi * phase), 0, 1)
    same = np.zeros(ids.shape, bool)
    same[1:] = ids[1:] == ids[:-1]
    full = np.where(same[..., None], 0.12 * full + 0.88, full)
    return np.rint(255 * full).astype(np.uint8)
