"""How soon a cascade of students can make one clip on eight cores of TPU, as the compiler says.

    python benchmarks/sampling_time.py --output=sampling_time.jsonl  # 11 minutes of one core
    python benchmarks/sampling_time.py --from=sampling_time.jsonl    # the tables of what is there

A row is one stage on one kind of chips: a step that samples a whole clip, compiled for them
(pip install libtpu; no TPU is needed), the frames of the clip and the weights cut over all chips
(gin_configs/mesh/frames.gin). Rows that --output holds are not compiled again.

    peak      of one chip in a step: weights, videos and activations
    held      peak, the weights of the next stage, which come meanwhile, and the text encoder's
    step      seconds that a step takes at least, at the chip's published rates: operations, bytes
              from and to memory, bytes from other chips (vidgen/plan/bound.py)
    stage     all steps, where what a step does overlaps and where nothing does
    next      the weights of the next stage over the network, at its published rate
    compile   processor seconds
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.cli import xla_flags
from vidgen.config import gin_utils
from vidgen.plan import clip_time
from vidgen.plan.estimate import Plan
from vidgen.train import chips
from vidgen.types import STAGES

# Google counts the cores of a v5p, two a chip, and the chips of a v6e. One process has all of them:
# either is one machine (of v6e there are smaller ones, too).
CHIPS = {"v5p-8": ("v5p:2x2x1", 4), "v6e-8": ("v6e:2x4", 8)}
STUDENT_STEPS = 8
GIB = 2**30
# Of what a plan says of a stage.
FIELDS = ("name", "parameters", "output_shape", "mesh", "devices", "sampling_steps", "evaluations")
FIELDS += ("flops_per_clip", "bytes_per_device", "sampling")
HEADER = (
    "| stage | clip | weights, GiB | peak, GiB | held, GiB | operations, ms | memory, ms "
    "| links, ms | stage, s | alone, s | next, s | effort | compile, s |\n" + "|---" * 13 + "|"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the rows, or show those of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", metavar="REGEX", help='of names such as "v5p-8 base"')
    parser.add_argument("--size", default="paper", choices=("paper", "tiny"))
    parser.add_argument("--effort", default="O0", help='of the compiler; "" is its own')
    parser.add_argument("--output", type=Path, metavar="JSONL", help="append each row here")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSONL", help="compile nothing")
    flags = parser.parse_args(arguments)
    path = flags.source or flags.output
    rows = {row["row"]: row for row in read(path)} if path and path.exists() else {}
    names = [f"{kind} {stage}" for kind in CHIPS for stage in STAGES]
    xla_flags.set_defaults()  # as `vidgen` does
    for name in () if flags.source else names:
        if name in rows or not re.search(flags.rows, name):
            continue
        rows[name] = compiled(name, flags.size, flags.effort)
        print(
            f"{name}: {rows[name]['compile_processor_seconds']:.0f} s", file=sys.stderr, flush=True
        )
        if flags.output:
            with flags.output.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
    tables = (table(kind, [rows.get(f"{kind} {stage}") for stage in STAGES]) for kind in CHIPS)
    print("\n\n".join(tables))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def compiled(name: str, size: str, effort: str) -> dict[str, Any]:
    """Compile the sampling step of one row, and return what is said of it."""
    kind, stage = name.split()
    topology, chips_there = CHIPS[kind]
    files = ["runs/plan.gin", f"experiments/imagen_cascade_{size}.gin", "mesh/frames.gin"]
    with gin_utils.session(files, ["T5.mesh=%MESH"] if size == "paper" else []):
        whole = gin_utils.build(Plan, sampling=True, topology=topology, effort=effort)
    (trainer,) = (trainer for trainer in whole.trainers if trainer.model.name == stage)
    settings = {"batch_size": 1, "student_steps": STUDENT_STEPS, "device_count": chips_there}
    start, used = time.perf_counter(), time.process_time()
    one = dataclasses.replace(whole, trainers=[trainer], chained=False, **settings)
    report = one.report(brief=True)
    (model,) = report["models"]
    return {
        "row": name,
        "effort": effort,
        "compile_seconds": round(time.perf_counter() - start, 1),
        "compile_processor_seconds": round(time.process_time() - used, 1),
        "text_encoder": report["text_encoder"],
        "model": {field: model[field] for field in FIELDS},
    }


def table(kind: str, rows: Sequence[dict[str, Any] | None]) -> str:
    """The table of one kind of chips, a row for each stage, and the line of the whole clip."""
    lines = [f"{kind}, {CHIPS[kind][1]} chips:\n\n{HEADER}"]
    known = [row for row in rows if row]
    clip = whole(known) if len(known) == len(STAGES) else None
    for index, (stage, row) in enumerate(zip(STAGES, rows, strict=True)):
        empty = f"| {stage} | not compiled yet {'| ' * 11}|"
        lines.append(line(row, clip, index) if row else empty)
    if clip:
        first = clip["load_seconds"][0]
        lines.append(
            f"\nOne clip takes at least {clip['overlapped']:.2f} s ({clip['alone']:.2f} s where "
            f"nothing overlaps), {first:.2f} s of them before the first stage can begin."
        )
    return "\n".join(lines)


def whole(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The bound of a clip through all stages; None where one does not fit."""
    said = rows[0]["model"]["sampling"]["compiled_for"]  # "4 x TPU v5, effort O0"
    chip = chips.of(said.partition(" x ")[2].partition(",")[0])
    return clip_time.of_cascade([row["model"] for row in rows], rows[0]["text_encoder"], chip)


def line(row: dict[str, Any], clip: dict[str, Any] | None, index: int) -> str:
    """One row of a table."""
    model, program = row["model"], row["model"]["sampling"]
    shape = " x ".join(map(str, model["output_shape"][:3]))
    cells = [model["name"], shape, f"{model['bytes_per_device']['parameters'] / GIB:.2f}"]
    peak = program["peak_bytes_per_device"]
    if not program["fits"]:
        return "| " + " | ".join([*cells, "does not fit", *["-"] * 9]) + " |"
    cells.append(f"{peak / GIB:.2f}")
    cells.append(f"{clip['held_bytes_per_device'][index] / GIB:.2f}" if clip else "-")
    if program["bound"] is None:
        cells += ["?"] * 5
    else:
        seconds = program["bound"]["seconds"]
        cells += [f"{1e3 * seconds[name]:.3g}" for name in ("compute", "memory", "links")]
        cells += [f"{program['seconds_per_clip'][name]:.3g}" for name in ("overlapped", "alone")]
    after = clip["load_seconds"][index + 1 :] if clip else []
    cells.append(f"{after[0]:.2f}" if after else "-")
    cells += [row["effort"] or "own", f"{row['compile_processor_seconds']:,.0f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
