"""Files that a user brings: what they hold, and their frames in the size that is wanted."""

import numpy as np
import pytest
from PIL import Image

from vidgen.data.video import files
from vidgen.data.video.encode import write_video
from vidgen.data.video.footage import FootageError, open_footage
from vidgen.types import VideoShape

SMALL = VideoShape(frames=3, height=4, width=8, fps=5.0)


def pattern(frames=10, height=16, width=24):
    """Smooth colors that change from frame to frame."""
    t, y, x = np.mgrid[:frames, :height, :width] / max(frames, height, width)
    return np.stack([t, y, x], -1).astype(np.float32) * 1.6 - 0.8


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp"])
def test_a_video_of_every_kind(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_video(path, pattern(), 10.0, min_side=0)
    footage = open_footage(path)
    assert (footage.kind, footage.height, footage.width) == ("video", 16, 24)
    assert footage.seconds == pytest.approx(1.0, abs=0.02) and not footage.is_still
    assert footage.frames_at(10.0) == 10 and footage.frames_at(4.0, start=0.5) == 2
    video = footage.read(SMALL)
    assert video.shape == SMALL.thwc and video.dtype == np.float32
    wanted = pattern()[[0, 2, 4]]
    assert np.abs(video.mean((1, 2)) - wanted.mean((1, 2))).max() < 0.1


def test_the_last_frame_lasts(tmp_path):
    """At 64 frames a second, those after the last of 10 are that last one again."""
    write_video(tmp_path / "a.webp", pattern(), 10.0, min_side=0)
    footage = open_footage(tmp_path / "a.webp")
    shape = VideoShape(frames=footage.frames_at(64.0), height=16, width=24, fps=64.0)
    video = footage.read(shape)
    assert len(video) == 64
    np.testing.assert_array_equal(video[-1], video[-2])
    longer = VideoShape(frames=65, height=16, width=24, fps=64.0)
    with pytest.raises(FootageError, match="too short: 1.00 s, .* needs 1.02 s"):
        footage.read(longer)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_picture_of_every_kind(tmp_path, suffix):
    pixels = np.full((10, 20, 3), (250, 120, 10), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    footage = open_footage(tmp_path / f"a.{suffix}")
    assert (footage.is_still, footage.height, footage.width) == (True, 10, 20)
    assert footage.frames_at(24.0) == 1
    video = footage.read(SMALL)
    assert video.shape == SMALL.thwc
    assert np.abs((video + 1) * 127.5 - (250, 120, 10)).max() < 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_of_16_bits(tmp_path, suffix):
    pixels = np.full((4, 8), 100 * 257, np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    video = open_footage(tmp_path / f"a.{suffix}").read(SMALL)
    np.testing.assert_allclose((video + 1) * 127.5, 100, atol=1e-4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_that_lies_on_its_side(tmp_path, suffix):
    pixels = np.zeros((10, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it right by 90 degrees
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    footage = open_footage(tmp_path / f"a.{suffix}")
    assert (footage.height, footage.width) == (20, 10)


def test_transparent_is_white(tmp_path):
    Image.fromarray(np.zeros((4, 8, 4), np.uint8)).save(tmp_path / "a.png")
    assert (open_footage(tmp_path / "a.png").read(SMALL) == 1).all()


def test_arrays(tmp_path):
    video = pattern()
    np.save(tmp_path / "a.npy", video)
    footage = open_footage(tmp_path / "a.npy").at_rate(10.0)
    assert (footage.kind, footage.frames, footage.seconds) == ("array", 10, 1.0)
    same = VideoShape(frames=10, height=16, width=24, fps=10.0)
    np.testing.assert_array_equal(footage.read(same), video)
    half = VideoShape(frames=4, height=16, width=24, fps=5.0)
    np.testing.assert_array_equal(footage.read(half, start=0.2), video[2::2])
    small = footage.read(SMALL)
    assert small.shape == SMALL.thwc
    assert np.abs(small.mean((1, 2)) - video[[0, 2, 4]].mean((1, 2))).max() < 0.1
    with pytest.raises(FootageError, match="too short: 10 frames, 11 are needed"):
        footage.read(VideoShape(frames=11, height=16, width=24, fps=10.0))


def test_arrays_of_bytes_and_pictures(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 8, 3), 255, np.uint8))
    footage = open_footage(tmp_path / "a.npy").at_rate(10.0)
    assert footage.is_still and (footage.read(SMALL) == 1).all()


def test_numpy_numbers_outside_of_the_range_are_kept(tmp_path):
    """As a model made them: the next stage clips."""
    video = np.full((3, 4, 8, 3), 1.5, np.float64)
    np.save(tmp_path / "a.npy", video)
    np.testing.assert_array_equal(open_footage(tmp_path / "a.npy").at_rate(5.0).read(SMALL), video)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.mp4", None, r"no file .*none\.mp4"),
        ("a.mp4", b"", "empty"),
        ("a.mp4", b"no video at all", "cannot be decoded"),
        ("a.gif", b"no video at all", "cannot be read"),
        ("a.jpg", b"no picture", r"a\.jpg: cannot be read \(.*\)\.$"),
        ("a.npy", b"no array", "no numpy array"),
        ("a.npy", np.zeros((2, 2), np.float32), r"\(2, 2\); .*\(frames, height, width, 3\)"),
        ("a.npy", np.zeros((2, 4, 4, 3), np.int64), "int64; .*uint8"),
        ("a.npy", np.full((2, 4, 4, 3), np.nan), "float64; .*finite float"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, words):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    with pytest.raises(FootageError, match=words):
        open_footage(tmp_path / name)


def test_probing(tmp_path):
    write_video(tmp_path / "a.mp4", pattern(), 12.5, min_side=0)
    found = files.probe(tmp_path / "a.mp4")
    assert (found.height, found.width, found.frames) == (16, 24, None)
    assert (found.seconds, found.fps) == (pytest.approx(0.8), pytest.approx(12.5))
    write_video(tmp_path / "a.webp", pattern(), 12.5, min_side=0)
    found = files.probe(tmp_path / "a.webp")
    assert (found.height, found.width, found.frames) == (16, 24, 10)


def test_a_given_start(tmp_path):
    """The frame nearest in time to 0.5, 0.7, 0.9 s of 10 frames a second."""
    levels = np.linspace(-1, 1, 10)
    video = np.broadcast_to(levels[:, None, None, None], (10, 8, 8, 3)).astype(np.float32)
    write_video(tmp_path / "a.mp4", video, 10.0, min_side=0)
    shape = VideoShape(frames=3, height=8, width=8, fps=5.0)
    read = files.read_clip(tmp_path / "a.mp4", shape, 0.5).mean((1, 2, 3)) / 127.5 - 1
    np.testing.assert_allclose(read, levels[[5, 7, 9]], atol=0.05)
    for start in (0.7, 1):
        with pytest.raises(files.BadExample, match=f"from {start} s on"):
            files.read_clip(tmp_path / "a.mp4", shape, start)
