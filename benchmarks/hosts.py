"""What one host of a thousand does for its share of the data: time, memory and files opened.

    python benchmarks/hosts.py -o hosts.jsonl           # 10^9 examples, 100,000 tar shards
    python benchmarks/hosts.py --from=hosts.jsonl       # the table of what is there
    python benchmarks/hosts.py --shards=200 --samples=50 --processes=16 --step=1000   # seconds

Two sources of a billion examples go through the pipeline that training uses, as process 0, the one
in the middle and the last of 1,024, in a fresh process each:

    made    a source that makes an example of its index: no file, so only the pipeline is measured
    tar     tar shards that are really there, named by braces: hard links to four tars of pictures,
            each with its index, so that a billion samples take the space of forty thousand

`open` is the time from the configuration to the pipeline, `first` that from there to the first
batch, `resume` from the checkpoint's positions of all processes at the given step to the batch
after it, processor seconds all; `batch` the processor milliseconds of each of the next 20. `memory`
is what the process has grown by since it had imported everything; `shards` are the tars that were
opened, `indices` the indices that were. Before that, the parts that all processes have of the batch
at that step are computed, and checked to be each of its positions once.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import resource
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child_rows
import numpy as np
from peer_timing import MIB, resident
from PIL import Image

from vidgen.data.pipeline import Pipeline
from vidgen.data.positions import Blocks
from vidgen.data.source import Example, Source
from vidgen.data.sources import tar_index
from vidgen.data.sources.tar_shards import TarShards
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=1, height=16, width=16, fps=1.0)
TARS, BATCHES = 4, 20
HEADER = (
    "| source | examples | process | open, s | first, s | resume, s | batch, ms | memory, MiB "
    "| shards | indices |\n|---|---|---|---|---|---|---|---|---|---|"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Source):
    """Examples that are made of their index when they are asked for."""

    examples: int
    shape: VideoShape = SHAPE

    def __len__(self) -> int:
        return self.examples

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Make a picture whose bytes tell the index, and a caption that does."""
        del rng
        video = np.resize(np.frombuffer(index.to_bytes(8, "little"), np.uint8), self.shape.thwc)
        return Example(video=video, caption=f"example {index}")


def make_shards(folder: Path, shards: int, samples: int) -> None:
    """Write the tars and their indices, and give them as many names as there are shards."""
    tars = [folder / f"tar{number}" for number in range(TARS)]
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    for number, path in enumerate(tars):
        with tarfile.open(path, "w") as tar:
            for sample in range(samples):
                stream.seek(0)
                stream.truncate()
                Image.new("RGB", (16, 16), (sample % 256, number, 0)).save(stream, "png")
                for name, data in (("png", stream.getvalue()), ("txt", f"{sample}".encode())):
                    info = tarfile.TarInfo(f"{sample:09d}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (folder / "shards").mkdir(exist_ok=True)
    for shard in range(shards):
        os.link(tars[shard % TARS], folder / "shards" / f"{shard:06d}.tar")
    index_of = tar_index.index_file
    for shard in range(shards):
        path = str(folder / "shards" / f"{shard:06d}.tar")
        file = Path(index_of(path, "images", str(folder / "index")))
        first = folder / f"index{shard % TARS}.npy"
        if not first.exists():
            tar_index.read_index(path, (path,), "images", str(folder / "index"))
            os.link(file, first)
        else:
            os.link(first, file)


def source_of(flags: argparse.Namespace) -> Source:
    """Configure one of the two sources."""
    if flags.child == "made":
        return Made(examples=flags.shards * flags.samples)
    name = f"{{000000..{flags.shards - 1:06d}}}.tar"
    folder = Path(flags.folder)
    return TarShards(
        path=str(folder / "shards" / name),
        shape=SHAPE,
        kind="images",
        index_dir=str(folder / "index"),
    )


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of this process that some work takes, and its result."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(spent, 4), result


def opened() -> dict[str, set[str]]:
    """Count the files that Python opens from now on, by their suffix."""
    files: dict[str, set[str]] = {".tar": set(), ".npy": set()}

    def hook(event: str, arguments: Any) -> None:
        if event == "open" and str(arguments[0])[-4:] in files:
            files[str(arguments[0])[-4:]].add(str(arguments[0]))

    sys.addaudithook(hook)
    return files


def measure(flags: argparse.Namespace, files: dict[str, set[str]]) -> dict[str, Any]:
    """Measure one source as one process; `files` are those that it opens, as `opened` says."""
    part = (flags.process, flags.processes)
    before = resident()
    open_s, pipeline = seconds(
        lambda: Pipeline(source=source_of(flags), batch_size=flags.batch_size, seed=flags.seed)
    )
    at_open = {suffix: len(names) for suffix, names in files.items()}
    iterator = pipeline.iterator(process=part)
    first_s, _ = seconds(lambda: next(iterator))
    iterator.close()
    states = [
        {"position": flags.step * flags.batch_size, "batch": flags.batch_size}
        | {"part": [index, flags.processes]}
        for index in range(flags.processes)
    ]

    def resumed() -> Any:
        again = pipeline.iterator(process=part)
        again.set_states(states)
        return again, next(again)

    resume_s, (again, _) = seconds(resumed)
    batch_s, _ = seconds(lambda: [next(again) for _ in range(BATCHES)])
    again.close()
    return {
        "source": flags.child,
        "examples": len(pipeline.source) if isinstance(pipeline.source, Source) else 0,
        "process": flags.process,
        "processes": flags.processes,
        "open_s": open_s,
        "first_s": first_s,
        "resume_s": resume_s,
        "batch_ms": round(1000 * batch_s / BATCHES, 2),
        "memory_mib": round((resident() - before) / MIB, 1),
        "shards": len(files[".tar"]) - at_open[".tar"],
        "indices": len(files[".npy"]),
    }


def check_parts(flags: argparse.Namespace) -> float:
    """Check that the parts of all processes are the batch at the step, each position once."""
    begin = time.process_time()
    first, places = flags.step * flags.batch_size, []
    for index in range(flags.processes):
        blocks = Blocks(batch=flags.batch_size, index=index, count=flags.processes)
        number = blocks.numbers(first)
        places += [blocks.position(number + row) for row in range(blocks.local)]
    if places != list(range(first, first + flags.batch_size)):
        raise SystemExit(f"the {flags.processes} parts of step {flags.step} are not its batch")
    return time.process_time() - begin


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["source"], f"{row['examples']:,}", f"{row['process']} of {row['processes']:,}"]
    cells += [row[name] for name in ("open_s", "first_s", "resume_s", "batch_ms", "memory_mib")]
    return f"| {' | '.join(map(str, [*cells, row['shards'], row['indices']]))} |"


def main() -> None:
    """Measure each source as some of the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10_000, help="of each shard")
    parser.add_argument("--processes", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--step", type=int, default=1_000_000, help="to resume at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="hosts", help="of the shards, made if absent")
    parser.add_argument("-o", "--output", help="a JSON line for each row, too")
    parser.add_argument("--from", dest="lines", help="print the table of such a file, and stop")
    parser.add_argument("--child", choices=("made", "tar"), help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(measure(flags, opened())))
        return
    if flags.lines:
        rows = [json.loads(text) for text in Path(flags.lines).read_text().splitlines()]
        print("\n".join([HEADER, *map(line, rows)]))
        return
    if not (Path(flags.folder) / "shards").exists():
        make_shards(Path(flags.folder), flags.shards, flags.samples)
    spent = check_parts(flags)
    print(f"{flags.processes:,} parts of a batch checked in {spent:.3f} s\n\n{HEADER}", flush=True)
    for child in ("made", "tar"):
        for process in (0, flags.processes // 2, flags.processes - 1):
            command = [__file__, *sys.argv[1:], f"--child={child}", f"--process={process}"]
            row = child_rows.measure(f"{child}, process {process}", command)
            print(line(row), flush=True)
            child_rows.append(row, flags.output)


if __name__ == "__main__":
    main()
