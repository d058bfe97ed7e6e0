"""The frames that a film goes on from, and the true film after them: numbers in the picture."""

import dataclasses

import numpy as np
import pytest

from vidgen.data.video.encode import write_video
from vidgen.story.first_frames import read_first_frames, read_true_video
from vidgen.story.script import FirstFrames
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=11, height=16, width=16, fps=8.0)


@pytest.fixture
def video(tmp_path):
    """40 frames, whose brightness is 6 times their number."""
    number = 6 * np.arange(40, dtype=np.uint8)[:, None, None, None]
    np.save(tmp_path / "a.npy", np.broadcast_to(number, (40, 16, 16, 3)))
    return str(tmp_path / "a.npy")


def numbers(frames):
    return np.rint((frames[:, 0, 0, 0] + 1) * 127.5 / 6).astype(int).tolist()


def shown(path, end, *, start=0, most=5, patch=2, fps=8.0):
    first = FirstFrames(path=path, start=start, end=end, fps=8.0)
    return numbers(read_first_frames(first, dataclasses.replace(SHAPE, fps=fps), most, patch))


@pytest.mark.parametrize(
    "end, expected",
    [
        (1, [0]),
        (2, [1]),
        (3, [0, 1, 2]),
        (4, [1, 2, 3]),
        (5, [0, 1, 2, 3, 4]),
        (6, [1, 2, 3, 4, 5]),
        (40, [35, 36, 37, 38, 39]),
        (None, [35, 36, 37, 38, 39]),
    ],
)
def test_as_many_as_there_are_in_whole_tokens_and_none_beyond(video, end, expected):
    assert shown(video, end) == expected


@pytest.mark.parametrize("end", range(1, 41))
@pytest.mark.parametrize("fps", [4.0, 8.0, 12.0, 24.0])
def test_no_frame_beyond_whatever_the_rate_of_the_model(video, end, fps):
    for start in {0, end // 2, end - 1}:
        found = shown(video, end, start=start, patch=1, fps=fps)
        assert start <= min(found) and max(found) < end


def test_the_rate_of_the_video_is_its_own(video):
    assert shown(video, 20, patch=1, fps=4.0) == [10, 12, 14, 16, 18]
    assert shown(video, 20, patch=1, fps=16.0) == [17, 18, 18, 19, 19]
    assert shown(video, 20, start=17) == [17, 18, 19]


def test_a_video_file(tmp_path, video):
    frames = np.load(video) / np.float32(127.5) - 1
    write_video(tmp_path / "a.mp4", np.repeat(np.repeat(frames, 8, 1), 8, 2), 8.0)
    first = FirstFrames(path=str(tmp_path / "a.mp4"), end=4, fps=8.0)
    found = read_first_frames(first, SHAPE, 5, 2)
    np.testing.assert_allclose((found[:, 4, 4, 1] + 1) * 127.5, [6, 12, 18], atol=3)


def test_a_short_video_without_an_end(tmp_path):
    np.save(tmp_path / "two.npy", np.zeros((2, 16, 16, 3), np.uint8))
    assert len(read_first_frames(FirstFrames(path=str(tmp_path / "two.npy")), SHAPE, 5, 2)) == 1


@pytest.mark.parametrize(
    "start, end, frames, fps, expected",
    [
        (4, 15, 11, 8.0, range(4, 15)),
        (4, 12, 11, 8.0, range(4, 12)),
        (30, None, 50, 8.0, range(30, 40)),
        (4, None, 4, 4.0, [4, 6, 8, 10]),
        (4, 6, 9, 16.0, [4, 4, 5, 5]),
    ],
)
def test_the_true_film(video, start, end, frames, fps, expected):
    shape = dataclasses.replace(SHAPE, frames=frames, fps=fps)
    assert numbers(read_true_video(video, start, end, 8.0, shape)) == list(expected)
