"""Times training steps and sampling at the sizes at which imagen-pytorch and phenaki-pytorch run.

    python benchmarks/peers.py --output=peers.jsonl                   # every row, an hour or more
    python benchmarks/peers.py --rows='^imagen-S/' --repeats=9        # some rows
    python benchmarks/peers.py --list

One Markdown line a row, so that the packages' figures can be put beside it; --output gets a JSON
line a row, with every single time. float32, batch 2, text of 16 random vectors of 768 features.

    params      ours / the package's at the same setting, in millions
    init        compiling and running the program that makes the first parameters, and state
    first       the first call: tracing, compiling and running it; nothing compiled is kept on disk
    steady      median of the calls after one more as warm-up
    peak        highest resident memory less what Python, JAX and vidgen take before anything is
                made: until the first call ends (with the compiler), and in the timed calls alone
    CPU         CPU time for wall-clock time in the timed calls: with --threads=1, less than 1
                says that other work had the processor, and that the times are too long

Each row is a process of its own, on as many processors as --threads says (Linux only): the affinity
is set before XLA makes its threads, and CPU shows that it holds. PyTorch's counterpart is
torch.set_num_threads(1), and `peak` is ru_maxrss less the resident memory after the imports.

A training step is that of vidgen's trainer: loss, gradient, clipping, AdamW, averaged weights,
metrics. Sampling goes step by step, as `vidgen generate` does: U-Nets take 8 ancestral steps with
guidance 5 (w = 4) and dynamic thresholding, the transformer 18 steps with guidance; both evaluate
the network twice a step. benchmarks/peer_models.py has the models, and says what differs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from peer_models import rows

MIB = 2**20
HEADER = (
    "| row | params, M: ours / package | init, s | first, s | steady, s "
    "| peak, MiB: first / steady | CPU |\n|---|---|---|---|---|---|---|"
)


# ---- measuring, in a process of its own ----------------------------------------------------------


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most they have been."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Gives free memory back to the system and starts the peak anew from what is left."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, CPU seconds) until the result of one call is there."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, repeats: int) -> dict[str, Any]:
    """One row; it must be the first that this process does."""
    load = os.getloadavg()[0]
    device = jax.devices()[0]
    baseline, theirs = resident(), rows()[name].theirs
    began = time.perf_counter()
    job = rows()[name].make()
    made = time.perf_counter() - began
    first, first_peak = timed(job.call), peak()
    jax.block_until_ready(job.call())
    forget_peak()
    held = resident()
    times = [timed(job.call) for _ in range(repeats)]
    return {
        "row": name,
        "parameters": job.parameters,
        "package_parameters": round(theirs * 1e6),
        "init_seconds": made,
        "first_seconds": first[0],
        "first_cpu_seconds": first[1],
        "steady_seconds": statistics.median(wall for wall, _ in times),
        "steady_cpu_seconds": statistics.median(cpu for _, cpu in times),
        "seconds": [wall for wall, _ in times],
        "cpu_share": sum(cpu for _, cpu in times) / sum(wall for wall, _ in times),
        "baseline_bytes": baseline,
        "held_bytes": held - baseline,
        "first_peak_bytes": first_peak - baseline,
        "steady_peak_bytes": peak() - baseline,
        "threads": len(os.sched_getaffinity(0)),
        "load_before": load,
        "device": device.device_kind,
        "jax": jax.__version__,
    }


# ---- the table -----------------------------------------------------------------------------------


def in_child(name: str, repeats: int) -> dict[str, Any]:
    """`measure` in a fresh process; RuntimeError with its last words where it fails."""
    own = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, __file__, f"--child={name}", f"--repeats={repeats}"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"{name} failed with exit code {done.returncode}: {words[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    parameters = [f"{row[name] / 1e6:.2f}" for name in ("parameters", "package_parameters")]
    memory = [f"{row[name] / MIB:.0f}" for name in ("first_peak_bytes", "steady_peak_bytes")]
    cells = [row["row"], " / ".join(parameters)]
    cells += [f"{row[name]:.1f}" for name in ("init_seconds", "first_seconds")]
    cells += [f"{row['steady_seconds']:.3f}", " / ".join(memory), f"{row['cpu_share']:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--rows", default="", metavar="REGEX", help="rows whose name it matches; default: all")
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--threads", type=int, default=1, help="processors to run on; default: 1")
    add("--repeats", type=int, default=5, help="timed calls of a row; default: 5")
    add("--output", metavar="FILE", help="a JSON line a row is added to it")
    add("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(measure(flags.child, flags.repeats)))
        return 0
    names = [name for name in rows() if re.search(flags.rows, name)]
    available = sorted(os.sched_getaffinity(0))
    if not names:
        parser.error(f"no row matches {flags.rows!r}; see --list.")
    if not 1 <= flags.threads <= len(available):
        parser.error(f"--threads is {flags.threads}; there are 1 to {len(available)}.")
    if flags.list:
        print("\n".join(names))
        return 0
    os.sched_setaffinity(0, available[-flags.threads :])  # which the children inherit
    return report(flags, names)


def report(flags: argparse.Namespace, names: list[str]) -> int:
    """Print the table as it comes; 1 if a row failed."""
    print(HEADER, flush=True)
    failed = 0
    for name in names:
        try:
            row = in_child(name, flags.repeats)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed = 1
            continue
        print(line(row), flush=True)
        if flags.output:
            with open(flags.output, "a") as log:
                log.write(json.dumps(row) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
