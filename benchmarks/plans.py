"""What the published models need in training on TPUs, as the TPU compiler says; no TPU is needed.

    python benchmarks/plans.py --output=plans.jsonl            # every row: an hour on two cores
    python benchmarks/plans.py --rows='^phenaki' --effort=O1 --output=plans.jsonl
    python benchmarks/plans.py --from=plans.jsonl               # the table of what is there

Each row is `vidgen plan --compile` in a process of its own: the training step of the `_paper`
experiment is compiled for a topology, a mesh and a batch on which it fits (pip install libtpu).

    state     parameters, optimizer state, averaged parameters, gradients: of one chip
    peak      of one chip, activations included
    TFLOP     of one chip in a step, what is computed twice counted twice
    compile   seconds of the whole command, on the cores that there are
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

GIB = 2**30
HEADER = (
    "| model | parameters | TPU | mesh | batch | state, GiB | peak, GiB | TFLOP "
    "| effort | compile, s |\n|---|---|---|---|---|---|---|---|---|---|"
)


# Of what `vidgen plan` says of a model.
FIELDS = ("compiled_for", "parameters", "mesh", "devices", "batch_size", "bytes_per_device")
FIELDS += ("flops_per_step", "fits", "peak_bytes_per_device", "device_bytes")


class Row(NamedTuple):
    """A configuration that is known to fit."""

    experiment: str
    topology: str
    batch: int
    mesh: str = "fsdp"
    shape: str = "(1, -1, 1)"


ROWS = {
    "imagen base": Row("imagen_base_paper", "v4:4x4x4", 128),
    "imagen tsr1": Row("imagen_tsr1_paper", "v4:4x4x4", 128),
    "imagen ssr1": Row("imagen_ssr1_paper", "v4:4x4x4", 128),
    "imagen ssr2": Row("imagen_ssr2_paper", "v5p:4x4x4", 128),
    "imagen tsr2": Row("imagen_tsr2_paper", "v5p:4x4x4", 128),
    "imagen tsr3": Row("imagen_tsr3_paper", "v5p:4x4x4", 128),
    "imagen ssr3": Row("imagen_ssr3_paper", "v4:4x4x4", 128),
    "phenaki cvivit": Row("phenaki_cvivit_paper", "v4:4x4x4", 128),
    "phenaki maskgit": Row("phenaki_maskgit_paper", "v4:4x4x4", 512),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the rows, or show those of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows that this finds")
    parser.add_argument(
        "--effort", default="O1", help='of the compiler; "" is its own; default: O1'
    )
    parser.add_argument("--output", type=Path, metavar="JSONL", help="append each row here")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSONL", help="compile nothing")
    flags = parser.parse_args(arguments)
    if flags.source:
        found = [json.loads(line) for line in flags.source.read_text().splitlines()]
    else:
        names = [name for name in ROWS if re.search(flags.rows, name)]
        found = [measure(name, flags.effort, flags.output) for name in names]
    latest = {(row["row"], row["effort"]): row for row in found}
    order = sorted(latest, key=lambda key: (list(ROWS).index(key[0]), key[1]))
    print("\n".join([HEADER, *(line(latest[key]) for key in order)]))


def measure(name: str, effort: str, output: Path | None) -> dict[str, Any]:
    """The plan of one row, and the seconds that it took."""
    row = ROWS[name]
    command = [sys.executable, "-m", "vidgen.cli.main", "plan", "--json", "--compile"]
    command += [f"--gin_file=experiments/{row.experiment}.gin", f"--gin_file=mesh/{row.mesh}.gin"]
    command += [f"--gin.MESH_SHAPE={row.shape}", f"--gin.BATCH_SIZE={row.batch}"]
    command += [f"--topology={row.topology}", f"--effort={effort}"]
    start, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    (model,) = json.loads(done.stdout)["models"]
    found = {"row": name, "topology": row.topology} | {field: model[field] for field in FIELDS}
    found["effort"] = effort
    found["compile_seconds"] = round(time.perf_counter() - start, 1)
    found["compile_processor_seconds"] = used = round(processor_seconds() - used, 1)
    print(f"{name}: {used:.0f} s, fits: {model['fits']}", file=sys.stderr, flush=True)
    if output:
        with output.open("a") as file:
            file.write(json.dumps(found) + "\n")
    return found


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    held = found["bytes_per_device"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1)
    peak = gib(found["peak_bytes_per_device"]) if found["fits"] else "does not fit"
    cells = (
        found["row"],
        f"{found['parameters'] / 1e9:.2f} B",
        f"{found['devices']} x {found['topology'].split(':')[0]}",
        mesh,
        str(found["batch_size"]),
        gib(held["total"] - held["batch"]),
        peak,
        f"{found['flops_per_step'] / found['devices'] / 1e12:,.3g}",
        found["effort"] or "own",
        f"{found['compile_seconds']:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def gib(count: int) -> str:
    """Bytes in GiB."""
    return f"{count / GIB:.1f}"


if __name__ == "__main__":
    main()
