"""What the published models need in training on TPUs, as the TPU compiler says; no TPU is needed.

    python benchmarks/plans.py --output=plans.jsonl            # every row; goes on where it stopped
    python benchmarks/plans.py --rows='^v5p phenaki' --output=plans.jsonl
    python benchmarks/plans.py --from=plans.jsonl              # the table of what is there

Each row is `vidgen plan --fit` in a process of its own: of all ways to train the `_paper`
experiment on 64 chips, the compiler gets the few that estimates say are best, and the one that
keeps the chips busiest is shown (pip install libtpu).

    batch     examples of a step, and the parts that it is taken in
    compile   processor seconds of that program: traced, compiled and read
    peak      of one chip, activations included
    received  by a chip from others, in a step
    MFU       at most, by the published rates: where operations, memory and links overlap / do not
    ways      compiled, of those that were estimated
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidgen.types import STAGES

GIB = 2**30
HEADER = (
    "| model | TPU | mesh | remat | batch | compile, s | peak, GiB | received, GiB "
    "| MFU at most, % | waits for | ways |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
MODELS = (*(f"imagen_{stage}" for stage in STAGES), "phenaki_cvivit", "phenaki_maskgit")
CHIPS = ("v5p:64", "v6e:64", "v4:64")
ROWS = {
    f"{chips.partition(':')[0]} {model.replace('_', ' ')}": (model, chips)
    for chips in CHIPS
    for model in MODELS
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Search for the rows that are not there yet, and show all."""
    flags = parser(__doc__).parse_args(arguments)
    found = collect(flags, list(ROWS), measure)
    print("\n".join([HEADER, *(line(name, found.get(name)) for name in ROWS)]))


def parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of a table whose rows take minutes each."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--rows", default="", metavar="REGEX", help="only rows that this finds")
    flags.add_argument("--size", default="paper", help="of the experiments; default: paper")
    flags.add_argument("--effort", default="O1", help="of the compiler; default: O1")
    flags.add_argument("--compiles", type=int, default=2, help="of a row at most; default: 2")
    flags.add_argument("--output", type=Path, metavar="JSONL", help="append what is missing")
    flags.add_argument("--from", dest="source", type=Path, metavar="JSONL", help="compile nothing")
    return flags


Measure = Callable[[str, argparse.Namespace], dict[str, Any]]


def collect(
    flags: argparse.Namespace, names: Sequence[str], measure: Measure
) -> dict[str, dict[str, Any]]:
    """The rows by name: those of the file, and without --from the missing ones too."""
    file = flags.source or flags.output
    lines = file.read_text().splitlines() if file and file.exists() else []
    found = {row["row"]: row for row in map(json.loads, lines)}
    if flags.source:
        return found
    for name in names:
        if name in found or not re.search(flags.rows, name):
            continue
        row = {"row": name, "effort": flags.effort, "size": flags.size} | measure(name, flags)
        found[name] = row
        if flags.output:
            with flags.output.open("a") as output:
                output.write(json.dumps(row) + "\n")
    return found


def measure(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """The best way of one row."""
    model, chips = ROWS[name]
    chips = chips if flags.size == "paper" else chips.replace(":64", ":4")
    return run(
        name,
        f"--gin_file=experiments/{model}_{flags.size}.gin",
        "--fit",
        f"--chips={chips}",
        f"--compiles={flags.compiles}",
        f"--effort={flags.effort}",
    )


def run(name: str, *arguments: str) -> dict[str, Any]:
    """What `vidgen plan --json` says, and the processor seconds that it took."""
    command = [sys.executable, "-m", "vidgen.cli.main", "plan", "--json", *arguments]
    used = processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    used = round(processor_seconds() - used, 1)
    print(f"{name}: {used:.0f} processor seconds", file=sys.stderr, flush=True)
    if done.returncode:
        print(done.stderr.strip()[-2000:], file=sys.stderr, flush=True)
        return {"error": done.stderr.strip().splitlines()[-1:], "processor_seconds": used}
    return json.loads(done.stdout) | {"processor_seconds": used}


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def line(name: str, found: Mapping[str, Any] | None) -> str:
    """One row of the table."""
    chips, _, model = name.partition(" ")
    if found is None:
        return f"| {model} | 64 x {chips} | not measured" + " |" * 9
    best = found.get("best")
    if best is None:
        why = "; ".join(f"{row['way']}: {row['why']}" for row in found.get("lost", ()))
        return f"| {model} | 64 x {chips} | {why or 'failed'}" + " |" * 9
    report, limits = best["report"], best["bound"]
    mesh = best["way"].partition(", batch ")[0]
    cells = (
        model,
        f"64 x {chips}",
        mesh,
        best["remat"] or "-",
        f"{best['batch']} in {best['microbatches']}",
        f"{report['compile_processor_seconds']:,.0f}",
        f"{gib(best['peak'])} of {gib(report['device_bytes'])}",
        gib(sum(report["collective_bytes_per_device"].values())),
        f"{limits['mfu_overlapped']:.0%} / {limits['mfu_alone']:.0%}".replace("%", ""),
        limits["waits_for"],
        f"{found['compiled']} of {found['candidates']}",
    )
    return "| " + " | ".join(cells) + " |"


def gib(count: float) -> str:
    """Bytes in GiB."""
    return f"{count / GIB:.1f}"


if __name__ == "__main__":
    main()
