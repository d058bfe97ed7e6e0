"""Cuts a film into its shots, as folders to train on and to test on; measures how cuts are found.

    python benchmarks/shots.py film.mp4 shots.json -o shots/ --last_frame=11500 \\
        --captions=benchmarks/big_buck_bunny_captions.csv
    vidgen train --gin_file=experiments/phenaki_cvivit_demo.gin --gin_file=data/folder.gin \\
        --gin.DATA_DIR="'shots/train'" ...
    python benchmarks/shots.py film.mp4 shots.json --score --last_frame=11500

shots.json is a list of [first frame, last frame + 1]; without it, cuts are found. Every
fifth shot goes to OUTPUT/held_out, the others to OUTPUT/train: split by shot, since frames of one
shot look alike. Each is written as shot_NNN.mp4 in its own size and frame rate, and where a table
of captions is given (columns `shot`, its number, and `caption`), beside a captions.csv.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidgen.data.video.frames import StreamedFrame, stream_frames
from vidgen.data.video.stream import VideoStream
from vidgen.precompute.shots import THUMBNAIL, CutDetector, Shot, by_detection, by_list, read_shots

EVERY = 5


def found_shots(film: Path) -> Iterator[tuple[int, StreamedFrame]]:
    """(number of the shot, frame) of all frames, as `vidgen prepare` finds them."""
    return by_detection(stream_frames(film), lambda f: f.thumbnail(*THUMBNAIL), CutDetector())


def cut(
    film: Path, shots: list[Shot] | None, output: Path, limit: int | None, least: int
) -> dict[str, int]:
    """Writes the shots of at least `least` frames; how many frames went into each folder."""
    counts = {"train": 0, "held_out": 0}
    if shots is None:
        marked = found_shots(film)
    else:
        marked = by_list(stream_frames(film), [s for s in shots if limit is None or s[1] <= limit])
    index = 0
    for _, group in itertools.groupby(marked, key=lambda found: found[0]):
        shot: list[np.ndarray] = []
        for _, last in group:
            shot.append(last.image.to_ndarray(format="rgb24"))
        if limit is not None and last.number >= limit:
            break
        if len(shot) < least:
            continue
        folder = "train" if index % EVERY else "held_out"
        path = output / folder / f"shot_{index:03}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoStream(path, 1 / last.step, *shot[0].shape[:2]) as stream:
            stream.append(np.stack(shot))
        counts[folder] += len(shot)
        index += 1
    return counts


def write_captions(table: Path, output: Path) -> None:
    """Write captions.csv into the folder of each shot that the table has a caption for."""
    with table.open(encoding="utf-8", newline="") as file:
        captions = {int(row["shot"]): row["caption"] for row in csv.DictReader(file)}
    for folder in (output / "train", output / "held_out"):
        with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("file", "caption"))
            for path in sorted(folder.glob("shot_*.mp4")):
                if caption := captions.get(int(path.stem.removeprefix("shot_"))):
                    rows.writerow((path.name, caption))


def score(film: Path, shots: list[Shot], limit: int | None, within: int) -> str:
    """How many of the true cuts are found, to `within` frames, and of the found ones are true."""
    end = limit or shots[-1][1]
    truth = {first for first, _ in shots if 0 < first < end}
    found, current = [], 0
    for shot, frame in found_shots(film):
        if frame.number >= end:
            break
        if shot != current:
            found.append(frame.number)
            current = shot
    left, wrong = set(truth), []
    for place in found:
        near = [cut for cut in left if abs(cut - place) <= within]
        if near:
            left.remove(min(near, key=lambda cut: abs(cut - place)))
        else:
            wrong.append(place)
    right = len(found) - len(wrong)
    return (
        f"{len(truth)} cuts, {len(found)} found, {right} of them true to {within} frames: "
        f"precision {right / max(1, len(found)):.3f}, recall {right / max(1, len(truth)):.3f}\n"
        f"wrong: {wrong}\nmissed: {sorted(left)}"
    )


def main() -> None:
    """Read the flags, cut, say how much there is; or say how well cuts are found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("film", type=Path)
    parser.add_argument("shots", type=Path, nargs="?", help="[[first frame, last frame + 1], ...]")
    parser.add_argument("-o", "--output", type=Path, default=Path("shots"))
    parser.add_argument("--last_frame", type=int, help="leave out shots that end after this frame")
    parser.add_argument("--least", type=int, default=34, help="leave out shots of fewer frames")
    parser.add_argument("--captions", type=Path, help="CSV of shot and caption")
    parser.add_argument("--score", action="store_true", help="compare found cuts with the given")
    parser.add_argument("--within", type=int, default=2, help="frames that a cut may be off")
    flags = parser.parse_args()
    shots = None if flags.shots is None else read_shots(flags.shots)
    if flags.score:
        if shots is None:
            parser.error("--score compares with given shots; name the file of them")
        print(score(flags.film, shots, flags.last_frame, flags.within))
        return
    for folder, count in cut(
        flags.film, shots, flags.output, flags.last_frame, flags.least
    ).items():
        print(f"{flags.output / folder}: {count} frames")
    if flags.captions:
        write_captions(flags.captions, flags.output)


if __name__ == "__main__":
    main()
