"""The data source that CONTRIBUTING.md shows: as it stands, in a configuration, in batches."""

import importlib
import sys

import numpy as np
import pytest
from contributing import write_example

from vidgen.config import gin_utils
from vidgen.data.pipeline import Pipeline
from vidgen.data.video import transforms

VIDEO = np.random.default_rng(0).integers(0, 256, (5, 6, 12, 16, 3), np.uint8)
CAPTIONS = [f"clip {number}" for number in range(5)]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Both files of the section in a folder that Python and gin look in, beside some clips."""
    write_example(tmp_path, "Adding a data source", "npz_clips")
    np.savez(tmp_path / "clips.npz", video=VIDEO, caption=CAPTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("npz_clips")
    sys.modules.pop("npz_clips")


def pipeline(frames):
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", "npz_clips.gin"]
    clip = {"frames": frames, "height": 6, "width": 8}
    bindings = [f"base/VideoShape.{side}={size}" for side, size in clip.items()]
    with gin_utils.session(files, [*bindings, "MODEL_DIR='run'", "BATCH_SIZE=4"]):
        return gin_utils.build(Pipeline)


def test_the_example_gives_batches(example):
    data = pipeline(frames=4)
    assert type(data.source) is example.NpzClips
    assert list(data.source.captions()) == CAPTIONS
    batch = next(data.iterator())
    assert batch["video"].shape == (4, 4, 6, 8, 3)
    for video, caption in zip(batch["video"], batch["caption"], strict=True):
        clip = VIDEO[CAPTIONS.index(caption)]
        small = np.stack([transforms.fit(frame, 6, 8) for frame in clip])
        assert any(np.array_equal(video, small[start : start + 4]) for start in range(3))


def test_clips_that_are_too_short_are_skipped(example, caplog):
    with pytest.raises(ValueError, match=r"clips\.npz\[\d\]: it has 6 frames of 7"):
        next(pipeline(frames=7).iterator())
    assert caplog.text.count("it has 6 frames of 7") == 5
