"""Times training steps and sampling beside imagen-pytorch 2.1.0 and phenaki-pytorch 0.5.0.

    python benchmarks/peers.py --peers=PYTHON --output=peers.jsonl     # every row, an hour or more
    python benchmarks/peers.py --peers=PYTHON --rows='^imagen-S/' --repeats=9
    python benchmarks/peers.py --from=peers.jsonl                      # the table once more
    python benchmarks/peers.py --list

PYTHON is the interpreter of an environment of theirs: `python3 -m venv peers` and `peers/bin/pip
install torch==2.13.0 imagen-pytorch==2.1.0 phenaki-pytorch==0.5.0` make one for a CPU. Without
--peers only our side is timed. Each side is a process of its own, and their calls take turns, so
that other work on the machine slows both alike. One Markdown line a row; --output gets a JSON line
a row, with every single time. float32, batch 2, text of 16 random vectors of 768 features; of what
is before and behind a "/", the first is ours:

    params      in millions
    GFLOP       products and convolutions of a call, a multiply-add as two
    GFLOP/s     by processor time
    first       processor seconds of the first call: with tracing and compiling
    step        median processor seconds of the calls after one more as warm-up, on our side in a
                second process, which finds the compiled programs of the first on disk
    ratio       ours over theirs
    peak        the most memory that this process is resident in during these calls, in MiB; what
                it took to make the model and its programs has been given back
    of imports  what of it Python and the packages take before anything is made, in MiB

Each process has as many processors as --threads says (Linux only). A training step is that of
vidgen's trainer and of theirs: loss, gradient, clipping, AdamW (Adam in ImagenTrainer); averaged
weights, and on our side metrics and a guard. Sampling goes step by step, as `vidgen generate` does:
U-Nets take 8 ancestral steps with guidance 5 (w = 4) and dynamic thresholding, the transformer 18
steps with guidance, to video; both evaluate the network twice a step. benchmarks/peer_models.py and
benchmarks/peer_packages.py have the models, and say what differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peer_models import rows
from peer_timing import MIB, alternate, first_call

HEADER = (
    "| row | params, M | GFLOP | GFLOP/s | first, s | step, s | ratio | peak, MiB | of imports |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
HERE = Path(__file__).parent


def measure(name: str, peers: str | None, repeats: int) -> dict[str, Any]:
    """One row.

    Raises:
      RuntimeError: one of the sides failed; with its last words.
    """
    commands = {"ours": [sys.executable, str(HERE / "peer_models.py"), name]}
    if peers:
        commands["theirs"] = [peers, str(HERE / "peer_packages.py"), name]
    row: dict[str, Any] = {"row": name, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as programs:
        own = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": programs}
        first = first_call(commands["ours"], own)
        row |= alternate(commands, own, repeats)
    ours = row["ours"]
    ours["again_seconds"] = ours["first_seconds"]
    ours |= {key: first[key] for key in ("first_seconds", "first_peak_bytes")}
    return row | {"load_after": os.getloadavg()[0], "threads": len(os.sched_getaffinity(0))}


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    sides = [row[side] for side in ("ours", "theirs") if side in row]
    steps = [statistics.median(call["cpu_seconds"] for call in side["calls"]) for side in sides]
    peaks = [max(call["peak_bytes"] for call in side["calls"]) / MIB for side in sides]
    rates = [side["flops"] / step / 1e9 for side, step in zip(sides, steps, strict=True)]
    cells = [
        " / ".join(f"{side['parameters'] / 1e6:.2f}" for side in sides),
        " / ".join(f"{side['flops'] / 1e9:.3g}" for side in sides),
        " / ".join(f"{rate:.0f}" for rate in rates),
        " / ".join(f"{side['first_seconds']:.1f}" for side in sides),
        " / ".join(f"{step:.3f}" for step in steps),
        f"{steps[0] / steps[1]:.2f}" if len(steps) == 2 else "",
        " / ".join(f"{peak:.0f}" for peak in peaks),
        " / ".join(f"{side['imports_bytes'] / MIB:.0f}" for side in sides),
    ]
    return f"| {row['row']} | {' | '.join(cells)} |"


def main() -> int:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--peers", metavar="PYTHON", help="interpreter with torch and both packages")
    add("--rows", default="", metavar="REGEX", help="rows whose name it matches; default: all")
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--threads", type=int, default=1, help="processors to run on; default: 1")
    add("--repeats", type=int, default=5, help="timed calls of a row; default: 5")
    add("--output", metavar="FILE", help="a JSON line a row is added to it")
    add("--from", dest="source", metavar="FILE", help="print the table of such lines and stop")
    flags = parser.parse_args()
    names = [name for name in rows() if re.search(flags.rows, name)]
    available = sorted(os.sched_getaffinity(0))
    if not names:
        parser.error(f"no row matches {flags.rows!r}; see --list.")
    if not 1 <= flags.threads <= len(available):
        parser.error(f"--threads is {flags.threads}; there are 1 to {len(available)}.")
    if flags.list:
        print("\n".join(names))
        return 0
    if flags.source:
        lines = Path(flags.source).read_text().splitlines()
        last = {row["row"]: row for row in map(json.loads, lines)}  # a row may be measured again
        print("\n".join([HEADER, *(line(last[name]) for name in names if name in last)]))
        return 0
    os.sched_setaffinity(0, available[-flags.threads :])  # which the children inherit
    return report(flags, names)


def report(flags: argparse.Namespace, names: list[str]) -> int:
    """Print the table as it comes; 1 if a row failed."""
    print(HEADER, flush=True)
    failed = 0
    for name in names:
        try:
            row = measure(name, flags.peers, flags.repeats)
        except (RuntimeError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        print(line(row), flush=True)
        if flags.output:
            with open(flags.output, "a") as log:
                log.write(json.dumps(row) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
