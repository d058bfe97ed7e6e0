"""Scores of clips and captions, and R-precision."""

import numpy as np

from vidgen.evals.text_match import matches

AXES = np.eye(4)


def test_own_is_the_cosine_and_first_whether_it_is_the_largest():
    clips = np.array([AXES[0], 0.6 * AXES[1] + 0.8 * AXES[2], AXES[2]])
    found = matches(clips, AXES[:3], ["a", "b", "c"])
    np.testing.assert_allclose(found["own"], [1, 0.6, 1])
    np.testing.assert_array_equal(found["first"], [1, 0, 1])  # the second is nearer to "c"


def test_frames_are_averaged():
    frames = np.stack([[AXES[0], AXES[1]], [AXES[1], AXES[1]]])
    found = matches(frames, AXES[:2], ["a", "b"])
    np.testing.assert_allclose(found["own"], [0.5, 1])
    np.testing.assert_array_equal(found["first"], [0, 1])  # as near to both is not the nearest


def test_the_same_words_do_not_compete():
    clips = np.array([AXES[0], AXES[0], AXES[1]])
    found = matches(clips, AXES[[0, 0, 1]], ["a", "a", "b"])
    np.testing.assert_array_equal(found["first"], [1, 1, 1])
