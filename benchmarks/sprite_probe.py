"""Measures what a model trained on the sprites has learned, against the generator's own truth.

    python benchmarks/sprite_probe.py --model=runs/a                  # the last checkpoint
    python benchmarks/sprite_probe.py --model=runs/a --all_steps      # every checkpoint kept
    python benchmarks/sprite_probe.py --model=runs/cascade            # a folder with all stages

For each checkpoint it generates clips for prompts whose subject, motion and background are known,
half of them combinations that training never showed, and reads the clips with
vidgen/evals/sprite_probe.py. It prints the share read right with its standard error, and writes
MODEL_DIR/probe.jsonl and a sheet of frames, MODEL_DIR/probe_STEP.png; of a model that comes with
the package, into the current folder.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from vidgen import gin_utils
from vidgen.data.sprites import Sprites, Triple
from vidgen.data.video_writer import write_video
from vidgen.evals import sprite_probe
from vidgen.gin_sessions import Sessions
from vidgen.runs import stages
from vidgen.runs.generate import Generate
from vidgen.train.checkpoints import Checkpointer


def prompts(sprites: Sprites, count: int) -> tuple[list[Triple], list[str]]:
    """`count` triples of the split of `sprites`, drawn with a fixed seed, and their captions."""
    triples = sprites.triples(sprites.split)
    rng = np.random.default_rng(0)
    chosen = [triples[i] for i in rng.permutation(len(triples))[:count]]
    scenes = [sprites.scene_of(*triple, rng) for triple in chosen]
    return chosen, [sprites.caption(scene) for scene in scenes]


def generated(flags: argparse.Namespace, captions: list[str], step: int | None) -> list[np.ndarray]:
    """A clip for every caption, by the stage or the cascade in flags.model."""
    sessions = Sessions(["runs/generate.gin"], [], [])
    given: dict[str, Any] = {"prompts": captions, "batch_size": min(32, len(captions))}
    folders = stages.find(flags.model)
    given["stages"] = [sessions.build_trained(stages.Stage, folder) for folder in folders]
    given["sampling"] = stages.Sampling(
        steps=flags.steps, guidance=flags.guidance, temperature=flags.temperature
    )
    run = sessions.build(Generate, checkpoint_step=step, **given)
    return [video for _, video in run.videos()]


def home(model: str) -> Path:
    """Where the results go."""
    return Path(model) if Path(model).is_dir() else Path()


def probe(flags: argparse.Namespace, step: int | None) -> dict:
    """Generate from one checkpoint, read the clips, and return the scores."""
    config = str(stages.find(flags.model)[0] / "config.gin")
    scores: dict = {"step": step, "clips": flags.clips}
    asked = ("steps", "guidance", "temperature")
    scores["sampling"] = {n: getattr(flags, n) for n in asked if getattr(flags, n) is not None}
    videos = []
    for split in ("train", "held_out"):
        with gin_utils.session(["runs/train.gin", config]):
            sprites = gin_utils.build(Sprites, split=split, templates=1)
        triples, captions = prompts(sprites, flags.clips // 2)
        clips = [sprite_probe.smaller(clip) for clip in generated(flags, captions, step)]
        readings = [sprite_probe.read(clip, sprites) for clip in clips]
        shares = sprite_probe.accuracy(readings, triples)
        shares["error"] = float(np.mean([reading.error for reading in readings]))
        scores[split] = shares
        videos += clips[:8]
    sheet = home(flags.model) / f"probe_{'cascade' if step is None else step}.png"
    write_video(sheet, np.stack(videos), 8.0)
    return scores


def main() -> None:
    """Probe one checkpoint or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a MODEL_DIR, or a folder of them")
    parser.add_argument("--clips", type=int, default=112, help="clips a checkpoint (half held out)")
    parser.add_argument("--steps", type=int, default=None, help="sampling steps")
    parser.add_argument("--guidance", type=float, default=None, help="guidance weight")
    parser.add_argument("--temperature", type=float, default=None, help="of a masked transformer")
    parser.add_argument("--all_steps", action="store_true", help="every checkpoint kept")
    flags = parser.parse_args()
    steps: list[int | None] = [None]
    if (Path(flags.model) / "checkpoints").is_dir():
        with Checkpointer(flags.model, read_only=True) as checkpointer:
            steps = list(checkpointer.steps())
    for step in steps if flags.all_steps else steps[-1:]:
        began = time.time()
        scores = probe(flags, step)
        for split in ("train", "held_out"):
            n = flags.clips // 2
            cells = [
                f"{name} {share:.2f} ±{np.sqrt(share * (1 - share) / n):.2f}"
                for name, share in scores[split].items()
                if name != "error"
            ]
            error = f"error {scores[split]['error']:.2f}"
            print(f"step {step or 'last':6} {split:8} {'  '.join(cells)}  {error}")
        scores["seconds"] = round(time.time() - began, 1)
        with open(home(flags.model) / "probe.jsonl", "a") as log:
            log.write(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main()
