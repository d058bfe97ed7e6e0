"""Checks and times the package on one GPU or TPU, in at most eight minutes.

    python benchmarks/accelerator.py --output=accelerator.jsonl
    python benchmarks/accelerator.py --rows='^train/' --seconds=1200
    python benchmarks/accelerator.py --size=tiny                     # all of it on a CPU

    attention   forward and gradient in bfloat16 beside plain products in float32: a row fails where
                it is off by more than it may be; `step` is that of both
    train       a training step in bfloat16 at published widths, with as many layers and as large a
                batch as fit: halved until the compiler says so. MFU counts what is computed twice
                twice, as the log of `vidgen train` does; C-ViViT is without perceptual networks
    generate    a denoising step of the last stage on a whole clip
    story       MaskGIT 1.8B telling a story on and on, C-ViViT both ways included

`predicted` is what the compiler says that a program needs, `measured` the most bytes in use, where
the device counts them. Each row is a process of its own with a share of the time that is left: one
that fails, or takes longer, is a line that says so, and the rest goes on. A line appears as soon as
it is measured, and --output gets it as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import accelerator_rows
import accelerator_training
import on_device
from on_device import Deadline

from vidgen.cli import startup, xla_flags

GIB = 2**30
COLUMNS = ("row", "setting", "step, ms", "TFLOP", "MFU", "predicted, GiB", "measured, GiB", "")


class Row(NamedTuple):
    """What measures a row, or several, and its share of the time."""

    measure: Callable[..., None]
    share: float


# What tells most first, so that it is there should the machine be taken away.
ROWS = {
    "attention": Row(accelerator_rows.attention, 1.0),
    "train/maskgit": Row(accelerator_training.training, 1.0),
    "train/cvivit_gan": Row(accelerator_training.training, 1.0),
    "generate/ssr3": Row(accelerator_rows.last_stage, 1.0),
    "story": Row(accelerator_rows.a_story, 0.7),
    "train/ssr3": Row(accelerator_training.training, 1.2),
    "train/ssr2": Row(accelerator_training.training, 1.5),
    "train/base": Row(accelerator_training.training, 1.5),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows that are asked for; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=("published", "tiny"), default="published", help="default: published")
    add("--rows", default="", metavar="REGEX", help="only rows that this finds")
    add("--seconds", type=float, default=470.0, help="for all rows together; default: 470")
    add("--output", type=Path, metavar="JSONL", help="a line for each row is added to it")
    flags = parser.parse_args(arguments)
    names = [name for name in ROWS if re.search(flags.rows, name)]
    if not names:
        parser.error(f"no row matches {flags.rows!r}: {', '.join(ROWS)}.")
    prepare()
    end = time.monotonic() + flags.seconds
    report = Report(flags.output)
    for i, name in enumerate(names):
        shares = [ROWS[rest].share for rest in names[i:]]
        limit = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
        measured(name, flags.size, limit, report)
    return int(report.failed)


def prepare() -> None:
    """The settings of `vidgen train`, for the processes of the rows."""
    xla_flags.set_defaults()
    startup.setup_process()
    # JAX takes three quarters of a GPU unless told otherwise.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")


# ---- a row in a process of its own ---------------------------------------------------------------


def measured(name: str, size: str, limit: float, report: Report) -> None:
    """Runs a row for at most `limit` seconds, and reports what it tells."""
    # Forked, so that nothing is imported again; this process asks for no device itself.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryFile("w+") as errors:
        process = context.Process(target=_run, args=(name, size, limit, sender, errors.fileno()))
        process.start()
        sender.close()
        ended = _listen(receiver, time.monotonic() + limit, found, report)
        if not ended:
            process.kill()
        process.join()
        errors.seek(0)
        words = errors.read().strip().splitlines() or ["it said nothing"]
    if not ended:
        failure = f"stopped after its {limit:.0f} s"
    elif process.exitcode:
        failure = f"ended with status {process.exitcode}: {words[-1][:300]}"
    else:
        return
    report.add(name, found.get(name, {}) | {"failure": failure.replace("|", "/")})


def _listen(
    receiver: Connection, end: float, found: dict[str, dict[str, Any]], report: Report
) -> bool:
    """Collects what a row tells until it ends (True), or its time does."""
    while receiver.poll(max(0.0, end - time.monotonic())):
        try:
            row, fields, done = receiver.recv()
        except EOFError:
            return True
        found[row] = found.get(row, {}) | fields
        if done:
            report.add(row, found.pop(row))
    return False


def _run(name: str, size: str, limit: float, sender: Connection, errors: int) -> None:
    """The process of a row."""
    os.dup2(errors, sys.stderr.fileno())
    told: list[str] = []

    def tell(row: str, fields: dict[str, Any]) -> None:
        if row != name:  # one of several, which is all there is of it
            sender.send((row, device | fields, True))
        else:
            told.append(row)
            sender.send((row, device | fields, False))

    deadline = Deadline(time.monotonic() + 0.95 * limit)
    device = on_device.about()
    try:
        ROWS[name].measure(name, size, tell, deadline)
    except Exception as error:
        sender.send((name, device | {"failure": accelerator_rows.sentence(error)}, True))
    else:
        if told:
            sender.send((name, {}, True))
    sender.close()


# ---- the table -----------------------------------------------------------------------------------


class Report:
    """Prints a line, and writes one, for each row as it comes."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._begun = False
        self.failed = False

    def add(self, name: str, fields: dict[str, Any]) -> None:
        """One more row."""
        row = {"row": name, **fields, **versions()}
        if not self._begun:
            print(heading(row), flush=True)
        self._begun = True
        self.failed |= "failure" in row
        print(line(row), flush=True)
        if self._output:
            with self._output.open("a") as file:
                file.write(json.dumps(row) + "\n")


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    names = ("vidgen", "jax", "jaxlib")
    return {name: importlib.metadata.version(name) for name in names} | {
        "python": platform.python_version()
    }


def heading(row: dict[str, Any]) -> str:
    """The device, the versions, and the head of the table."""
    memory = row.get("memory_bytes")
    parts = [row.get("device", "no device"), f"{memory / GIB:.1f} GiB" if memory else ""]
    parts += [f"{name} {row[name]}" for name in versions()] + [row.get("platform", "")]
    rule = "|".join("---" for _ in COLUMNS)
    return f"{', '.join(filter(None, parts))}\n\n| {' | '.join(COLUMNS)} |\n|{rule}|"


def line(row: dict[str, Any]) -> str:
    """One line of the table."""

    def cell(name: str, unit: float, form: str) -> str:
        return "" if row.get(name) is None else format(row[name] / unit, form)

    cells = [
        row["row"],
        row.get("setting", ""),
        cell("seconds", 1e-3, ",.4g"),
        cell("flops", 1e12, ",.3g"),
        cell("mfu", 0.01, ".1f") + (" %" if "mfu" in row else ""),
        cell("predicted_bytes", GIB, ".3g"),
        cell("measured_bytes", GIB, ".3g"),
        remark(row),
    ]
    return f"| {' | '.join(cells)} |"


def remark(row: dict[str, Any]) -> str:
    """What only some rows say."""
    parts = [f"FAILED: {row['failure']}"] if "failure" in row else []
    if "errors" in row:
        parts.append(f"{row['kernel']}, off by {max(row['errors'].values()):.2g}")
        parts.append(f"plain {1e3 * row['plain_seconds']:,.4g} ms")
    if "measured_bytes" in row and "predicted_bytes" in row:
        parts.append(f"memory x {row['measured_bytes'] / row['predicted_bytes']:.2f}")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.4g} tokens/s")
        parts.append(f"{row['frames_per_second']:,.3g} frames/s")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
