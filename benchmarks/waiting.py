"""How long one waits for a first training step and for a clip, in processor seconds.

    python benchmarks/waiting.py --output=waiting.jsonl  # two to three minutes of one quiet core
    python benchmarks/waiting.py --from=waiting.jsonl    # the table once more

Each command runs twice, from its start to the line that the table is about, imports included:
"first" finds no compiled program on disk, "again" those of the time before. The weights of
`vidgen generate` must be here already (`vidgen generate "a tiger"` fetches them).

    tiny training     vidgen train of the tiny base model, to the line of its first step
    imagen-S base     a training step of the U-Net of this row of benchmarks/peers.py
    clip              vidgen generate of a whole clip, 128 frames of 128x128
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import child_rows

HERE = Path(__file__).parent
VIDGEN = [sys.executable, "-m", "vidgen"]
# By row: a command, in which FOLDER is an empty one, and how the line begins that one waits for.
ROWS: dict[str, tuple[list[str], str]] = {
    "tiny training": (
        [*VIDGEN, "train", "--gin_file=experiments/imagen_base_tiny.gin"]
        + ["--gin.MODEL_DIR='FOLDER/model'"],
        "step ",
    ),
    "imagen-S base": ([sys.executable, str(HERE / "peer_models.py"), "imagen-S/base/train"], "{"),
    "clip": (
        [*VIDGEN, "generate", "a tiger runs on the grass", "--output=FOLDER/clip.mp4"],
        "vidgen: 1 clip",
    ),
}


def seconds_to(command: Sequence[str], line: str, cache: str) -> float:
    """Processor seconds of a command until it prints a line; it is ended then.

    Args:
      command: program and arguments; FOLDER is replaced by an empty folder.
      line: how the line begins.
      cache: the folder of compiled programs.

    Raises:
      RuntimeError: it ended without that line; with its last words.
    """
    before, said = _of_children(), []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
    with tempfile.TemporaryDirectory() as folder:
        words = [part.replace("FOLDER", folder) for part in command]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(words, env=environment, **pipes) as process:
            for text in process.stdout or ():
                said.append(text)
                if text.startswith(line):
                    break
            else:
                raise RuntimeError(f"{' '.join(words)} failed:\n{''.join(said[-5:])}")
            process.kill()
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str) -> dict[str, Any]:
    """One row: both runs with a cache of their own."""
    command, line = ROWS[name]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        first, again = (seconds_to(command, line, cache) for _ in range(2))
    return {"row": name, "first": first, "again": again, "load_before": load}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all rows, or show those of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="JSONL", help="append each row here")
    parser.add_argument("--from", type=Path, dest="source", metavar="JSONL", help="show these rows")
    flags = parser.parse_args(arguments)
    print("| | first, s | again, s |\n|---|---|---|")
    if flags.source:
        rows = map(json.loads, flags.source.read_text().splitlines())
    else:
        rows = map(measure, ROWS)
    for row in rows:
        print(f"| {row['row']} | {row['first']:.1f} | {row['again']:.1f} |", flush=True)
        child_rows.append(row, flags.output)


if __name__ == "__main__":
    main()
