"""Draws the strip of a film that tells a story, and reads how well it follows.

    vidgen generate --story=story.yaml --model=runs/p -o film.npy
    python benchmarks/story_strip.py film.npy story.yaml -o strip.png --probe=runs/p/maskgit

One row a scene: its prompt, frames with their numbers from shortly before the scene begins (a red
line) to its end. The story is a file or the short form of `vidgen generate --story`.

With --probe, the folder of a model that was trained on sprites, it also reads each scene with
story_probe.py and says whether subject, motion and background are those of the
prompt, and at which frame the motion or the picture changes, beside the planned one. All of it
goes to a .json file beside the strip. A sprite that has come to a wall stands there, whatever the
prompt: `begins_at` and `ends_at` say where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import story_probe

from vidgen.config import gin_utils
from vidgen.data.video.footage import open_footage
from vidgen.display import sheets
from vidgen.inference import stages
from vidgen.sprites import probe
from vidgen.sprites.probe import Reading
from vidgen.sprites.sprites import Sprites
from vidgen.story import parse
from vidgen.story import segments as story_segments
from vidgen.types import VideoShape

NAMES = ("subject", "motion", "background")


def film(path: Path, fps: float) -> np.ndarray:
    """All frames of a .npy or a video file, in [-1, 1]."""
    found = open_footage(path).at_rate(fps)
    count = max(1, round(found.seconds * fps))
    shape = VideoShape(frames=count, height=found.height, width=found.width, fps=fps)
    return np.asarray(found.read(shape))


def scenes(story: str, frames: int, flags: argparse.Namespace) -> list[dict]:
    """Of each scene its prompt, first frame and last frame + 1, as they were planned."""
    told = parse.load(story, frames=flags.frames)
    segments = story_segments.plan(
        told, flags.clip_frames, flags.context_frames, flags.patch_time, flags.fps
    )
    begins = [s.first_frame for s in segments if s.part == 0]
    ends = [*begins[1:], segments[-1].end_frame]
    if ends[-1] > frames:
        raise SystemExit(
            f"the story has {ends[-1]} frames and the film {frames}; see --clip_frames"
        )
    rows = zip(told.scenes, begins, ends, strict=True)
    return [{"prompt": s.prompt, "begin": b, "end": e} for s, b, e in rows]


def small(video: np.ndarray) -> np.ndarray:
    """The film in few pixels, since reading is by synthesis, and slow."""
    return np.concatenate([probe.smaller(frame[None]) for frame in video])


def wanted(prompt: str, sprites: Sprites) -> dict[str, str | None]:
    """What a prompt says; nothing where it is no caption of the sprites."""
    try:
        return dict(zip(NAMES, sprites.parse_caption(prompt), strict=True))
    except ValueError:
        return {}


def probed(video: np.ndarray, planned: list[dict], sprites: Sprites) -> list[dict]:
    """Each scene with what is seen in it, and when it is seen to begin."""
    found, last = [], None
    for scene in planned:
        part = video[scene["begin"] : scene["end"]]
        seen = story_probe.read_part(part, sprites)
        at = story_probe.follow(part, seen.subject, seen.background, sprites).path.round(2)
        said = wanted(scene["prompt"], sprites)
        values = dict(zip(NAMES, seen.triple, strict=True))
        facts = {
            "seen": values | {"error": round(seen.error, 3)},
            "agrees": {name: values[name] == said[name] for name in NAMES if said.get(name)},
            "begins_at": at[0].tolist(),
            "ends_at": at[-1].tolist(),
        }
        if scene["begin"]:
            facts |= changes(video, scene["begin"], last, seen, sprites)
        found.append(scene | facts)
        last = seen
    return found


def changes(
    video: np.ndarray, begin: int, last: Reading | None, seen: Reading, sprites: Sprites
) -> dict:
    """Frames at which motion and picture change, near the one that was planned."""
    facts: dict = {"picture_changes": story_probe.picture_change(video, begin)}
    if last and (last.subject, last.background) == (seen.subject, seen.background):
        start = max(0, begin - 2 * story_probe.REACH)
        near = video[start : begin + 2 * story_probe.REACH]
        states = story_probe.follow(near, seen.subject, seen.background, sprites).states
        least = 0.4 * sprites.frame_time
        frame = story_probe.motion_change(states, begin - start, least)
        facts["motion_changes"] = None if frame is None else start + frame
    return facts


def tell(scene: dict) -> str:
    """A line about a scene."""
    cells = [f"{scene['begin']:4}-{scene['end'] - 1:<4} {scene['prompt']}\n         "]
    for name in NAMES:
        mark = {True: "yes", False: "NO", None: "?"}[scene["agrees"].get(name)]
        cells.append(f"{name}: {scene['seen'][name]} ({mark})")
    for name in ("motion_changes", "picture_changes"):
        if scene.get(name) is not None:
            cells.append(f"{name.replace('_', ' ')} at {scene[name]}")
    return "  ".join([*cells, f"error {scene['seen']['error']:.2f}"])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("film", type=Path, help="the .npy or .mp4 that vidgen generate wrote")
    parser.add_argument("story", help="the story that it was given")
    parser.add_argument("-o", "--output", type=Path, default=Path("strip.png"))
    parser.add_argument("--probe", help="MODEL_DIR of a model of the sprites")
    parser.add_argument("--columns", type=int, default=14, help="frames of a row")
    parser.add_argument("--side", type=int, default=96, help="height of a frame in the strip")
    parser.add_argument("--frames", type=int, help="as given to vidgen generate (short form only)")
    parser.add_argument("--clip_frames", type=int, default=11, help="frames that the model makes")
    parser.add_argument("--context_frames", type=int, default=5, help="of these, known ones")
    parser.add_argument("--patch_time", type=int, default=2, help="frames of a patch")
    parser.add_argument("--fps", type=float, default=8.0)
    return parser.parse_args()


def main() -> None:
    """Draw, and read if asked to."""
    flags = parsed()
    sprites = None
    if flags.probe:
        with gin_utils.session(["runs/train.gin", str(stages.find(flags.probe)[0] / "config.gin")]):
            sprites = gin_utils.build(Sprites, split="train", templates=1)
        flags.clip_frames, flags.fps = sprites.shape.frames, sprites.shape.fps
    video = film(flags.film, flags.fps)
    planned = scenes(flags.story, len(video), flags)
    told = [sheets.SceneRow(**scene) for scene in planned]
    sheet = sheets.scenes(video, told, columns=flags.columns, height=flags.side)
    sheet.save(flags.output)
    print(flags.output)
    if sprites:
        planned = probed(small(video), planned, sprites)
        print("\n".join(tell(scene) for scene in planned))
    flags.output.with_suffix(".json").write_text(json.dumps(planned, indent=1))


if __name__ == "__main__":
    main()
