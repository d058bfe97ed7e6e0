"""Animated pictures: how long each frame is shown, as written and as read.

Tests of vidgen/data/video/pictures.py too.
"""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from vidgen.data.video import pictures
from vidgen.data.video.animated_pictures import GifSink, WebpSink
from vidgen.data.video.encode import animation
from vidgen.data.video.files import probe, read_clip
from vidgen.types import VideoShape

SIZE = (6, 9)


def written(suffix, frames, fps, **options):
    buffer = io.BytesIO()
    if suffix == ".webp":
        sink = WebpSink(buffer, fps, SIZE, **({"lossless": True} | options))
    else:
        sink = GifSink(buffer, fps, SIZE)
    for frame in frames:
        sink.write(frame[None])
    sink.end()
    return buffer.getvalue()


def played(data):
    """(frames, delays in ms) as Pillow has them."""
    with Image.open(io.BytesIO(data)) as image:
        frames, delays = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
            delays.append(image.info.get("duration"))
        return np.stack(frames), delays


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "fps", "delays"),
    [
        (".gif", 24, [40, 40, 40, 50, 40, 40]),  # 4.17, 8.33, 12.5, 16.7, 20.8, 25 hundredths
        (".gif", 8, [120, 130, 130, 120, 120, 130]),  # 12.5 is 12, 37.5 is 38: halves to even
        (".gif", 30, [30, 40, 30, 30, 40, 30]),
        (".gif", 50, [20] * 6),
        (".gif", 0.5, [2000] * 6),
        (".webp", 24, [42, 41, 42, 42, 41, 42]),
        (".webp", 1000 / 11, [11] * 6),
    ],
)
def test_delays_are_rounded_from_the_running_sum(suffix, fps, delays):
    assert played(written(suffix, noise(6), fps))[1] == delays


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_what_stays_is_not_stored_and_is_shown(suffix):
    """Equal frames, a change in one corner, and one at an odd place of another."""
    video = np.repeat(noise(1), 6, axis=0)
    video[2:, 5, 8] = 255 - video[2, 5, 8]
    video[4:, 1, 3:7] = 0
    frames, delays = played(written(suffix, video, 10))
    np.testing.assert_array_equal(frames, video)
    assert delays == [100] * 6


def test_lossy_options_reach_the_encoder():
    video = noise(4)
    assert len(animation(video[None], 8, quality=5)) < len(animation(video[None], 8, lossless=True))


def delayed(path, delays, count=4):
    """Pillow's file of gray frames 10, 20, ..."""
    images = [Image.new("RGB", (8, 8), (10 * k + 10,) * 3) for k in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=delays)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize(
    ("delays", "seconds"), [([0] * 4, 0.4), ([10] * 4, 0.4), ([20] * 4, 0.08), ([10, 50] * 2, 0.3)]
)
def test_short_delays_are_those_of_browsers(tmp_path, suffix, delays, seconds):
    path = delayed(tmp_path / f"a{suffix}", delays)
    found = probe(path)
    assert found.frames == 4
    assert (found.seconds, found.fps) == (pytest.approx(seconds), pytest.approx(4 / seconds))
    if len(set(delays)) == 1:
        clip = read_clip(path, VideoShape(frames=4, height=8, width=8, fps=4 / seconds), 0.0)
        np.testing.assert_allclose(clip.mean((1, 2, 3)), [10, 20, 30, 40], atol=1)


def test_the_still_before_an_animated_png_is_none_of_its_frames(tmp_path):
    path = tmp_path / "a.png"
    images = [Image.new("RGB", (8, 8), (level,) * 3) for level in (200, 10, 20, 30)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, default_image=True)
    assert (probe(path).frames, probe(path).seconds) == (3, pytest.approx(0.3))
    clip = read_clip(path, VideoShape(frames=3, height=8, width=8, fps=10.0), 0.0)
    np.testing.assert_array_equal(clip.mean((1, 2, 3)), [10, 20, 30])


def test_a_delay_over_zero_is_of_hundredths(tmp_path):
    """As the standard of animated PNG says of a denominator of 0."""
    path = delayed(tmp_path / "a.png", 500)
    data = path.read_bytes()
    start = data.index(b"fcTL")
    while start >= 0:
        head = data[start : start + 24] + b"\x00\x19\x00\x00" + data[start + 28 : start + 30]
        data = data[:start] + head + zlib.crc32(head).to_bytes(4, "big") + data[start + 34 :]
        start = data.find(b"fcTL", start + 1)
    path.write_bytes(data)
    with Image.open(path) as image:
        times, span = pictures.timeline(image)
    np.testing.assert_allclose([*times, span.step], [0, 0.25, 0.5, 0.75, 0.25])
