"""Measures what a model trained on the sprites has learned, against the generator's own truth.

    python benchmarks/sprite_probe.py --model=runs/a                  # the last checkpoint
    python benchmarks/sprite_probe.py --model=runs/a --all_steps      # every checkpoint kept
    python benchmarks/sprite_probe.py --model=runs/cascade            # a folder with all stages
    python benchmarks/sprite_probe.py --model=runs/a --true           # what it learned from

For each checkpoint it generates clips for prompts whose subject, motion and background are known,
half of them combinations that training never showed, and reads the clips with
vidgen/sprites/probe.py. It prints the share read right with its standard error, and writes
MODEL_DIR/probe.jsonl and a sheet of frames, MODEL_DIR/probe_STEP.png; of a model that comes with
the package, into the current folder.

With --true it reads clips of the data in the place of generated ones: so is a model read that draws
from them perfectly, without guidance. Clips that begin with another motion than their caption names
(data/sprite_turns.gin) are read "wrong", and so are those of a model that makes as many.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.data.video.encode import write_video
from vidgen.data.video.transforms import to_float
from vidgen.inference import stages
from vidgen.inference.generate import Generate
from vidgen.inference.sampling_settings import Sampling
from vidgen.sprites import probe as sprite_probe
from vidgen.sprites.scenes import SpriteScene
from vidgen.sprites.sprites import Sprites
from vidgen.train.checkpoints import Checkpointer


def scenes(sprites: Sprites, count: int) -> list[SpriteScene]:
    """`count` scenes of triples of the split of `sprites`, each as often, with a fixed seed."""
    triples = sprites.triples(sprites.split)
    rng = np.random.default_rng(0)
    chosen = np.resize(rng.permutation(len(triples)), count)
    return [sprites.scene_of(*triples[i], rng) for i in chosen]


def triples_of(asked: list[SpriteScene]) -> list[tuple[str, str | None, str]]:
    """What clips of these scenes should be read as."""
    return [(scene.subject, scene.motion, scene.background) for scene in asked]


def generated(flags: argparse.Namespace, captions: list[str], step: int | None) -> list[np.ndarray]:
    """A clip for every caption, by the stage or the cascade in flags.model."""
    sessions = Sessions(["runs/generate.gin"], [], [])
    given: dict[str, Any] = {"prompts": captions, "batch_size": min(32, len(captions))}
    folders = stages.find(flags.model)
    given["stages"] = [stages.build_trained(sessions, stages.Stage, folder) for folder in folders]
    given["sampling"] = Sampling(
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
    scores: dict = {"step": step, "clips": flags.clips, "true": flags.true}
    names = ("steps", "guidance", "temperature")
    scores["sampling"] = {n: getattr(flags, n) for n in names if getattr(flags, n) is not None}
    videos = []
    for split in ("train", "held_out"):
        with gin_utils.session(["runs/train.gin", config]):
            sprites = gin_utils.build(Sprites, split=split, templates=1)
        asked = scenes(sprites, flags.clips // 2)
        if flags.true:
            made = [to_float(sprites.render(scene)) for scene in asked]
        else:
            made = generated(flags, [sprites.caption(scene) for scene in asked], step)
        clips = [sprite_probe.smaller(clip) for clip in made]
        readings = [sprite_probe.read(clip, sprites) for clip in clips]
        shares = sprite_probe.accuracy(readings, triples_of(asked))
        shares["error"] = float(np.mean([reading.error for reading in readings]))
        scores[split] = shares
        videos += clips[:8]
    kind = "true" if flags.true else "cascade" if step is None else step
    sheet = home(flags.model) / f"probe_{kind}.png"
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
    parser.add_argument("--true", action="store_true", help="read the data's own clips")
    flags = parser.parse_args()
    steps: list[int | None] = [None]
    if (Path(flags.model) / "checkpoints").is_dir() and not flags.true:
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
            what = "true clips" if flags.true else f"step {step or 'last':6}"
            print(f"{what} {split:8} {'  '.join(cells)}  {error}")
        scores["seconds"] = round(time.time() - began, 1)
        with open(home(flags.model) / "probe.jsonl", "a") as log:
            log.write(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main()
