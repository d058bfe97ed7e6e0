"""Compares what `vidgen plan --compile` says of a training step with what the step takes.

    python benchmarks/memory.py phenaki_cvivit_demo phenaki_maskgit_demo imagen_base_demo
    python benchmarks/memory.py imagen_base_demo --batch_size=16

One Markdown line an experiment, each measured in a process of its own. `predicted` is the peak that
the compiler tells; `measured` the most bytes in use in three steps: of the accelerator's memory, or
on a CPU of this process, less what it held when everything was compiled and nothing yet made.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import child_rows
import jax
import numpy as np
from peer_timing import MIB, forget_peak, peak, resident

from vidgen.config import gin_utils
from vidgen.plan import programs
from vidgen.train import frozen as trained
from vidgen.train.train import Train
from vidgen.train.trainer import Trainer

HEADER = (
    "| experiment | batch | device | predicted, MiB | measured, MiB | |\n|---|---|---|---|---|---|"
)
STEPS = 3


def measure(experiment: str, batch_size: int | None, files: list[str]) -> dict[str, Any]:
    """One line; it must be the first that this process does."""
    files = ["runs/train.gin", f"experiments/{experiment}.gin", *files]
    bindings = ["MODEL_DIR='none'"]
    if "maskgit" in experiment:
        bindings.append("TOKENIZER_DIR='none'")
    if batch_size:
        bindings.append(f"BATCH_SIZE={batch_size}")
    with gin_utils.session(files, bindings):
        run = gin_utils.build(Train)
    trainer, size = run.trainer, run.dataset.batch_size
    model: Any = trainer.model
    spec = model.batch_spec(size, run.text_encoder.length, run.text_encoder.dim)
    device = jax.devices()[0]
    predicted = programs.compiled_training_step(trainer, spec).report["peak_bytes_per_device"]
    steps(trainer, spec)  # compiles all that runs
    forget_peak()
    before = resident()
    steps(trainer, spec, forget_peak)
    used = peak() - before
    if device.platform != "cpu":
        used = (device.memory_stats() or {})["peak_bytes_in_use"]
    return {
        "experiment": experiment,
        "batch": size,
        "device": device.device_kind,
        "predicted": predicted,
        "measured": used,
    }


def steps(trainer: Trainer, spec: Any, begin: Any = lambda: None) -> None:
    """A few steps from fresh weights; `begin` is called when all that they read is there."""
    rng = np.random.default_rng(0)

    def fill(x: Any) -> Any:
        if x.dtype == bool:
            return np.ones(x.shape, bool)
        return rng.normal(size=x.shape, scale=0.5).astype(x.dtype)

    batch = trainer.partitioner.to_global(jax.tree.map(fill, spec))
    frozen = jax.tree.map(fill, trained.spec(trainer.model))
    frozen = jax.device_put(frozen, trainer.partitioner.replicated())
    state = trainer.init_state(jax.random.key(0), spec)
    begin()
    for _ in range(STEPS):
        state, metrics = trainer.train_step(state, frozen, batch, jax.random.key(1), math.inf)
        jax.block_until_ready((state, metrics))


def main() -> None:
    """Measure each experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", help="names of gin_configs/experiments")
    parser.add_argument("--batch_size", type=int, help="instead of that of the experiment")
    parser.add_argument("--gin_file", action="append", default=[], help="read after each of them")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(measure(flags.experiments[0], flags.batch_size, flags.gin_file)))
        return
    print(HEADER, flush=True)
    for name in flags.experiments:
        command = [__file__, name, "--child"]
        command += [f"--batch_size={flags.batch_size}"] if flags.batch_size else []
        command += [f"--gin_file={file}" for file in flags.gin_file]
        row = child_rows.measure(name, command)
        ratio = row["measured"] / row["predicted"]
        sizes = (f"{row[key] / MIB:,.0f}" for key in ("predicted", "measured"))
        print("|", name, "|", row["batch"], "|", row["device"], "|", " | ".join(sizes), end=" ")
        print(f"| {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
