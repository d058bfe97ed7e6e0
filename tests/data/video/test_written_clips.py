"""A clip that vidgen wrote is read back frame by frame at its own rate, from every format."""

import ctypes
import platform

import numpy as np
import pytest

from vidgen.data.video.encode import SUFFIXES, write_video
from vidgen.data.video.files import probe, read_clip
from vidgen.data.video.footage import open_footage
from vidgen.data.video.frames import at_rate, stream_frames
from vidgen.data.video.stream import RATES, STREAM_SUFFIXES, VideoStream, check_rate
from vidgen.types import VideoShape

PLAYED = (".mp4", ".webm", ".gif", ".webp")
FPS = (0.002, 1 / 3, 7.5, 12.5, 15.0, 23.976, 30000 / 1001, 30.0, 60.0, 90.0, 1000.0)
SIDE = 16


def numbered(count):
    """Frame k shows the five bits of k as bright and dark columns."""
    bits = np.arange(count)[:, None] >> np.arange(5) & 1
    columns = np.repeat(2.0 * bits - 1, 4, axis=1)[:, None, :, None]
    return np.broadcast_to(columns, (count, SIDE, 20, 3)).astype(np.float32)


def numbers(video):
    """Which frames these are."""
    level = video.reshape(len(video), SIDE, 5, 4, 3).mean((1, 3, 4))
    return ((level > (level.min() + level.max()) / 2) << np.arange(5)).sum(-1).tolist()


def write_whole(path, video, fps):
    write_video(path, video, fps, min_side=0)


def write_growing(path, video, fps):
    with VideoStream(path, fps, *video.shape[1:3], min_side=0) as stream:
        stream.append(video[:2])
        stream.append(video[2:])


def shape_of(count, fps):
    return VideoShape(frames=count, height=SIDE, width=20, fps=float(fps))


@pytest.mark.parametrize("write", [write_whole, write_growing])
@pytest.mark.parametrize("fps", FPS)
@pytest.mark.parametrize("suffix", PLAYED)
def test_frames_rate_and_length_come_back(tmp_path, suffix, fps, write):
    if fps > RATES[suffix]:
        with pytest.raises(ValueError, match=f"{fps:g} frames a second: a {suffix} plays"):
            write(tmp_path / f"a{suffix}", numbered(3), fps)
        assert not list(tmp_path.iterdir())
        return
    for count in (1, 3, 32):
        path = tmp_path / f"{count}{suffix}"
        write(path, numbered(count), fps)
        wanted = list(range(count))
        assert numbers(read_clip(path, shape_of(count, fps), 0.0)) == wanted
        assert numbers(read_clip(path, shape_of(count, fps), np.random.default_rng(0))) == wanted
        footage, found = open_footage(path), probe(path)
        assert footage.frames_at(fps) == count
        assert numbers(footage.read(shape_of(count, fps))) == wanted
        assert [frame.number for frame in at_rate(stream_frames(path), fps)] == wanted
        tick = {".gif": 0.0051, ".webp": 0.00051}.get(suffix, 0.0011)
        assert found.seconds == pytest.approx(count / fps, abs=tick)
        rate = {".gif": 0.0051 / found.seconds, ".webp": 0.00051 / found.seconds}.get(suffix, 1e-4)
        assert found.fps == pytest.approx(fps, rel=rate)


@pytest.mark.parametrize("write", [write_whole, write_growing])
@pytest.mark.parametrize("suffix", PLAYED)
def test_a_clip_in_which_nothing_moves_is_as_long(tmp_path, suffix, write):
    path = tmp_path / f"a{suffix}"
    write(path, np.full((32, SIDE, 20, 3), 0.5, np.float32), 24)
    assert read_clip(path, shape_of(32, 24), 0.0).shape == (32, SIDE, 20, 3)
    footage = open_footage(path)
    assert (footage.is_still, footage.frames_at(24.0)) == (False, 32)
    assert sum(1 for _ in stream_frames(path)) == 32


@pytest.fixture
def fresh_memory():
    """Says of which byte the memory is full that this process is given from now on."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("M_PERTURB is of glibc")
    option, of_each_byte = -6, ctypes.CDLL(None).mallopt
    yield lambda byte: of_each_byte(option, 255 - byte if byte else 0)
    of_each_byte(option, 0)


@pytest.mark.parametrize("write", [write_whole, write_growing])
@pytest.mark.parametrize("suffix", PLAYED)
def test_bytes_do_not_depend_on_what_memory_held(tmp_path, suffix, write, fresh_memory):
    rows, columns = np.mgrid[:48, :80]
    waves = np.sin((rows / 11 + columns / 7)[..., None] + np.arange(3))
    noise = np.random.default_rng(0).normal(scale=0.03, size=(16, 48, 80, 3))
    video = np.stack([np.roll(waves, 3 * k, axis=1) for k in range(16)]) + noise
    written = set()
    for byte in (0, 85, 170, 1):
        fresh_memory(byte)
        path = tmp_path / f"{byte}{suffix}"
        write(path, video.clip(-1, 1).astype(np.float32), 8.0)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_what_cannot_play_is_told_by_name(tmp_path):
    for fps in (0, -1, np.nan, np.inf):
        for suffix in SUFFIXES:
            with pytest.raises(ValueError, match=f"fps is {fps}"):
                check_rate(f"a{suffix}", fps)
    with pytest.raises(ValueError, match=r"'a\.gif' at 60 .* to 50; choose \.mp4, \.webm, \.webp"):
        check_rate("a.gif", 60)
    with pytest.raises(ValueError, match=r"at 120 .* to 90\.91; choose \.mp4, \.webm, \.npy"):
        check_rate("a.WEBP", 120)
    with pytest.raises(ValueError, match=r"at 0\.001 frames"):
        check_rate("a.mp4", 0.001)
    for suffix in set(STREAM_SUFFIXES) - set(RATES):  # which have no rate
        check_rate(f"a{suffix}", 1e6)
