"""Pixel transforms against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen.data.video import transforms


def test_float_and_back_is_exact():
    every = np.arange(256, dtype=np.uint8)
    values = transforms.to_float(every)
    assert values.dtype == np.float32 and values.min() == -1 and values.max() == 1
    assert (transforms.to_uint8(values) == every).all()


def test_to_uint8_clips_and_survives_nan():
    given = np.array([-3.0, 3.0, np.nan, np.inf], np.float32)
    assert transforms.to_uint8(given).tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resize_averages_blocks(channels):
    frame = np.random.default_rng(0).integers(0, 256, (12, 20, channels)).astype(np.uint8)
    blocks = frame.reshape(3, 4, 5, 4, channels).mean((1, 3))
    assert np.abs(transforms.resize(frame, 3, 5) - blocks).max() <= 1


def test_resize_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = transforms.resize(stripes, 23, 23)[:, 2:-2]
    assert np.abs(small.astype(int) - 127).max() < 30  # a nearest-pixel resize gives 0 and 255


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [((10, 40), (1, 1), (10, 10)), ((40, 10), (1, 1), (10, 10)), ((9, 16), (18, 32), (9, 16))],
)
def test_crop_to_aspect_keeps_the_middle(size, wanted, expected):
    h, w = size
    frame = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).astype(np.uint8)
    cropped = transforms.crop_to_aspect(frame, *wanted)
    assert cropped.shape[:2] == expected
    assert cropped[0, 0].tolist() == [(h - expected[0]) // 2, (w - expected[1]) // 2]


def test_frame_indices_picks_the_nearest_in_time():
    times = np.arange(24) / 24
    assert transforms.frame_indices(times, 0.0, 8, 8).tolist() == list(range(0, 24, 3))
    assert transforms.frame_indices(times, 0.001, 48, 4).tolist() == [0, 1, 1, 2]
    assert transforms.frame_indices([0.0, 0.1, 1.0], 0.0, 2, 3).tolist() == [0, 1, 2]
    assert transforms.frame_indices([0.0], 0.0, 2, 3).tolist() == [0, 0, 0]


def test_composite_is_linear_in_alpha():
    frame = np.zeros((1, 3, 4), np.uint8)
    frame[..., 0] = 200
    frame[0, :, 3] = 0, 51, 255
    out = transforms.composite(frame)
    assert out[0].tolist() == [[255, 255, 255], [244, 204, 204], [200, 0, 0]]


def test_invisible_color_does_not_leak_when_resizing():
    """Transparent black around an opaque red square: no pixel may be darker than red or white."""
    frame = np.zeros((16, 16, 4), np.uint8)
    frame[5:11, 5:11] = 255, 0, 0, 255
    out = transforms.resize(transforms.composite(frame), 5, 5)
    assert (out[..., 0] == 255).all() and out[..., 1].min() < 60


SIDES = st.integers(1, 70)


@given(SIDES, SIDES, SIDES, SIDES, st.tuples(*[st.integers(0, 255)] * 3))
def test_a_plain_picture_stays_plain(h, w, height, width, color):
    pixels = np.full((h, w, 3), color, np.uint8)
    np.testing.assert_array_equal(
        transforms.fit(pixels, height, width), np.broadcast_to(color, (height, width, 3))
    )


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 99))
def test_a_picture_keeps_to_its_range(h, w, height, width, seed):
    """No filter overshoots, and the crop is a window of the wanted ratio that touches two sides."""
    pixels = np.random.default_rng(seed).integers(60, 200, (h, w, 3), np.uint8)
    made = transforms.fit(pixels, height, width)
    assert made.shape == (height, width, 3) and made.dtype == np.uint8
    assert pixels.min() <= made.min() and made.max() <= pixels.max()
    crop = transforms.crop_to_aspect(pixels, height, width)
    assert crop.shape[0] == h or crop.shape[1] == w
    # of the other side the nearest whole number of pixels
    assert abs(crop.shape[1] - crop.shape[0] * width / height) <= max(1, width / height)


@given(SIDES, SIDES, st.data())
def test_a_random_window_is_a_part_of_every_frame(h, w, data):
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    video = np.arange(3 * h * w, dtype=np.uint32).reshape(3, h, w, 1).view(np.uint8)
    seed = data.draw(st.integers(0, 9))
    window = transforms.random_crop(video, height, width, np.random.default_rng(seed))
    numbers = np.ascontiguousarray(window).view(np.uint32)[..., 0]
    first = int(numbers[0, 0, 0])
    rows, columns = np.arange(height)[:, None] * w, np.arange(width)
    expected = first + rows + columns + np.arange(3)[:, None, None] * h * w
    np.testing.assert_array_equal(numbers, expected)


def test_of_several_windows_the_one_with_most_to_see_is_taken():
    video = np.full((2, 32, 32, 3), (250, 0, 250), np.uint8)
    video[:, 24:, 24:] = 125  # gray: over space and channels together it would differ less
    one, many = (
        [
            transforms.random_crop(video, 8, 8, np.random.default_rng(seed), attempts=attempts)
            for seed in range(40)
        ]
        for attempts in (1, 40)
    )
    assert sum((window == 125).any() for window in one) <= 20
    assert sum((window == 125).any() for window in many) >= 38
    with_one = transforms.random_crop(video, 8, 8, np.random.default_rng(3))
    np.testing.assert_array_equal(with_one, one[3])
