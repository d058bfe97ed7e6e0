"""TFDS data sets as a source: pixels, captions, order, what is skipped and what is refused."""

import json
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Source
from vidgen.data.sources.images import Joint
from vidgen.data.sources.tfds_source import TfdsSource
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)
UCF101 = ("apply eye makeup", "archery", "yo yo")


@pytest.fixture
def source(tfds_sets):
    def make(name, **settings):
        return TfdsSource(**{"name": name, "shape": SHAPE, "data_dir": str(tfds_sets)} | settings)

    return make


def all_of(source, seed=0):
    """(number of the example as written, example, or the reason why there is none), in order."""
    found = []
    for index in range(len(source)):
        try:
            example = source.load(index, np.random.default_rng((seed, index)))
            found.append((round((float(example.video[0].mean()) - 20) // 40), example))
        except BadExample as bad:
            found.append((None, bad.reason))
    return found


# ---- the data sets that have a builder -----------------------------------------------------------


def test_bair(source):
    """A picture for each step, each one brighter than the last; two cameras; no captions."""
    bair = source("bair_robot_pushing_small", feature="image_main")
    assert isinstance(bair, Source) and len(bair) == 6
    assert list(bair.captions()) == [""]
    found = all_of(bair)
    assert sorted(number for number, _ in found) == list(range(6))
    for number, example in found:
        levels = example.video[:, 0, 0, 0].astype(int)
        assert (example.video == levels[:, None, None, None]).all() and example.caption == ""
        assert np.diff(levels).tolist() == [1, 1, 1] and 0 <= levels[0] - 20 - 40 * number <= 26
    other = source("bair_robot_pushing_small", feature="image_aux1")
    for index in range(6):
        one, two = (x.load(index, np.random.default_rng(index)) for x in (bair, other))
        assert (one.video.astype(int) + two.video == 255).all()


def test_ucf101(source, caplog):
    """jpeg frames at 25 fps; captions by class; one clip of three frames is skipped."""
    ucf101 = source("ucf101/ucf101_1", fps=25)
    assert tuple(ucf101.captions()) == UCF101
    found = all_of(ucf101)
    short = [reason for number, reason in found if number is None]
    assert len(short) == 1 and "too short: 0.12 s" in short[0]
    good = [(number, example) for number, example in found if number is not None]
    assert sorted(number for number, _ in good) == list(range(5))
    for number, example in good:
        assert example.caption == UCF101[number % 3] and example.video.shape == SHAPE.thwc
        levels = example.video[:, 0, 0, 0].astype(int)
        assert set(np.diff(levels)) <= {3, 4}  # 25 / 8 frames
    iterator = Pipeline(source=ucf101, batch_size=5).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        captions = [caption for _ in range(4) for caption in next(iterator)["caption"]]
    assert set(captions) == set(UCF101) and len(iterator.skipped) == 1
    assert "ucf101/ucf101_1 train[" in caplog.text


def test_captions_of_labels(source, tmp_path):
    assert list(source("ucf101/ucf101_1", label_captions="ucf101").captions()) == [
        "a person applying eye makeup",
        "a person shooting with a bow and arrow",
        "a person playing with a yo-yo",
    ]
    told = source("ucf101/ucf101_1", template="a video of {}", split="test", fps=25)
    assert {number: example.caption for number, example in all_of(told)} == {
        0: "a video of apply eye makeup",
        1: "a video of archery",
    }
    (tmp_path / "t.json").write_text(json.dumps({"Archery": "an archer"}))
    with pytest.raises(ValueError, match="none for 'ApplyEyeMakeup' and 1 more labels"):
        source("ucf101/ucf101_1", label_captions=str(tmp_path / "t.json"))


def test_moving_mnist(source):
    """Gray frames become RGB; every stored frame is one of the clip where no rate is given."""
    found = all_of(source("moving_mnist", split="test"))
    assert sorted(number for number, _ in found) == list(range(4))
    for _, example in found:
        assert example.video.shape == SHAPE.thwc and not np.ptp(example.video, axis=-1).any()
        assert np.diff(example.video[:, 0, 0, 0].astype(int)).tolist() == [1, 1, 1]


# ---- what else a data set may hold ---------------------------------------------------------------


def test_several_captions_and_a_rate_of_its_own(source):
    described = source("described", caption="captions", fps="fps")
    assert sorted(described.captions()) == sorted(
        [f"video {i}" for i in range(4)] + [f"clip number {i}" for i in range(4)]
    )
    reasons = [reason for number, reason in all_of(described) if number is None]
    assert sorted(reasons) == ["it has no captions", "it has no captions", "its frame rate is 0.0"]
    for seed in range(4):
        for number, example in all_of(described, seed):
            if number is not None:  # 4 i frames a second, of which the clip takes 8
                assert example.caption in (f"video {number}", f"clip number {number}")
                assert set(example.captions) == {f"video {number}", f"clip number {number}"}
                assert example.first_caption == example.captions[0]
                steps = np.diff(example.video[:, 0, 0, 0].astype(int))
                assert steps.sum() == pytest.approx(3 * 4 * number / 8, abs=1)
    captions = {tuple(getattr(e, "caption", "") for _, e in all_of(described, s)) for s in range(4)}
    assert len(captions) > 1


def test_whole_files(source):
    """A string that is an mp4; an empty one is skipped; a text that is not UTF-8 as well."""
    found = all_of(source("described", feature="file", caption="title"))
    reasons = [reason for number, reason in found if number is None]
    assert sorted(reasons) == ["its caption is not UTF-8", "the file is empty"]
    good = {number: example for number, example in found if number is not None}
    assert {n: e.caption for n, e in good.items()} == {n: f"title {n}" for n in (2, 3, 4, 5)}
    assert sorted(source("described", caption="title").captions()) == [
        f"title {n}" for n in range(1, 6)
    ]


def test_images(source):
    photos = source("photos", kind="images")
    assert photos.shape.frames == 1 and list(photos.captions()) == list("012345678")
    assert all(example.caption == str(number) for number, example in all_of(photos))
    stills = source("bair_robot_pushing_small", kind="images", feature="image_main")
    levels = {int(stills.load(0, np.random.default_rng(i)).video[0, 0, 0, 0]) for i in range(40)}
    assert len(levels) > 15 and max(levels) - min(levels) < 30
    joint = Joint(videos=source("moving_mnist", split="test"), images=photos, image_rate=0.5)
    batch = next(Pipeline(source=joint, batch_size=16).iterator())
    assert set(batch["independent_frames"]) == {True, False}


# ---- order ---------------------------------------------------------------------------------------


def batches(pipeline, count, process=(0, 1), state=None):
    iterator = pipeline.iterator(process=process)
    if state is not None:
        iterator.set_states([state])
    found = [next(iterator)["video"] for _ in range(count)]
    state = iterator.get_state()
    iterator.close()
    return found, state


def test_order_does_not_depend_on_processes_and_restarts(source):
    bair = source("bair_robot_pushing_small", feature="image_main")
    pipeline = Pipeline(source=bair, batch_size=4, seed=1)
    whole, _ = batches(pipeline, 6)
    halves = [batches(pipeline, 6, process=(p, 2))[0] for p in range(2)]
    for k in range(6):
        both = np.concatenate([half[k] for half in halves])
        assert (both == whole[k]).all()
    _, state = batches(pipeline, 3)
    again, _ = batches(pipeline, 3, state=json.loads(json.dumps(state)))
    assert (np.stack(again) == np.stack(whole[3:])).all()


def test_workers_give_the_same(source):
    ucf101 = source("ucf101/ucf101_1", fps=25)
    assert len(ucf101) == 6 and ucf101.load(1, np.random.default_rng(0))
    again = pickle.loads(pickle.dumps(ucf101))
    one, two = (x.load(1, np.random.default_rng(3)) for x in (ucf101, again))
    assert (one.video == two.video).all() and one.caption == two.caption
    settings = {"source": ucf101, "batch_size": 3, "seed": 2}
    here, _ = batches(Pipeline(**settings), 3)
    there, _ = batches(Pipeline(**settings, workers=1), 3)
    assert (np.stack(here) == np.stack(there)).all()


READ = """
import sys
import numpy as np
from vidgen.data.sources.tfds_source import TfdsSource
from vidgen.types import VideoShape

shape = VideoShape(frames=4, height=16, width=16)
source = TfdsSource(name="ucf101/ucf101_1", shape=shape, data_dir=sys.argv[1], fps=25)
source.load(1, np.random.default_rng(0))
print(sorted({"tensorflow", "jax", "torch"} & set(sys.modules)))
"""


def test_nothing_imports_tensorflow(tfds_sets):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, str(tfds_sets)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tensorflow" not in done.stdout and done.stdout.startswith("["), done.stdout
    assert done.stderr == ""


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("photos", {}, r"photos .*no feature .*videos: .*image \(image\)"),
        ("numbers", {"kind": "images"}, "numbers .*no feature .*images: "),
        ("bair_robot_pushing_small", {}, r"image_aux1 \(video\).*; set TfdsSource.feature"),
        ("described", {}, r"captions \(text\), .*title \(text\); set TfdsSource.caption"),
        ("described", {"caption": "text"}, "described .*no feature 'text'; .*captions"),
        ("described", {"caption": "fps"}, "caption is 'fps', .*no text .*described"),
        (
            "described",
            {"caption": "title", "feature": "rank"},
            "feature is 'rank', .*no videos .*described",
        ),
        (
            "described",
            {"caption": "title", "fps": "title"},
            "fps is 'title', .*no number .*described",
        ),
        (
            "described",
            {"caption": "title", "label_captions": "ucf101"},
            "label_captions .*described .*no labels",
        ),
        ("photos", {"kind": "audio"}, "kind .*'audio'; .*videos or images"),
        ("ucf101/ucf101_1", {"fps": 0}, "fps is 0; .*positive"),
        ("ucf101/ucf101_1", {"template": "a"}, r"TfdsSource\.template .*'a'; .*\{\}"),
        ("photos", {"shape": VideoShape(frames=1, height=4, width=4, channels=1)}, "channels is 1"),
    ],
)
def test_wrong_settings(source, name, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        source(name, **settings)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_skipped(source):
    ucf101 = source("ucf101/ucf101_1")

    class Damaged:
        def __getitem__(self, index):
            return b"\xff" * 40

    vars(ucf101)["_prepared"] = ucf101._prepared._replace(records=Damaged())
    with pytest.raises(BadExample, match=r"ucf101/ucf101_1 train\[2\]: cannot be read"):
        ucf101.load(2, np.random.default_rng(0))
