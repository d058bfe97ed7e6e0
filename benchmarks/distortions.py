"""What Fréchet and kernel distances see: real clips, spoilt in known ways, against other real ones.

    python benchmarks/distortions.py --draws=5 --clips=40 --output=distortions.jsonl
    python benchmarks/distortions.py --from=distortions.jsonl          # the table of what is there

Each draw takes two disjoint sets of sprite clips (16 frames of 64 x 64, all subjects): one stays as
it is, the other is also frozen to its first frame, its frames shuffled, blurred, made noisy. The
table has means and standard deviations over the draws. A draw is a JSON line; one that is there is
not made again. Needs vidgen[eval].

    fvd, kvd    I3D logits
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from vidgen.evals import networks, set_metrics  # noqa: F401 - it registers FVD and KVD
from vidgen.evals.clips import SourceClips
from vidgen.evals.collect import ClipBatch
from vidgen.evals.metrics import METRICS
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

NAMES = ("fvd", "kvd")
SHAPE = VideoShape(frames=16, height=64, width=64, fps=8.0)
BLUR, NOISE = 1.0, 15 / 127.5  # deviations: in pixels; in [-1, 1]


def spoilt(video: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The clips "b t h w 3", in every way."""
    order = np.stack([rng.permutation(video.shape[1]) for _ in video])
    blurred = gaussian_filter(video, (0, 0, BLUR, BLUR, 0), mode="nearest")
    noise = NOISE * rng.standard_normal(video.shape)
    return {
        "other real clips": video,
        "frozen first frame": np.repeat(video[:, :1], video.shape[1], axis=1),
        "shuffled frames": np.stack([clip[i] for clip, i in zip(video, order, strict=True)]),
        f"gaussian blur, {BLUR:g} pixel": blurred,
        "noise, 15 of 255": np.clip(video + noise, -1, 1),
    }


def features(video: np.ndarray) -> np.ndarray:
    """I3D's logits of clips."""
    batch = ClipBatch(video.astype(np.float32), None, [""] * len(video))
    return networks.kinetics_i3d().measurement("generated").compute(batch)


def draw(number: int, count: int) -> dict[str, dict[str, float]]:
    """All distances of one draw."""
    sprites = Sprites(shape=SHAPE, subjects="all", split="train")
    clips = SourceClips(source=sprites, count=2 * count, seed=number)
    video = np.stack([clips.read(n)[0] for n in range(2 * count)])
    real = features(video[:count])
    rows = {}
    for name, other in spoilt(video[count:], np.random.default_rng(number)).items():
        both = [features(other), real]
        rows[name] = {metric: METRICS[metric].value(both)[0] for metric in NAMES}
    return rows


def table(draws: list[dict]) -> str:
    """Means and standard deviations as Markdown."""
    lines = [f"| clips | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}"]
    for name in draws[0]["rows"]:
        cells = []
        for metric in NAMES:
            values = [found["rows"][name][metric] for found in draws]
            cells.append(f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the draws that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--clips", type=int, default=40, help="in each of the two sets")
    parser.add_argument("--output", type=Path, default=Path("distortions.jsonl"))
    parser.add_argument("--from", dest="source", type=Path, metavar="JSONL", help="measure nothing")
    flags = parser.parse_args()
    path = flags.source or flags.output
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {row["draw"] for row in found if row["clips"] == flags.clips}
    missing = [] if flags.source else [n for n in range(flags.draws) if n not in done]
    for number in tqdm(missing, desc="draws", disable=None):
        row = {"draw": number, "clips": flags.clips, "shape": dataclasses.asdict(SHAPE)}
        row["rows"] = draw(number, flags.clips)
        found.append(row)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(table([row for row in found if flags.source or row["clips"] == flags.clips]))


if __name__ == "__main__":
    main()
