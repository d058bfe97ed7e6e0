"""The training loss of models on clips that they were not trained on, with its standard error.

    python benchmarks/held_out_loss.py --models=runs/a,runs/average --clips=64
    python benchmarks/held_out_loss.py --models=imagen_teachers/base,runs/lora --data=my_videos

The loss, with its weights and noise levels, is that of the first model's configuration, and so are
the clips: its held-out data, or the videos in --data with their captions. For each clip the loss is
the mean over `draws` of noise (of a masked transformer: of masks), which are the same for every
model, so that a difference between two models has a smaller error than either loss: it is given
with the first model. The parts of a loss are means by noise level (log-SNR below -2, to 2, above)
or by how much is masked. Prints a Markdown table, and writes a JSON line a model to --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterator
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
from vidgen.train.batches import encode_captions
from vidgen.train.metrics import Accumulator
from vidgen.train.weights import open_weights
from vidgen.types import VideoBatch

HEAD = ("model", "step", "clips", "loss", "minus the first model's", "its parts")


def clips(evaluated: setup.EvalModel, flags: argparse.Namespace) -> Iterator[tuple[Any, str]]:
    """Yield (video, caption) of the clips."""
    if flags.data is not None:
        source = FolderSource(path=flags.data, shape=evaluated.model.shape)
        evaluated = dataclasses.replace(evaluated, source=source, held_out=None)
    protocol = dataclasses.replace(evaluated.protocol, clips=flags.clips)
    real = dataclasses.replace(evaluated, protocol=protocol).real_clips(evaluated.model.shape)
    yield from map(real.read, range(flags.clips))


class Losses:
    """The loss of one configuration on a number of clips, for any weights that fit it."""

    def __init__(self, folder: Path, flags: argparse.Namespace) -> None:
        """Read the configuration, the clips and what the loss reads besides."""
        sessions = Sessions(["runs/evaluate.gin"], [], [])
        stage = stages.build_trained(sessions, stages.Stage, folder)
        self.model, self.encoder = stage.model, stage.text_encoder
        evaluated = stages.build_trained(sessions, setup.EvalModel, folder)
        self.batches = [self._batch(*clip, flags.draws) for clip in clips(evaluated, flags)]
        self.frozen = None if stage.frozen is None else stage.frozen()
        self.key = jax.random.key(flags.seed)
        self.loss = jax.jit(functools.partial(self.model.loss, train=False))

    def _batch(self, video: Any, caption: str, draws: int) -> Any:
        """Return a clip as a batch, once for each draw of noise."""
        shown: Any = np.stack([video] * draws)  # in [-1, 1] already
        text = encode_captions([caption] * draws, self.encoder)
        alone: Any = np.zeros(draws, bool)
        return VideoBatch(video=shown, text=text, independent_frames=alone)

    def __call__(self, folder: Path) -> tuple[list[float], dict[str, float]]:
        """Return the loss of each clip with the weights in a folder, and means of its parts."""
        text = (self.encoder.length, self.encoder.dim)
        params = frozen.restored(self.model, folder, text=text)
        keys = [jax.random.fold_in(self.key, number) for number in range(len(self.batches))]
        pairs = zip(self.batches, keys, strict=True)
        losses, total = [], Accumulator()
        for batch, key in pairs:
            loss, metrics = self.loss(params, self.frozen, batch, key)
            losses.append(float(loss))
            total.add({name: mean for name, mean in metrics.items() if name.startswith("loss_")})
        return losses, total.result()


def cell(values: Any, digits: int = 4) -> str:
    """A mean and its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", required=True, help="folders of one stage, by commas")
    parser.add_argument("--data", help="a folder of videos with captions; default: their own")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--draws", type=int, default=16, help="of noise, for each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="a .jsonl file to add to")
    flags = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.ERROR)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    folders = {name: stages.find(name)[0] for name in flags.models.split(",")}
    losses, first = Losses(next(iter(folders.values())), flags), None
    for name, folder in folders.items():
        found, parts = losses(folder)
        with open_weights(folder) as weights:
            step = weights.latest_step()
        first = found if first is None else first
        gap = "" if first is found else cell(np.subtract(found, first))
        shown = ", ".join(f"{part[5:]} {value:.3f}" for part, value in parts.items())
        print(f"| {name} | {step} | {len(found)} | {cell(found)} | {gap} | {shown} |", flush=True)
        if flags.output is not None:
            row = {"model": name, "step": step, "losses": found}
            row |= parts | {"data": flags.data, "draws": flags.draws, "seed": flags.seed}
            with flags.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
