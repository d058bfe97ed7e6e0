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

from vidgen.display import sheets
from vidgen.types import STAGES


def videos(path: Path) -> dict[str, np.ndarray]:
    """The kept videos of all stages beside `path`, in order; `path` is the last one's."""
    found = {}
    for stage in STAGES:
        kept = path.with_name(f"{path.stem}.{stage}{path.suffix}")
        if kept.exists():
            found[stage] = np.load(kept)
    last = STAGES[STAGES.index(list(found)[-1]) + 1] if found else STAGES[-1]
    return found | {last: np.load(path)}


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
    sheets.frames(found, moments=moments).save(flags.output)
    print(flags.output)


if __name__ == "__main__":
    main()
