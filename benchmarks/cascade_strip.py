"""Draws what every stage of a cascade made of one clip, one stage a row, the same moments in each.

    vidgen generate "a tiger moving right on a green background" --model=runs/cascade \
        -o strip/tiger.npy --keep_stages
    python benchmarks/cascade_strip.py strip/tiger.npy -o strip.png

A row is as high as the frames of the last stage; smaller frames are enlarged without smoothing, so
that each stage's own pixels are seen. Where a stage has no frame of its own at a moment, the one
before is shown, framed in gray: that is what a display would show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vidgen.data.transforms import to_uint8
from vidgen.types import STAGES

MARGIN = 150


def videos(path: Path) -> dict[str, np.ndarray]:
    """The kept videos of all stages beside `path`, in order; `path` is the last one's."""
    found = {}
    for stage in STAGES:
        kept = path.with_name(f"{path.stem}.{stage}{path.suffix}")
        if kept.exists():
            found[stage] = np.load(kept)
    last = STAGES[STAGES.index(list(found)[-1]) + 1] if found else STAGES[-1]
    return found | {last: np.load(path)}


def row(name: str, video: np.ndarray, side: int, moments: np.ndarray) -> Image.Image:
    """One stage: its name and size, and its frames at `moments` in [0, 1)."""
    t, h, w, _ = video.shape
    width = side * w // h
    picture = Image.new("RGB", (MARGIN + len(moments) * (width + 2), side + 2), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((6, side / 2 - 14), f"{name}\n{t} x {h} x {w}", fill="black")
    for i, moment in enumerate(moments):
        exact = moment * t
        frame = Image.fromarray(to_uint8(video[int(exact + 1e-6)]))
        left = MARGIN + i * (width + 2)
        picture.paste(frame.resize((width, side), Image.Resampling.NEAREST), (left, 0))
        if exact - int(exact + 1e-6) > 1e-6:
            pen.rectangle((left, 0, left + width - 1, side - 1), outline="gray", width=2)
    return picture


def main() -> None:
    """Read the flags, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("video", type=Path, help="the .npy that vidgen generate wrote")
    parser.add_argument("-o", "--output", type=Path, default=Path("strip.png"))
    parser.add_argument("--columns", type=int, default=8)
    flags = parser.parse_args()
    found = videos(flags.video)
    last = list(found.values())[-1]
    # Eighths and so on of the clip, moved by one frame of the last stage: half of the moments lie
    # between two frames of the first.
    moments = (np.arange(flags.columns) * last.shape[0] / flags.columns).astype(int)
    moments = (moments + np.arange(flags.columns) % 2 * (last.shape[0] // 32)) / last.shape[0]
    rows = [row(name, video, last.shape[1], moments) for name, video in found.items()]
    sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)), "white")
    for i, picture in enumerate(rows):
        sheet.paste(picture, (0, i * picture.height))
    sheet.save(flags.output)
    print(flags.output)


if __name__ == "__main__":
    main()
