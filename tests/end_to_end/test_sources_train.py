"""Every kind of data set trains a stage: eight steps, as `vidgen train` builds them.

A kind of data set is a function in SOURCES: from a folder of videos with captions and a folder to
write, to the layer of its gin file and the macros that this needs.
"""

import json

import made_videos
import numpy as np
import pytest
import tiny_cascade

from vidgen.config import gin_utils
from vidgen.data.sources.clip_records import ClipRecord, ShardsManifest, write_shard
from vidgen.train.train import Train

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

STEPS = 8  # six passes of five clips


def folder(videos, target):
    return "data/folder.gin", {"DATA_DIR": str(videos)}


def tar_shards(videos, target):
    for number, file in enumerate(sorted(videos.glob("*.mp4"))):
        made_videos.tar(target / f"{number}.tar", file, file.with_suffix(".txt"))
    return "data/tar_shards.gin", {"SHARDS": str(target)}


def clip_records(videos, target):
    clips = [
        ClipRecord(
            key=file.stem,
            caption=file.with_suffix(".txt").read_text(),
            suffix=".mp4",
            content=file.read_bytes(),
        )
        for file in sorted(videos.glob("*.mp4"))
    ]
    shards = [write_shard(target, n, 2, part) for n, part in enumerate((clips[:3], clips[3:]))]
    ShardsManifest(shards=shards).write(target)
    return "data/clip_records.gin", {"RECORDS": str(target)}


SOURCES = {make.__name__: make for make in (folder, tar_shards, clip_records)}
AS_THEY_ARE = ("folder", "tar_shards", "clip_records")  # these keep the files themselves


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five squares on the move."""
    path = tmp_path_factory.mktemp("videos")
    made_videos.squares(path)
    (path / "small.gin").write_text(tiny_cascade.SMALL.format(stage="base"))
    return path


@pytest.fixture
def build(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name):
        (tmp_path / name).mkdir()
        layer, macros = SOURCES[name](videos, tmp_path / name)
        files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", layer]
        bindings = [f"{macro}={value!r}" for macro, value in macros.items()]
        bindings += [f"MODEL_DIR={str(tmp_path / name / 'run')!r}", f"TRAIN_STEPS={STEPS}"]
        bindings += ["BATCH_SIZE=4", "Train.log_every=1"]
        bindings += [f"base/VideoShape.{side}=8" for side in ("height", "width")]
        bindings += ["base/VideoShape.frames=4"]
        with gin_utils.session([*files, str(videos / "small.gin")], bindings):
            return gin_utils.build(Train)

    return make


@pytest.mark.parametrize("name", SOURCES)
def test_a_stage_trains(name, build, tmp_path):
    run = build(name)
    assert run.held_out is None and run.sample_writer is None
    state = run()
    assert int(state.step) == STEPS
    lines = (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in found)


@pytest.mark.parametrize("name", [name for name in AS_THEY_ARE if name != "folder"])
def test_the_batches_are_those_of_a_folder(name, build):
    pairs = zip(build("folder").dataset.iterator(), build(name).dataset.iterator(), strict=False)
    for (wanted, found), _ in zip(pairs, range(3), strict=False):
        assert wanted["caption"] == found["caption"] and len(set(found["caption"])) > 1
        np.testing.assert_array_equal(wanted["video"], found["video"])
