"""Cuts a film into its shots, as folders to train on and to test on.

    python benchmarks/shots.py film.mp4 shots.json -o shots/ --last_frame=11500
    vidgen train --gin_file=experiments/phenaki_cvivit_demo.gin --gin_file=data/folder.gin \\
        --gin.DATA_DIR="'shots/train'" --gin.FolderSource.missing_captions="'empty'" ...

shots.json is a list of [first frame, last frame + 1]. Every fifth shot goes to OUTPUT/held_out, the
others to OUTPUT/train: split by shot, since frames of one shot look alike. Each is written as
shot_NNN.mp4 in its own size and frame rate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np

from vidgen.data.video_stream import VideoStream

EVERY = 5


def frames_of(path: Path):
    """(number, uint8 frame) of all frames of a film, in order."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            yield number, frame.to_ndarray(format="rgb24")


def cut(film: Path, shots: list[tuple[int, int]], output: Path) -> dict[str, int]:
    """Writes the shots; how many frames went into each folder."""
    counts = {"train": 0, "held_out": 0}
    with av.open(str(film)) as container:
        rate = float(container.streams.video[0].average_rate or 24)
    numbered, frames = iter(enumerate(shots)), frames_of(film)
    current = next(numbered, None)
    shot: list[np.ndarray] = []
    for number, frame in frames:
        if current is None:
            break
        index, (first, end) = current
        if first <= number < end:
            shot.append(frame)
        if number == end - 1:
            folder = "train" if index % EVERY else "held_out"
            path = output / folder / f"shot_{index:03}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with VideoStream(path, rate, *frame.shape[:2]) as stream:
                stream.append(np.stack(shot))
            counts[folder] += len(shot)
            current, shot = next(numbered, None), []
    return counts


def main() -> None:
    """Read the flags, cut, say how much there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("film", type=Path)
    parser.add_argument("shots", type=Path, help="a JSON list of [first frame, last frame + 1]")
    parser.add_argument("-o", "--output", type=Path, default=Path("shots"))
    parser.add_argument("--last_frame", type=int, help="leave out shots that end after this frame")
    parser.add_argument("--least", type=int, default=34, help="leave out shots of fewer frames")
    flags = parser.parse_args()
    shots = [tuple(shot) for shot in json.loads(flags.shots.read_text())]
    limit = flags.last_frame or shots[-1][1]
    long = [shot for shot in shots if shot[1] <= limit and shot[1] - shot[0] >= flags.least]
    for folder, count in cut(flags.film, long, flags.output).items():
        print(f"{flags.output / folder}: {count} frames")


if __name__ == "__main__":
    main()
