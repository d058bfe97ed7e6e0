"""How well the stages after the base restore clips that they were not trained on.

    python benchmarks/restoration.py --model=runs/cascade --model=runs/cascade8 --clips=16
    python benchmarks/restoration.py --model=imagen_demo --steps=1,2,4,8,32 --output=steps.jsonl
    python benchmarks/restoration.py --from=steps.jsonl    # the table once more

Held-out clips of every stage's own data, of the size it trains on, are made small as the stage
before would have them, and sampled at full size with the settings of the stage, or with as many
steps as --steps says. Of what comes out, of temporal stages of the frames that they add:

    PSNR        in dB (peak 2, the range of [-1, 1]); mean over clips, without those that are
                identical to the truth, which JSON counts
    distance    from the truth in features of SqueezeNet (vidgen/phenaki/perceptual.py)
    detail      mean of |4x - left - right - above - below| over that of the truth: below 1 what
                comes out is softer, above 1 it has grain that is not in the truth

and the same of interpolation: bilinear in space, the mean of both neighbors in time. A Markdown
table of "PSNR / distance / detail" goes to standard output, a JSON line a cell to --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging as absl_logging

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.evals import pictures, uncertainty
from vidgen.evals.clip_metrics import distance_per_pair
from vidgen.imagen.conditioning import TemporalUpsample
from vidgen.inference import stages
from vidgen.phenaki.perceptual import ImagePerceptual
from vidgen.train.batches import encode_batch
from vidgen.train.callbacks import HeldOutLoss

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


def edges(video: np.ndarray) -> float:
    """Mean absolute difference of a pixel and the mean of its four neighbors, times four."""
    inner, sides = video[:, :, 1:-1, 1:-1], (slice(None, -2), slice(2, None))
    rows = sum(video[:, :, side, 1:-1] for side in sides)
    columns = sum(video[:, :, 1:-1, side] for side in sides)
    return np.abs(4 * inner - rows - columns).mean()


def measures() -> dict[str, Measure]:
    """By name: (made, truth), both "b t h w c" in [-1, 1], to one value a clip."""
    return {
        "psnr": pictures.psnr,
        # It was trained at 224 pixels; the windows of these clips have 16 to 64.
        "distance": distance_per_pair(ImagePerceptual(size=128)),
        "detail": lambda made, truth: np.full(len(made), edges(made) / edges(truth)),
    }


def measure(
    folder: Path, count: int, steps: list[int], measured_by: dict[str, Measure]
) -> dict[str, dict[str, np.ndarray]]:
    """By number of steps, and of interpolation: each measure's values, one a clip."""
    stage = stages.build_trained(Sessions(["runs/generate.gin"], [], []), stages.Stage, folder)
    model, params = stage.model, stage.load()
    makers: dict[str, Any] = {}
    for number in steps or [model.sampler.steps]:
        sampler = dataclasses.replace(model.sampler, steps=number)
        makers[str(number)] = jax.jit(dataclasses.replace(model, sampler=sampler).generate)
    rows: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in (*makers, "interpolation")}
    for number, batch in enumerate(held_out(folder, stage.text_encoder, count)):
        low = model.conditioner.degrade(jnp.asarray(batch.video))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), len(low))
        known = model.conditioner.known_frames(low)
        added = slice(None) if known is None else np.flatnonzero(~np.asarray(known[0]))
        truth = np.asarray(batch.video[:, added], np.float32)
        for name, values in rows.items():
            if name in makers:
                video = makers[name](params, batch.text, low, keys)
            else:
                video = interpolated(model.conditioner, low)
            frames = np.clip(np.asarray(video, np.float32), -1, 1)[:, added]
            values.append({key: by(frames, truth) for key, by in measured_by.items()})
    return {
        name: {key: np.concatenate([batch[key] for batch in values]) for key in measured_by}
        for name, values in rows.items()
    }


def rows_of(folder: Path, model: str, flags: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of steps of one stage, and one of interpolation."""
    rows = []
    for name, values in measure(folder, flags.clips, flags.steps, measures()).items():
        psnr, _, identical = uncertainty.of_different(values["psnr"])
        row: dict[str, Any] = {"model": model, "stage": folder.name, "steps": name}
        row |= {"clips": flags.clips, "identical": identical}
        row |= {"psnr": psnr if np.isfinite(psnr) else None}
        rows.append(row | {key: float(np.mean(values[key])) for key in ("distance", "detail")})
    return rows


def cell(row: dict[str, Any]) -> str:
    """What the table says of one row."""
    psnr = "all identical" if row["psnr"] is None else f"{row['psnr']:.2f}"
    return f"{psnr} / {row['distance']:.2f} / {row['detail']:.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """A line a stage, a column a number of steps."""
    steps = dict.fromkeys(row["steps"] for row in rows if row["steps"].isdigit())
    columns = [*steps, "interpolation"]
    names = [*({"1": "1 step"}.get(name, f"{name} steps") for name in steps), "interpolation"]
    lines = [f"| model | stage | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["stage"]), {})[row["steps"]] = cell(row)
    for (model, stage), own in cells.items():
        lines.append(f"| {model} | {stage} | {' | '.join(own.get(name, '') for name in columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all stages of all folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", action="append", default=[], help="a cascade; repeatable")
    add("--clips", type=int, default=16, help="of each stage; default: 16")
    add(
        "--steps",
        type=lambda text: [int(number) for number in text.split(",")],
        default=[],
        help="numbers of sampling steps, as 1,2,4; default: the stage's own",
    )
    add("--output", metavar="FILE", help="a JSON line a cell is added to it")
    add("--from", dest="source", metavar="FILE", help="print the table of such lines and stop")
    flags = parser.parse_args()
    if not (flags.model or flags.source):
        parser.error("name a cascade with --model, or measured cells with --from.")
    absl_logging.set_verbosity(absl_logging.ERROR)
    if flags.source:
        print(table([json.loads(line) for line in Path(flags.source).read_text().splitlines()]))
        return
    rows = []
    for model in flags.model:
        for folder in stages.find(model):
            if folder.name == "base":
                continue
            rows += (new := rows_of(folder, Path(model).name, flags))
            if flags.output:
                with open(flags.output, "a") as log:
                    log.writelines(json.dumps(row) + "\n" for row in new)
    print(table(rows))


if __name__ == "__main__":
    main()
