"""Whether the cost of a chip stays the same on more chips, in the program that the compiler made.

    python benchmarks/weak_scaling.py --output=weak_scaling.jsonl   # goes on where it stopped
    python benchmarks/weak_scaling.py --from=weak_scaling.jsonl     # the table of what is there

Each row is `vidgen plan --compile` of the `_paper` experiment, as many examples a chip: 64, 256
and 1,024 chips of v5p, and two and four slices of 64 that a slower network connects. Parameters
are cut over 32 chips, and those that have the same part sum its gradients. All columns are of one
chip in a step, with the difference from 64 chips; ! marks one of more than 5 %.

    TFLOP      operations
    peak       memory, activations included
    received   from chips of its slice / of other slices
    MFU        at most, by the published rates: where all overlaps / nothing does
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import plans

HEADER = (
    "| model | TPU | TFLOP | peak, GiB | received, GiB | MFU at most, % | compile, s |\n"
    "|---|---|---|---|---|---|---|"
)
FSDP = 32  # of 64 chips: over all of a slice the compiler writes each gather as an all-reduce
ALLOWED = 0.05
# Examples of a chip: as many as 64 chips have of the batch of the experiment, or half of them.
BATCHES = {"imagen_base": 2, "phenaki_maskgit": 8, "imagen_ssr3": 2}
# "v5p:4x4x4" and its like of one shape at 64 chips, 256 and 1,024; and slices of 64.
TOPOLOGIES = {
    "64": ("v5p:4x4x4", 64),
    "256": ("v5p:4x8x8", 256),
    "1024": ("v5p:8x8x16", 1024),
    "2 x 64": ("v5p:4x4x4*2", 128),
    "4 x 64": ("v5p:4x4x4*4", 256),
}
SMALL = {  # for tests: four chips stand for 64
    "64": ("v5e:2x2", 4),
    "256": ("v5e:4x4", 16),
    "1024": ("v5e:4x8", 32),
    "2 x 64": ("v5e:2x2*2", 8),
    "4 x 64": ("v5e:2x2*4", 16),
}
ROWS = {f"{model} {chips}": (model, chips) for model in BATCHES for chips in TOPOLOGIES}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the rows that are not there yet, and show all."""
    flags = plans.parser(__doc__).parse_args(arguments)
    found = plans.collect(flags, list(ROWS), measure)
    lines = [
        line(name, found.get(name), found.get(f"{model} 64")) for name, (model, _) in ROWS.items()
    ]
    print("\n".join([HEADER, *lines]))


def measure(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """The plan of one row."""
    model, chips = ROWS[name]
    topology, count = (SMALL if flags.size == "tiny" else TOPOLOGIES)[chips]
    cut = 2 if flags.size == "tiny" else FSDP
    report = plans.run(
        name,
        f"--gin_file=experiments/{model}_{flags.size}.gin",
        "--gin_file=mesh/fsdp.gin",
        f"--gin.MESH_SHAPE=({count // cut}, {cut}, 1)",
        f"--gin.BATCH_SIZE={BATCHES[model] * count}",
        "--compile",
        f"--topology={topology}",
        f"--effort={flags.effort}",
    )
    (row,) = report.get("models", [{}])
    kept = ("mesh", "batch_size", "bytes_per_device", "fits", "peak_bytes_per_device", "bound")
    kept += ("operations_per_device", "memory_traffic_per_device", "collective_bytes_per_device")
    return {name: row.get(name) for name in kept} | {
        "processor_seconds": report["processor_seconds"]
    }


def line(name: str, found: Mapping[str, Any] | None, first: Mapping[str, Any] | None) -> str:
    """One row of the table."""
    model, chips = ROWS[name]
    start = f"| {model.replace('_', ' ')} | {chips} x v5p |"
    if found is None or not found["fits"]:
        return f"{start} {'not measured' if found is None else 'does not fit'}" + " |" * 5
    rows = [costs(row) if row and row["fits"] else None for row in (found, first)]
    own, reference = rows
    assert own is not None
    cells = [
        f"{own['TFLOP']:,.4g}{difference(own, reference, 'TFLOP')}",
        f"{own['peak']:,.2f}{difference(own, reference, 'peak')}",
        f"{own['received']:,.2f}{difference(own, reference, 'received')} / {own['between']:,.2f}",
        f"{found['bound']['mfu_overlapped']:.0%} / {found['bound']['mfu_alone']:.0%}".replace(
            "%", ""
        ),
        f"{found['processor_seconds']:,.0f}",
    ]
    return f"{start} " + " | ".join(cells) + " |"


def costs(row: Mapping[str, Any]) -> dict[str, float]:
    """What is to stay the same, of one chip."""
    received = row["collective_bytes_per_device"]
    between = received.get("between slices", 0)
    return {
        "TFLOP": row["operations_per_device"] / 1e12,
        "peak": row["peak_bytes_per_device"] / plans.GIB,
        "received": (sum(received.values()) - between) / plans.GIB,
        "between": between / plans.GIB,
    }


def difference(own: Mapping[str, float], reference: Mapping[str, float] | None, name: str) -> str:
    """The difference from the first row; nothing of the first row itself."""
    if reference is None or own is reference or own == reference:
        return ""
    change = own[name] / reference[name] - 1
    return f" ({change:+.1%}{'!' if abs(change) > ALLOWED else ''})"


if __name__ == "__main__":
    main()
