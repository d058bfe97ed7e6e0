"""Clips of a data set."""

import numpy as np

from vidgen.data.sprites import Sprites
from vidgen.evals.clips import SourceClips
from vidgen.types import VideoShape


def test_clips_of_a_data_set_are_the_same_in_any_order():
    shape = VideoShape(frames=4, height=8, width=8)
    found = SourceClips(source=Sprites(shape=shape, split="held_out"), count=7, seed=3)
    late, early = found.read(5), found.read(0)
    again = SourceClips(source=Sprites(shape=shape, split="held_out"), count=7, seed=3)
    np.testing.assert_array_equal(again.read(0)[0], early[0])
    np.testing.assert_array_equal(again.read(5)[0], late[0])
    assert again.read(5)[1] == late[1] != early[1]
    assert again.fingerprint == found.fingerprint
    other = SourceClips(source=Sprites(shape=shape, split="held_out"), count=7, seed=4)
    assert other.fingerprint != found.fingerprint
