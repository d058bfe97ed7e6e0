"""How long a video of one unchanged prompt keeps its subject.

    python benchmarks/drift.py --model=phenaki_demo --frames=203 --clips=8 -o drift.png

Prompts are combinations that training never showed, each a story of one scene. Windows of 11
frames that begin 6 apart, as a story's segments do, are read by synthesis (story_probe.py): the
subject and the background that fit best, and the root mean square of what is left between the
window and the subject asked for, drawn over it frame by frame where it is seen, in levels of 255.
Windows are taken together in four parts of the video. A strip of each video goes to -o.

    first     the first window, which no other one came before
    subject   share of windows in which the subject asked for is the one that fits best
    error     what is left; of true clips as well, which are not drawn where they are exactly
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import story_probe
from jaxtyping import Float
from sprite_probe import scenes

import vidgen
from vidgen.config import gin_utils
from vidgen.data.video.transforms import to_float
from vidgen.display import sheets
from vidgen.inference import stages
from vidgen.sprites.scenes import SpriteScene
from vidgen.sprites.sprites import Sprites

WINDOW, STRIDE, PARTS = 11, 6, 4
HEADER = "| windows | subject | background | error, of 255 |\n|---|---|---|---|"


def world(model: str) -> Sprites:
    """The held-out sprites of what the model was trained on."""
    folder = stages.find(model)[0]
    with gin_utils.session(["runs/train.gin", str(folder / "config.gin")]):
        return gin_utils.build(Sprites, split="held_out", templates=1)


def read_windows(
    video: Float[np.ndarray, "t h w 3"], scene: SpriteScene, sprites: Sprites
) -> Float[np.ndarray, "windows 3"]:
    """Whether each window shows the subject and the background asked for, and what is left."""
    rows = []
    for begin in range(0, len(video) - WINDOW + 1, STRIDE):
        window = video[begin : begin + WINDOW]
        seen = story_probe.read_part(window, sprites)
        drawn = story_probe.follow(window, scene.subject, scene.background, sprites)
        rows.append(
            (seen.subject == scene.subject, seen.background == scene.background, drawn.error**0.5)
        )
    return np.array(rows, float)


def row(name: str, readings: Float[np.ndarray, "clips windows 3"]) -> str:
    """Means over clips with their standard errors."""
    of_clips = readings.mean(axis=1)
    means, errors = of_clips.mean(0), of_clips.std(0, ddof=1) / len(of_clips) ** 0.5
    cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(means[:2], errors[:2], strict=True)]
    return " | ".join([f"| {name}", *cells, f"{means[2]:.1f} ± {errors[2]:.1f} |"])


def table(readings: Float[np.ndarray, "clips windows 3"], true: np.ndarray) -> str:
    """The parts of the videos, and one window of true clips."""
    lines = [HEADER, row(f"first of {len(readings)} videos", readings[:, :1])]
    numbers = np.arange(1, readings.shape[1])
    for part in filter(len, np.array_split(numbers, PARTS)):
        name = f"{part[0] + 1} to {part[-1] + 1}"
        lines.append(row(name, readings[:, part]))
    return "\n".join([*lines, row(f"of {len(true)} true clips", true)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the videos, read them, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="phenaki_demo", help="a model that tells stories")
    parser.add_argument("--frames", type=int, default=203)
    parser.add_argument("--clips", type=int, default=8, help="prompts, at least 2")
    parser.add_argument("--steps", help="of each clip, as of `vidgen generate`")
    parser.add_argument("-o", "--output", type=Path, default=Path("drift.png"))
    flags = parser.parse_args(arguments)
    sprites = world(flags.model)
    asked = scenes(sprites, flags.clips)
    model = vidgen.load(flags.model)
    readings, true, strips = [], [], {}
    for seed, scene in enumerate(asked):
        told = {"frames": flags.frames, "steps": flags.steps, "seed": seed}
        video = model.story(sprites.caption(scene), **told).video
        readings.append(read_windows(video, scene, sprites))
        true.append(read_windows(to_float(sprites.render(scene)), scene, sprites))
        strips[f"{seed}: {sprites.caption(scene)}"] = video
    print(table(np.array(readings), np.array(true)))
    sheets.frames(strips, columns=12).save(flags.output)


if __name__ == "__main__":
    main()
