"""What the documents say that their reader brings: tiny, in the true formats."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import made_results
import made_videos
import numpy as np
import readme_commands
import story_tasks
import t5_folders
import tiny_cascade
from places import FILES

from vidgen.data.video.encode import write_video
from vidgen.types import STAGES

BUNNY = FILES / "big_buck_bunny"  # 17 seconds of the film, and its true cuts

# Google's vocabulary, without which it would not be T5 1.1; a base of 110 million parameters is
# half a gigabyte.
T5_BASE = dataclasses.replace(t5_folders.TINY, vocabulary=32128)


def bring(folder: Path, tfds_sets: Path) -> None:
    """Everything that no command makes."""
    for name in ("benchmarks", "launch"):  # the reader is in the clone
        (folder / name).symlink_to(readme_commands.ROOT / name)
    networks = "".join(tiny_cascade.NETWORK.format(stage=stage) for stage in STAGES)
    (folder / "small.gin").write_text(tiny_cascade.SETTINGS + networks)
    for name in ("tfds", "data"):
        (folder / name).symlink_to(tfds_sets)
    made_videos.squares(folder / "my_videos")
    _films(folder)
    _shards(folder / "shards")
    _prompts_and_stories(folder)
    _clips(folder)
    arrays = t5_folders.arrays(T5_BASE)
    t5_folders.write_safetensors(folder / "t5-v1_1-base", arrays, size=T5_BASE)


def _films(folder: Path) -> None:
    """A folder of films; one of the reader's own; the one that the results name, with its shots."""
    (folder / "films").mkdir()
    for name in ("films/bunny.mp4", "big_buck_bunny.mp4"):
        shutil.copy(BUNNY / "part.mp4", folder / name)
    (folder / "films" / "bunny.txt").write_text("a rabbit comes out of his burrow")
    shutil.copy(BUNNY / "cuts.json", folder / "shots.json")
    holiday = made_videos.moving_square(12, 22, 38)
    write_video(folder / "holiday.mp4", holiday, 10.0, min_side=0)


def _shards(folder: Path) -> None:
    """All two hundred."""
    videos = made_videos.squares(folder / "videos", count=1)
    for number in range(200):
        made_videos.tar(folder / f"{number:05}.tar", *sorted(videos.iterdir()))
    shutil.rmtree(videos)


def _prompts_and_stories(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a tiger moving right\na frog growing\n")
    text = readme_commands.text_of("vidgen/inference/README.md")
    (story,) = (block for *_, block in readme_commands.blocks(text, "yaml"))
    (folder / "story.yaml").write_text(story)
    np.save(folder / "true.npy", np.zeros((11, 16, 16, 3), np.uint8))
    task = story_tasks.task(npz_video="true.npy", exact_frames_per_prompt=[7, 4])
    (folder / "story_gen.json").write_text(json.dumps([task]))


def _clips(folder: Path) -> None:
    """Clips that somebody's model made, and true ones."""
    rng = np.random.default_rng(0)
    for name in ("made", "real"):
        made_videos.squares(folder / name, count=2)
        clips = rng.integers(0, 256, (2, 9, 16, 16, 3), dtype=np.uint8)  # I3D needs 9 frames
        np.savez(folder / f"{name}.npz", clips)
        np.save(folder / f"{name}.npy", clips)
    for name in "ab":
        (folder / f"{name}.json").write_text(json.dumps(made_results.result(name)))


def bring_model_of_bair(folder: Path) -> None:
    """`runs/bair`, the reader's transformer with its tokenizer: here the one of before."""
    shutil.copytree(folder / "runs" / "phenaki", folder / "runs" / "bair")


def bring_students(folder: Path) -> None:
    """Those that the documents leave to the reader; their teachers take their places."""
    for stage in STAGES:
        if not (folder / "runs" / "cascade8" / stage).exists():
            shutil.copytree(
                folder / "runs" / "cascade" / stage, folder / "runs" / "cascade8" / stage
            )


def bring_tiny(folder: Path) -> None:
    """`runs/tiny` is `runs/a`, longer trained; the documents tell twice how the demo's base is."""
    shutil.copytree(folder / "runs" / "a", folder / "runs" / "tiny")
    shutil.rmtree(folder / "runs" / "cascade" / "base")


def bring_evaluations(folder: Path) -> None:
    """What benchmarks/evaluations.py had measured before it was stopped: everything."""
    script = runpy.run_path(str(readme_commands.ROOT / "benchmarks" / "evaluations.py"))
    wanted = {name: script["TOKENIZER_METRICS"] for name in script["TOKENIZER"]}
    wanted |= {name: script["VIDEO_METRICS"] for name in script["VIDEO"]}
    (folder / "evaluations").mkdir()
    for name, metrics in wanted.items():
        rows = {metric: made_results.metric(1.0, 0.1) for metric in metrics}
        result = made_results.result(name, rows)
        result["protocol"] |= {"height": 32, "width": 32}
        stem = "".join(c if c.isalnum() else "_" for c in name)
        (folder / "evaluations" / f"{stem}.json").write_text(json.dumps(result))
