"""The clip that suits a user's videos."""

import pytest

from vidgen.config import gin_utils
from vidgen.data.video.files import Probed
from vidgen.plan.estimate import Plan
from vidgen.precompute.check_data import CheckData
from vidgen.precompute.training_size import EXPERIMENTS, suggest

DEMO, TINY = EXPERIMENTS


def video(seconds, fps=24.0, height=720, width=1280):
    return Probed(seconds, fps, height, width)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_clips_are_those_of_the_files(name):
    with gin_utils.session(["runs/check.gin", name]):
        source = gin_utils.build(CheckData).source
    assert source.shape == EXPERIMENTS[name]


@pytest.mark.parametrize(
    ("videos", "experiment", "thw", "fps"),
    [
        ([video(10)] * 3, DEMO, (16, 16, 28), 3.0),
        ([video(5.34)] * 3, DEMO, (16, 16, 28), 3.0),
        ([video(5)] * 3, TINY, (8, 16, 28), 8.0),
        ([video(5, height=480, width=640)], TINY, (8, 16, 20), 8.0),
        ([video(5, height=64, width=64)], TINY, (8, 16, 16), 8.0),
        ([video(5, height=1280, width=720)], TINY, (8, 28, 16), 8.0),
        ([video(5, height=100, width=1000)], TINY, (8, 16, 40), 8.0),  # cropped
        ([video(0.5)] * 3, TINY, (8, 16, 28), 16.0),
        ([video(0.5, fps=10.0)] * 3, TINY, (5, 16, 28), 10.0),
        ([video(0.48, fps=8.3333)] * 3, TINY, (4, 16, 28), 8.33),
        ([video(0.01, fps=8.0)], TINY, (1, 16, 28), 8.0),
        ([video(1.0 - 1e-6)], TINY, (8, 16, 28), 8.0),  # as rounded in a file
        ([video(0.1), *[video(6.0)] * 40], DEMO, (16, 16, 28), 3.0),  # of 41 one is too short
        ([*[video(0.6)] * 3, *[video(6.0)] * 38], TINY, (8, 16, 28), 13.4),
        ([], TINY, (8, 16, 16), 8.0),
    ],
)
def test_clips_that_suit(videos, experiment, thw, fps):
    found = suggest(videos)
    assert (found.experiment, found.shape.thwc[:3], found.shape.fps) == (experiment, thw, fps)
    if videos:
        assert found.shape.fps <= max(EXPERIMENTS[experiment].fps, videos[0].fps)


@pytest.mark.parametrize("videos", [[video(8)], [video(0.4, fps=12.0)], [video(3, 24.0, 96, 64)]])
def test_the_changes_reach_the_model_and_the_data(videos):
    found = suggest(videos)
    assert found.shape != EXPERIMENTS[found.experiment] and found.changes
    with gin_utils.session(["runs/check.gin", found.experiment], list(found.changes)):
        assert gin_utils.build(CheckData).source.shape == found.shape
    with gin_utils.session(["runs/plan.gin", found.experiment], list(found.changes)):
        (trainer,) = gin_utils.build(Plan).trainers
    assert trainer.model.shape == found.shape
    stride = trainer.model.stride
    assert found.shape.height % stride == found.shape.width % stride == 0
