"""The training loss of models on clips that they were not trained on, with its standard error.

    python benchmarks/held_out_loss.py runs/a runs/average --clips=64
    python benchmarks/held_out_loss.py imagen_teachers/base runs/lora --data=negatives/held_out

For each clip the loss is the mean over `draws` of noise (of a masked transformer: of masks), which
are the same for every model, so that a difference between two models has a smaller error than
either loss: it is given with the first model. Clips are those of the models' own held-out data, or
of the videos in --data with their captions. Prints a Markdown table, and writes a JSON line a model
to --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from vidgen.config.gin_sessions import Sessions
from vidgen.data.sources.folder import FolderSource
from vidgen.evals import setup
from vidgen.inference import stages
from vidgen.train import frozen
from vidgen.train.batches import encode_batch
from vidgen.train.weights import open_weights

HEAD = ("model", "step", "clips", "loss", "minus the first model's")


def clips(evaluated: setup.EvalModel, data: str | None, count: int) -> list[tuple[Any, str]]:
    """Return (video, caption) of `count` clips."""
    if data is not None:
        source = FolderSource(path=data, shape=evaluated.model.shape)
        evaluated = dataclasses.replace(evaluated, source=source, held_out=None)
    protocol = dataclasses.replace(evaluated.protocol, clips=count)
    real = dataclasses.replace(evaluated, protocol=protocol).real_clips(evaluated.model.shape)
    return [real.read(number) for number in range(count)]


def losses(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Return the loss of each clip, and the step of the model."""
    (folder,) = stages.find(name)
    sessions = Sessions(["runs/evaluate.gin"], [], [])
    stage = stages.build_trained(sessions, stages.Stage, folder)
    evaluated = stages.build_trained(sessions, setup.EvalModel, folder)
    model, encoder = stage.model, stage.text_encoder
    params = frozen.restored(model, folder, text=(encoder.length, encoder.dim))
    read = None if stage.frozen is None else stage.frozen()

    @jax.jit
    def loss(params: Any, read: Any, batch: Any, key: Any) -> Any:
        return model.loss(params, read, batch, key, train=False)[0]

    found = []
    for number, (video, caption) in enumerate(clips(evaluated, flags.data, flags.clips)):
        raw = {
            "video": np.stack([video] * flags.draws),
            "caption": [caption] * flags.draws,
            "independent_frames": np.zeros(flags.draws, bool),
        }
        batch = encode_batch(raw, encoder)
        key = jax.random.fold_in(jax.random.key(flags.seed), number)
        found.append(float(loss(params, read, batch, key)))
    with open_weights(folder) as weights:
        return {"model": name, "step": weights.latest_step(), "losses": found}


def cell(values: Any, digits: int = 4) -> str:
    """A mean and its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", help="folders of one stage, or names of the package's")
    parser.add_argument("--data", help="a folder of videos with captions; default: their own")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--draws", type=int, default=16, help="of noise, for each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="a .jsonl file to add to")
    flags = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.ERROR)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    first = None
    for name in flags.models:
        row = losses(name, flags)
        values = np.asarray(row["losses"])
        first = values if first is None else first
        gap = "" if first is values else cell(values - first)
        print(f"| {name} | {row['step']} | {len(values)} | {cell(values)} | {gap} |", flush=True)
        if flags.output is not None:
            settings = {"data": flags.data, "draws": flags.draws, "seed": flags.seed}
            with flags.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | settings) + "\n")


if __name__ == "__main__":
    main()
