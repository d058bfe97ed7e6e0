"""How well the stages after the base restore clips that they were not trained on.

    python benchmarks/restoration.py --model=runs/cascade --model=runs/cascade8 --clips=16

Held-out clips of every stage's own data, of the size it trains on, are made small as the stage
before would have them, and sampled at full size with the settings of the stage. PSNR in dB (peak
2, the range of [-1, 1]; mean over clips, without those that are identical to the truth, which JSON
counts) of what comes out, of the frames that a temporal stage adds, and beside it that of
interpolation: bilinear in space, the mean of both neighbors in time.
A Markdown table goes to standard output, one JSON line a folder to FOLDER/restoration.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging as absl_logging

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.evals import pictures, uncertainty
from vidgen.imagen.conditioning import TemporalUpsample
from vidgen.inference import stages
from vidgen.train.batches import encode_batch
from vidgen.train.callbacks import HeldOutLoss


def held_out(folder: Path, encoder: Any, count: int):
    """`count` clips that the stage did not train on, batch by batch."""
    with gin_utils.session(["runs/train.gin", str(folder / "config.gin")]):
        dataset: Any = gin_utils.build(HeldOutLoss, every=1).dataset
    iterator, made = dataset.iterator(process=(0, 1)), 0
    while made < count:
        cut = slice(count - made)
        batch = jax.tree.map(lambda x, cut=cut: x[cut], encode_batch(next(iterator), encoder))
        made += len(batch.video)
        yield batch


def interpolated(conditioner: Any, low: jax.Array) -> jax.Array:
    """`low` at full size without a network."""
    if not isinstance(conditioner, TemporalUpsample):
        return conditioner.up(low)
    known = np.flatnonzero(conditioner.known_frames(low)[0])
    frames = np.arange(low.shape[1] * conditioner.factor)
    after = np.minimum(np.searchsorted(known, frames), len(known) - 1)
    before = np.maximum(np.searchsorted(known, frames, side="right") - 1, 0)
    return (low[:, before] + low[:, after]) / 2


def measure(folder: Path, count: int) -> dict[str, np.ndarray]:
    """PSNR of the stage in `folder` and of interpolation, a number a clip."""
    stage = stages.build_trained(Sessions(["runs/generate.gin"], [], []), stages.Stage, folder)
    model, params = stage.model, stage.load()
    generate = jax.jit(model.generate)
    found: dict[str, list[np.ndarray]] = {"stage": [], "interpolation": []}
    for number, batch in enumerate(held_out(folder, stage.text_encoder, count)):
        low = model.conditioner.degrade(jnp.asarray(batch.video))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), len(low))
        made = generate(params, batch.text, low, keys)
        known = model.conditioner.known_frames(low)
        added = slice(None) if known is None else np.flatnonzero(~np.asarray(known[0]))
        truth = batch.video[:, added]
        for name, video in (
            ("stage", made),
            ("interpolation", interpolated(model.conditioner, low)),
        ):
            made_frames = np.clip(np.asarray(video, np.float32), -1, 1)[:, added]
            found[name].append(pictures.psnr(made_frames, truth))
    return {name: np.concatenate(rows) for name, rows in found.items()}


def main() -> None:
    """Measure all stages of all folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", required=True, help="a cascade; repeatable")
    parser.add_argument("--clips", type=int, default=16, help="of each stage; default: 16")
    flags = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.ERROR)
    print("| model | stage | PSNR, dB | interpolation, dB |\n|---|---|---|---|")
    for model in flags.model:
        rows, identical = {}, {}
        for folder in stages.find(model):
            if folder.name == "base":
                continue
            found = measure(folder, flags.clips).items()
            means = {name: uncertainty.of_different(values) for name, values in found}
            cells = (Path(model).name, folder.name, *(f"{mean[0]:.2f}" for mean in means.values()))
            print(f"| {' | '.join(cells)} |", flush=True)
            finite = {n: v if np.isfinite(v) else None for n, (v, _, _) in means.items()}
            rows[folder.name] = finite
            identical[folder.name] = {name: count for name, (_, _, count) in means.items()}
        with open(Path(model) / "restoration.jsonl", "a") as log:
            line = {"clips": flags.clips, "psnr": rows, "identical": identical}
            log.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
