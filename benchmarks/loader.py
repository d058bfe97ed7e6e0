"""How fast clips are loaded, and in how much memory: a folder and tar shards, beside plain PyAV.

    python benchmarks/loader.py                                       # clips that are made for it
    python benchmarks/loader.py --folder=videos --shards='shards/*.tar' --shape=16x64x64@8
    python benchmarks/loader.py --workers=2 --clips=10000 --rows=tar  # is memory flat?

A row is a process of its own: a source, read by the training pipeline with so many worker processes
in random order, or by PyAV alone. Linux only.

    clips/s     after the first batches, which start the workers
    decoded     MB of uint8 clips a second, at the size of --shape
    encoded     MB of files that clips were cut from, a second
    start       seconds until the first batch
    peak        the most memory that the process and its workers have at any time, in MiB, shared
                pages counted once for each
    steady      likewise the mean over the second half of the clips
    growth      the mean over the last tenth of the clips less that over the second tenth
    CPU         CPU time of all processes for wall-clock time
    skipped     bad examples

"PyAV" is a loop over the same files: from the key frame before a random start it decodes every
frame to the end of the clip, and makes those that are wanted RGB at full size. It does not resize,
batch or read captions.

Clips that are made are textures that move, H.264 at --made_size and 24 fps, --made of them, the
same in the folder and in the shards. One JSON line a row goes to --output, a Markdown table to
standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidgen.data.pipeline import Pipeline
from vidgen.data.sources.folder import FolderSource
from vidgen.data.sources.tar_shards import TarShards
from vidgen.data.video import transforms
from vidgen.data.video.encode import write_video
from vidgen.data.video.files import PILLOW_SUFFIXES, VIDEO_SUFFIXES, probe
from vidgen.types import VideoShape

MIB, PAGE, TICK = 2**20, os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
HEAD = ("source", "workers", "clips", "clips/s", "decoded, MB/s", "encoded, MB/s", "start, s")
HEAD += ("peak, MiB", "steady, MiB", "growth, MiB", "CPU", "skipped")
FPS, PER_SHARD = 24.0, 16
AV_SUFFIXES = tuple(set(VIDEO_SUFFIXES) - set(PILLOW_SUFFIXES))


# ---- measuring, in a process of its own ----------------------------------------------------------


def family(root: int) -> list[int]:
    """A process and all that it started."""
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                todo += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it has just ended
    return found


def usage() -> tuple[float, float]:
    """(MiB in memory, CPU seconds so far) of this process and its workers."""
    pages, ticks = 0, 0
    for process in family(os.getpid()):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return pages * PAGE / MIB, ticks / TICK


def plain(folder: str, shape: VideoShape, seed: int):
    """Endless clips of random files, by PyAV alone, and the sizes of the files."""
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in AV_SUFFIXES)
    lengths = {path: probe(path).seconds for path in files}
    rng, needed = np.random.default_rng(seed), (shape.frames - 1) / shape.fps
    while True:
        path = files[rng.integers(len(files))]
        start = rng.uniform(0, max(0.0, lengths[path] - needed - 1 / FPS))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(int(start / stream.time_base), stream=stream)
            wanted, clip = list(start + np.arange(shape.frames) / shape.fps), []
            for frame in container.decode(stream):
                while wanted and frame.time >= wanted[0]:
                    clip.append(frame.to_ndarray(format="rgb24"))
                    wanted.pop(0)
                if not wanted:
                    break
        yield clip


def batches(flags: argparse.Namespace, shape: VideoShape):
    """Endless batches; of each, how many bad examples there were until then."""
    if flags.kind == "PyAV":
        clips = plain(flags.folder, shape, flags.seed)
        while True:
            for _ in range(flags.batch_size):
                next(clips)
            yield 0
    if flags.kind == "folder":
        source: Any = FolderSource(path=flags.folder, shape=shape, missing_captions="empty")
    else:
        source = TarShards(path=flags.shards, shape=shape, missing_captions="empty")
    pipeline = Pipeline(
        source=source, batch_size=flags.batch_size, workers=flags.worker, seed=flags.seed
    )
    iterator = pipeline.iterator()
    try:
        for _ in iterator:
            yield sum(iterator.skipped.values())
    finally:
        iterator.close()


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """The row of this process."""
    shape = shape_of(flags.shape)
    begin = time.perf_counter()
    loading = batches(flags, shape)
    skipped = next(loading)
    start, memory, peak = time.perf_counter() - begin, [], usage()[0]
    for _ in range(max(2, flags.worker * 2)):  # what was loaded while the workers started
        skipped = next(loading)
    begin, before = time.perf_counter(), usage()[1]
    for _ in range(-(-flags.clips // flags.batch_size)):
        skipped = next(loading)
        memory.append(usage()[0])
    wall, cpu = time.perf_counter() - begin, usage()[1] - before
    loading.close()
    clips, tenth = len(memory) * flags.batch_size, max(1, len(memory) // 10)
    rate = clips / wall
    return {
        "source": flags.kind,
        "workers": flags.worker,
        "clips": clips,
        "clips_per_s": rate,
        "decoded_mb_per_s": rate * int(np.prod(shape.thwc)) / 1e6,
        "encoded_mb_per_s": rate * flags.bytes / 1e6,
        "start_s": start,
        "peak_mib": max(peak, *memory),
        "steady_mib": float(np.mean(memory[len(memory) // 2 :])),
        "growth_mib": mean(memory[-tenth:]) - mean(memory[tenth : 2 * tenth]),
        "cpu": cpu / wall,
        "skipped": skipped,
        "shape": flags.shape,
        "batch_size": flags.batch_size,
        "file_bytes": flags.bytes,
    }


# ---- the rows ------------------------------------------------------------------------------------


def shape_of(text: str) -> VideoShape:
    """16x64x64@8 is 16 frames of 64 x 64 at 8 fps."""
    size, _, fps = text.partition("@")
    frames, height, width = (int(number) for number in size.split("x"))
    return VideoShape(frames=frames, height=height, width=width, fps=float(fps or 8))


def make(folder: Path, count: int, size: str, seconds: float) -> None:
    """Captioned clips in FOLDER/videos, and the same in FOLDER/shards."""
    height, width = (int(number) for number in size.split("x"))
    (folder / "videos").mkdir()
    (folder / "shards").mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (9, 16, 3), np.uint8)
        large = transforms.resize(small, 2 * height, 2 * width)
        steps = np.linspace(0, 1, int(seconds * FPS))
        frames = [
            large[
                int(height * t) : int(height * t) + height, int(width * t) : int(width * t) + width
            ]
            for t in steps
        ]
        video = transforms.to_float(np.stack(frames))
        write_video(folder / "videos" / f"{number:05}.mp4", video, FPS, min_side=0)
        (folder / "videos" / f"{number:05}.txt").write_text(f"texture {number} that moves")
    files = sorted((folder / "videos").iterdir())
    for first in range(0, len(files), 2 * PER_SHARD):
        with tarfile.open(folder / "shards" / f"{first // 2 // PER_SHARD:05}.tar", "w") as tar:
            for path in files[first : first + 2 * PER_SHARD]:
                tar.add(path, path.name)


def mean_size(flags: argparse.Namespace) -> float:
    """Of the videos, in bytes; those of shards are taken to be as large."""
    files = Path(flags.folder).rglob("*") if flags.folder else ()
    sizes = [path.stat().st_size for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    return mean(sizes)


def mean(values: Sequence[float]) -> float:
    """NaN of none, as the second tenth of very few clips is."""
    return float(np.mean(values)) if values else float("nan")


def rows(flags: argparse.Namespace) -> list[tuple[str, int]]:
    """(source, workers) of each row."""
    workers = [int(number) for number in flags.workers.split(",")]
    found = [("PyAV", 0)] if flags.folder else []
    found += [("folder", count) for count in workers] if flags.folder else []
    found += [("tar", count) for count in workers] if flags.shards else []
    return [row for row in found if not flags.rows or row[0] in flags.rows.split(",")]


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["source"], row["workers"], row["clips"], f"{row['clips_per_s']:.1f}"]
    cells += [f"{row[key]:.1f}" for key in ("decoded_mb_per_s", "encoded_mb_per_s", "start_s")]
    cells += [f"{row[key]:.0f}" for key in ("peak_mib", "steady_mib")]
    cells += [f"{row['growth_mib']:+.1f}", f"{row['cpu']:.2f}", row["skipped"]]
    return f"| {' | '.join(map(str, cells))} |"


def parsed() -> argparse.Namespace:
    """The flags; those without help are what a row's own process is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", default="", help="of videos; default: clips are made")
    parser.add_argument("--shards", default="", help="tars, as TarShards.path")
    parser.add_argument("--shape", default="16x64x64@8", help="frames x height x width @ fps")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--clips", type=int, default=400, help="of a row, after the first batches")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rows", default="", help="of PyAV, folder and tar those to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--made", type=int, default=64, help="clips that are made")
    parser.add_argument("--made_size", default="256x256")
    parser.add_argument("--made_seconds", type=float, default=4.0)
    parser.add_argument("--output", type=Path, help="for a JSON line a row")
    parser.add_argument("--kind", default="", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=float, default=0.0, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(filter(None, flags.rows.split(","))) - {"PyAV", "folder", "tar"}:
        parser.error(f"--rows has {', '.join(unknown)}; there are PyAV, folder and tar.")
    return flags


def main() -> None:
    """Read the flags, run every row, print the table."""
    flags = parsed()
    if flags.kind:
        print(json.dumps(measure(flags)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not flags.folder and not flags.shards:
            make(Path(folder), flags.made, flags.made_size, flags.made_seconds)
            flags.folder, flags.shards = f"{folder}/videos", f"{folder}/shards"
        flags.bytes = mean_size(flags)
        print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
        for kind, worker in rows(flags):
            command = [sys.executable, __file__, f"--kind={kind}", f"--worker={worker}"]
            for name in ("folder", "shards", "shape", "clips", "batch_size", "seed", "bytes"):
                command.append(f"--{name}={getattr(flags, name)}")
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(line(row), flush=True)
            if flags.output:
                known = {name: None if value != value else value for name, value in row.items()}
                with flags.output.open("a") as file:
                    file.write(json.dumps(known) + "\n")


if __name__ == "__main__":
    main()
