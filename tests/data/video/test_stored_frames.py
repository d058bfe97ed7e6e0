"""Clips from frames without time stamps: which are chosen, how they are read."""

import io

import numpy as np
import pytest
from PIL import Image

from vidgen.data.source import BadExample
from vidgen.data.video.stored_frames import clip_of_frames, frame_of
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=2, width=2, fps=8.0)


def numbered(count, channels=3):
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, channels)
    )


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "png")
    return stream.getvalue()


def clip(frames, fps, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return clip_of_frames("v", frames, fps=fps, shape=shape, rng=rng)[:, 0, 0, 0].tolist()


def test_rates():
    """Frame k of the clip is the one nearest to start + k / 8 s."""
    starts = set()
    for seed in range(40):
        found = clip(numbered(10), 8, seed)
        assert found == list(range(found[0], found[0] + 4))
        starts.add(found[0])
        faster = clip(numbered(20), 24, seed)
        assert np.diff(faster).tolist() == [3, 3, 3]
        slower = clip(numbered(10), 4, seed)
        assert slower[-1] - slower[0] in (1, 2) and len(slower) == 4
    assert starts == set(range(7))


def test_exactly_long_enough():
    assert clip(numbered(4), 8) == [0, 1, 2, 3]
    assert clip(numbered(10), 24) == [0, 3, 6, 9]
    with pytest.raises(BadExample, match=r"v: too short: 0\.38 s, .* 4 .* 8 fps .*0\.50 s"):
        clip(numbered(3), 8)
    with pytest.raises(BadExample, match="v: .*no frames"):
        clip([], 8)
    with pytest.raises(BadExample, match=r"v: .*rate is 0\.0"):
        clip(numbered(4), 0.0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoded_or_not_is_the_same(channels):
    frames = np.ascontiguousarray(numbered(8, channels))
    frames[..., 3:] = 255
    assert clip([encoded(x) for x in frames], 8) == clip(frames, 8)


def test_only_the_frames_of_the_clip_are_decoded():
    frames = [encoded(x) for x in numbered(8)] + [b"broken"] * 4
    found = [seed for seed in range(30) if _readable(frames, seed)]
    assert 0 < len(found) < 30


def _readable(frames, seed):
    try:
        return clip(frames, 8, seed)[-1] < 8
    except BadExample as error:
        assert "v frame" in str(error)
        return False


def test_frames_are_cropped_around_their_center_and_resized():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    assert (frame_of("v", wide, SHAPE) == np.full((2, 2, 3), 200)).all()


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8)])
def test_what_is_no_picture(pixels):
    with pytest.raises(BadExample, match="pixels of shape .* are no picture"):
        frame_of("v", pixels, SHAPE)
