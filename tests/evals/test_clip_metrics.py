"""Scores of clips and captions, and R-precision; what other clip metrics compute."""

import re

import numpy as np
import pytest

from vidgen.evals.clip_metrics import matches
from vidgen.evals.collect import ClipBatch
from vidgen.evals.metrics import METRICS, EvalData, pair_measurement
from vidgen.types import VideoShape

AXES = np.eye(4)


def test_own_is_the_cosine_and_first_whether_it_is_the_largest():
    clips = np.array([AXES[0], 0.6 * AXES[1] + 0.8 * AXES[2], AXES[2]])
    own, first = matches(clips, AXES[:3], ["a", "b", "c"])
    np.testing.assert_allclose(own, [1, 0.6, 1])
    np.testing.assert_array_equal(first, [1, 0, 1])  # the second is nearer to "c"
    rows = [clips, AXES[:3]]
    words = ["a", "b", "c"]
    assert METRICS["clip_score"].value(rows, words)[0] == pytest.approx(2.6 / 3)
    assert METRICS["clip_score_r_precision"].value(rows, words)[0] == pytest.approx(2 / 3)


def test_frames_are_averaged():
    frames = np.stack([[AXES[0], AXES[1]], [AXES[1], AXES[1]]])
    own, first = matches(frames, AXES[:2], ["a", "b"])
    np.testing.assert_allclose(own, [0.5, 1])
    np.testing.assert_array_equal(first, [0, 1])  # as near to both is not the nearest


def test_the_same_words_do_not_compete():
    clips = np.array([AXES[0], AXES[0], AXES[1]])
    _, first = matches(clips, AXES[[0, 0, 1]], ["a", "a", "b"])
    np.testing.assert_array_equal(first, [1, 1, 1])


class Clips:
    """A set of no clips, of some shape."""

    def __init__(self, frames, side):
        self.name, self.names, self.fingerprint = "clips", None, "0"
        self.shape = VideoShape(frames=frames, height=side, width=side)

    def __len__(self):
        return 0

    def read(self, number):
        raise AssertionError("nothing is read")


@pytest.mark.parametrize(
    ("metric", "frames", "side", "reason"),
    [
        ("flicker", 2, 8, "needs 3 frames.* have 2"),
        ("ssim", 2, 10, "needs 11 x 11 pixels"),
        ("psnr", 1, 1, None),
    ],
)
def test_the_least_size_of_clips(metric, frames, side, reason):
    clips = Clips(frames, side)
    found = METRICS[metric].why_not(EvalData(generated=clips, real=clips, paired=True))
    assert (found is None) if reason is None else re.search(reason, found)


def test_pairs_are_compared_after_the_given_frames():
    video = np.zeros((2, 4, 2, 2, 3), np.float32)
    real = video.copy()
    real[:, 1] = 1.0  # a given frame that differs
    real[1, 3] = 0.5
    measurement = pair_measurement("l1", "", lambda a, b: np.abs(a - b).mean((1, 2, 3, 4)), 2)
    rows = measurement.compute(ClipBatch(video, real, ["", ""]))
    np.testing.assert_allclose(rows, [0.0, 0.25])
