"""How well video tokenizers reconstruct clips that they were not trained on.

    python benchmarks/tokenizer.py --model=runs/phenaki/cvivit --model=runs/per_frame \\
        --data=shots/held_out --clips=64

For every model: tokens of a clip, PSNR of the reconstructions (peak 2, the range of [-1, 1]; mean
over clips, without those that are identical to the truth, which JSON counts), the share of the
codebook that is used and the perplexity over all tokens of all clips.
Clips are those of the model's own held-out data, or of the videos in --data, at the size and rate
the model was trained for; the same for all models of one size. One JSON line a model goes to
MODEL/tokenizer.jsonl, a Markdown table to standard output, and pictures of the first clips (truth
above reconstruction) to MODEL/reconstructions.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from vidgen.config import gin_utils
from vidgen.data.pipeline import Pipeline
from vidgen.data.sources.folder import FolderSource
from vidgen.data.video.encode import write_video
from vidgen.data.video.transforms import to_float
from vidgen.evals import pictures, uncertainty
from vidgen.train import frozen
from vidgen.train.train import Train
from vidgen.train.weights import open_weights

HEAD = ("model", "steps", "clip", "tokens", "PSNR, dB", "codes", "codes used", "perplexity")


def clips(run: Train, data: str | None, count: int, batch_size: int):
    """Batches of `count` clips that the run did not train on, in [-1, 1]."""
    model: Any = run.trainer.model
    if data is not None:
        source = FolderSource(path=data, shape=model.shape, missing_captions="empty")
        dataset: Any = Pipeline(source=source, batch_size=batch_size, seed=1, repeat=True)
    elif run.held_out is not None:
        dataset = run.held_out.dataset
    else:
        raise ValueError(f"{run.model_dir} has no held-out data of its own; give --data=FOLDER.")
    iterator, made = dataset.iterator(process=(0, 1)), 0
    while made < count:
        video = to_float(np.asarray(next(iterator)["video"]))[: count - made]
        made += len(video)
        yield video


def measure(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """The row of one model."""
    with gin_utils.session(["runs/train.gin", str(folder / "config.gin")]):
        run = gin_utils.build(Train)
    model: Any = run.trainer.model
    params = frozen.restored(model, folder)
    with open_weights(folder) as weights:
        step = weights.latest_step()
    encode, decode = jax.jit(model.encode), jax.jit(model.decode)
    psnr, tokens, shown = [], [], []
    for video in clips(run, flags.data, flags.clips, flags.batch_size):
        found = encode(params, video)
        made = np.asarray(decode(params, found))
        psnr += list(pictures.psnr(made, video))
        tokens.append(np.asarray(found))
        shown += [x for pair in zip(video, made, strict=True) for x in pair]
    write_video(folder / "reconstructions.png", np.stack(shown[:12]), model.shape.fps)
    value, _, identical = uncertainty.of_different(np.asarray(psnr))
    share = np.bincount(np.concatenate(tokens).ravel(), minlength=model.codes)
    share = share / share.sum()
    return {
        "model": folder.name,
        "steps": step,
        "clip": str(model.shape),
        "tokens": int(np.prod(model.grid(*model.shape.thwc[:3]))),
        "psnr": value if identical < len(psnr) else None,
        "identical": identical,
        "codes": model.codes,
        "codes_used": float(np.mean(share > 0)),
        "perplexity": float(np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))),
        "clips": len(psnr),
        "data": flags.data or "held-out data of the run",
    }


def main() -> None:
    """Read the flags, measure every model, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", required=True, metavar="MODEL_DIR")
    parser.add_argument("--data", help="a folder of videos; default: the model's held-out data")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    flags = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.ERROR)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for folder in flags.model:
        row = measure(folder, flags)
        with (folder / "tokenizer.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        psnr = "inf" if row["psnr"] is None else f"{row['psnr']:.2f}"
        cells = (row["model"], row["steps"], row["clip"], row["tokens"], psnr)
        cells += (row["codes"], f"{row['codes_used']:.0%}", f"{row['perplexity']:.0f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
