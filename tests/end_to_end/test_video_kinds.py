"""What the commands read of files that are no plain mp4: frames of their time, the right way up.

`vidgen train` runs two steps on them, `vidgen prepare` its pipeline. Of `vidgen generate` it is
what `--init` reads (`Init`), since what a network makes of it says nothing about the file.
"""

import dataclasses
import itertools

import made_videos
import numpy as np
import pytest
import tiny_cascade
from timed_videos import numbers_of, picture, with_matrix, write_timed

from vidgen.config import gin_utils
from vidgen.data.sources.array_records import read_record
from vidgen.data.sources.clip_records import ClipRecord, ShardsManifest
from vidgen.data.sources.files import Packed
from vidgen.data.sources.tar_shards import TarShards
from vidgen.data.video.files import read_clip
from vidgen.inference.conditioning_inputs import Init
from vidgen.precompute.clip_cutting import ClipCutter
from vidgen.precompute.prepare import Prepare
from vidgen.train.train import Train
from vidgen.types import VideoShape

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

SHAPE = VideoShape(frames=16, height=16, width=32, fps=8.0)
REORDERED = {"bframes": 2, "gop": 8}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Forty frames each; those of "mirrored.mp4" are stored upside down."""
    folder = tmp_path_factory.mktemp("films")
    write_timed(folder / "broadcast.ts", range(40), **REORDERED)
    write_timed(folder / "download.mp4", range(40), container="mpegts", **REORDERED)
    write_timed(folder / "disc.mpg", range(125), "mpeg2video", fps=25, **REORDERED)
    write_timed(folder / "old.avi", range(40), **REORDERED)
    write_timed(folder / "mirrored.mp4", range(40), flipped=True, **REORDERED)
    with_matrix(folder / "mirrored.mp4", (1, 0, 0, -1))
    for file in list(folder.iterdir()):
        file.with_suffix(".txt").write_text(f"numbers of {file.name}")
    return folder


@pytest.mark.parametrize("name", ["broadcast.ts", "download.mp4", "old.avi", "mirrored.mp4"])
def test_a_video_to_start_from(films, name):
    init = Init(path=str(films / name), start=1.5)
    shape = VideoShape(frames=8, height=32, width=64, fps=8.0)
    video = (init.read(shape) + 1) * 127.5
    assert numbers_of(video) == list(range(12, 20))
    assert np.abs(video[0] - picture(12)).mean() < 12


def test_films_become_clips(films, tmp_path):
    cutter = ClipCutter(shape=SHAPE, longest=5.0)
    for film in films.glob("*.*"):  # all of a film is one shot
        if film.suffix != ".txt":
            film.with_suffix(".shots.json").write_text("[[0, 1000]]")
    Prepare(videos=str(films), output=str(tmp_path / "records"), cutter=cutter, shards=1)()
    (shard,) = ShardsManifest.read(tmp_path / "records").shards
    clips = {}
    for number in range(shard.examples):
        clip = ClipRecord.unpack(read_record(tmp_path / "records" / shard.file, number))
        video = read_clip(Packed("a.mp4", clip.content), SHAPE, 2.0)
        clips[clip.metadata["film"]] = numbers_of(video), clip.metadata["frames"]
    assert len(clips) == 5
    for name, (numbers, frames) in clips.items():
        wanted = 50 + np.arange(16) * 25 / 8 if name == "disc.mpg" else 16 + np.arange(16)
        assert np.abs(numbers - wanted).max() <= 0.5 and frames == 40


def test_a_shard_holds_them_too(films, tmp_path):
    names = ["broadcast", "disc", "old"]
    files = [file for name in names for file in sorted(films.glob(f"{name}.*"))]
    made_videos.tar(tmp_path / "a.tar", *(f for f in files if not f.name.endswith(".json")))
    source = TarShards(path=str(tmp_path), shape=dataclasses.replace(SHAPE, frames=4))
    assert len(source) == 3
    for number in range(3):
        example = source.load(number, np.random.default_rng(number))
        assert (np.diff(numbers_of(example.video)) > 0).all()


def test_a_stage_trains(films, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.gin").write_text(tiny_cascade.SMALL.format(stage="base"))
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", "data/folder.gin"]
    bindings = [f"DATA_DIR={str(films)!r}", f"MODEL_DIR={str(tmp_path / 'run')!r}"]
    # as in test_sources_train.py, so that what was compiled there serves here
    bindings += ["TRAIN_STEPS=2", "BATCH_SIZE=4", "Train.log_every=1", "base/VideoShape.frames=4"]
    bindings += [f"base/VideoShape.{side}=8" for side in ("height", "width")]
    with gin_utils.session([*files, str(tmp_path / "small.gin")], bindings):
        run = gin_utils.build(Train)
    seen = set()
    for batch in itertools.islice(run.dataset.iterator(), 4):
        for caption, video in zip(batch["caption"], batch["video"], strict=True):
            fps, last = (25, 125) if "mpg" in caption else (8, 40)
            shown = np.rint(np.arange(0, last, 0.05)[:, None] + np.arange(4) * fps / 8)
            expected = middle_of(np.minimum(shown, last - 1).astype(int))
            assert (expected == middle_of(numbers_of_middle(video))).all(1).any(), caption
            seen.add(caption)
    assert len(seen) == 5
    assert int(run().step) == 2


def middle_of(numbers):
    """What is left of numbers in the square middle of their picture: two columns of four."""
    return np.asarray(numbers) & 0b01100110


def numbers_of_middle(video):
    """The same, of such middles."""
    whole = np.pad(video, ((0, 0), (0, 0), (4, 4), (0, 0)))
    return numbers_of(whole)
