"""What an option of training changes: small models with and without it, of several seeds.

    python benchmarks/training_options.py flow --seeds=2 -o options.jsonl

Each variant of an experiment below is the tiny base model with a narrower network, trained on the
sprite videos by `vidgen train` of the same gin files, seed by seed. It then makes clips of prompts
whose subject, motion and background are known, which the sprite probe reads; `error` is that of
the nearest true clip, relative to an empty background (true clips: about .03). A Markdown table
goes to standard output, with the number of clips and seeds; one JSON line a model to --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sprite_probe as probing  # beside this file

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import stages
from vidgen.inference.generate import Generate
from vidgen.sprites import probe as sprite_probe
from vidgen.sprites.sprites import Sprites
from vidgen.train.saved_config import saved_config
from vidgen.train.train import Train

# A network that takes a minute or two of one core, and a world that it can learn in that time.
SMALL = (
    "base/level0/blocks.LevelSpec.width=32",
    "base/level1/blocks.LevelSpec.width=64",
    "base/level1/blocks.LevelSpec.blocks=1",
    "base/unet.VideoUNet.cond_width=128",
    "Sprites.subjects=('tiger', 'octopus', 'frog', 'star')",
    "Sprites.backgrounds=('green', 'yellow', 'blue', 'black')",
    "Sprites.motions=('moving right', 'moving left', 'moving up', 'moving down')",
    "SAMPLE_VIDEOS=None",
    "HELD_OUT_LOSS=None",
    "CHECKPOINT_EVERY=100000",
    "Train.log_every=100",
    "Trainer.ema_decay=0.99",
    "LearningRate.warmup_steps=50",
    "LEARNING_RATE=2e-3",
    "BATCH_SIZE=16",
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """How one of the compared models is trained, and the samplings that are read.

    Attributes:
      files: gin files after the experiment's.
      bindings: after those of `SMALL`.
      samplings: by their names in the table.
    """

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    samplings: Mapping[str, stages.Sampling] = dataclasses.field(default_factory=dict)


def ladders(kind: str, *steps: int) -> dict[str, stages.Sampling]:
    """Samplings by one kind of sampler in so many steps."""
    return {f"{kind}, {n} steps": stages.Sampling(sampler=kind, steps=n) for n in steps}


UNIFORM = ("base/stage.DiffusionStage.times=@schedules.UniformTimes()",)
FLOW = ("models/imagen/flow.gin",)
EXPERIMENTS: dict[str, dict[str, Variant]] = {
    "flow": {
        "v, cosine, logit-normal times": Variant(samplings=ladders("ddim", 4, 8, 32)),
        "flow, uniform times": Variant(
            FLOW, ("base/stage.DiffusionStage.times=@schedules.UniformTimes()",),
            ladders("euler", 4, 8, 32),
        ),
        "flow, logit-normal times": Variant(FLOW, (), ladders("euler", 4, 8, 32)),
        "flow, logit-normal times, shift 2": Variant(
            FLOW, ("base/schedules.RectifiedFlow.shift=2.0",), ladders("euler", 4, 8, 32)
        ),
    },
}  # fmt: skip


def train(variant: Variant, folder: Path, steps: int, seed: int) -> float:
    """Train a variant into a folder; returns the seconds that it took."""
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", *variant.files]
    own = [f"MODEL_DIR={str(folder)!r}", f"TRAIN_STEPS={steps}", f"SEED={seed}"]
    with gin_utils.session(files, [*SMALL, *variant.bindings, *own]):
        run, config = gin_utils.build(Train), gin_utils.operative_config()
    began = time.perf_counter()
    with saved_config(run.model_dir, config):
        run()
    return time.perf_counter() - began


def scores(folder: Path, sampling: stages.Sampling, clips: int, seed: int) -> dict[str, float]:
    """Make clips of true captions, half of triples that training never showed, and read them."""
    sessions = Sessions(["runs/generate.gin"], [], [])
    stage = stages.build_trained(sessions, stages.Stage, folder)
    readings, truth = [], []
    for split in ("train", "held_out"):
        with gin_utils.session(["runs/train.gin", str(folder / "config.gin")]):
            sprites = gin_utils.build(Sprites, split=split, templates=1)
        asked = probing.scenes(sprites, clips // 2)
        fields: dict[str, Any] = {"stages": [stage], "sampling": sampling, "seed": seed}
        captions = [sprites.caption(scene) for scene in asked]
        run = Generate(prompts=captions, samples=tuple(range(len(asked))), batch_size=32, **fields)
        readings += [sprite_probe.read(video, sprites) for _, video in run.videos()]
        truth += probing.triples_of(asked)
    errors = [reading.error for reading in readings]
    return sprite_probe.accuracy(readings, truth) | {"error": float(np.mean(errors))}


def compare(flags: argparse.Namespace, variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """Train and read every variant with every seed; one row a model and sampling."""
    rows = []
    for seed in range(flags.seeds):
        for name, variant in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds = train(variant, Path(folder), flags.steps, seed)
                for how, sampling in variant.samplings.items():
                    found = scores(Path(folder), sampling, flags.clips, seed)
                    row = {"variant": name, "sampling": how, "seed": seed, **found}
                    rows.append(row | {"train_seconds": round(seconds, 1)})
                    print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: means over seeds, with the range of the seeds' errors."""
    lines = [
        "| model | sampling | subject | motion | all three | error (seeds) |",
        "|---" * 6 + "|",
    ]
    for key in dict.fromkeys((row["variant"], row["sampling"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["sampling"]) == key]
        means = [np.mean([row[n] for row in own]) for n in ("subject", "motion", "all", "error")]
        spread = ", ".join(f"{row['error']:.2f}" for row in own)
        cells = [*key, *(f"{mean:.2f}" for mean in means[:3]), f"{means[3]:.2f} ({spread})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run one experiment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=2, help="models of each variant; default: 2")
    parser.add_argument("--steps", type=int, default=600, help="of training; default: 600")
    parser.add_argument("--clips", type=int, default=64, help="read of each model; default: 64")
    parser.add_argument("-o", "--output", default="options.jsonl", help="a JSON line a model")
    flags = parser.parse_args()
    rows = compare(flags, EXPERIMENTS[flags.experiment])
    with open(flags.output, "a") as log:
        for row in rows:
            settings = {name: getattr(flags, name) for name in ("experiment", "steps", "clips")}
            log.write(json.dumps(settings | row) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
