"""Clips of a data set."""

import numpy as np

from vidgen.data.sources.folder import FolderSource
from vidgen.data.video.encode import write_video
from vidgen.evals.clips import SourceClips
from vidgen.sprites.sprites import Sprites
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


def test_other_files_and_other_captions_are_other_clips(tmp_path):
    def fingerprint():
        shape = VideoShape(frames=2, height=16, width=16)
        return SourceClips(
            source=FolderSource(path=str(tmp_path), shape=shape), count=1
        ).fingerprint

    write_video(tmp_path / "a.webp", np.zeros((4, 16, 16, 3), np.float32), 8.0)
    (tmp_path / "a.txt").write_text("black")
    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "a.txt").write_text("white")
    second = fingerprint()
    write_video(tmp_path / "a.webp", np.ones((4, 16, 16, 3), np.float32), 8.0)
    assert len({first, second, fingerprint()}) == 3
