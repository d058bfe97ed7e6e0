"""Films written while they are made: readable on the way, whole or absent at the end.

Tests of vidgen/data/video/sinks.py too.
"""

import os
import signal
import subprocess
import sys
import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image
from places import ROOT

from vidgen.data.video import transforms
from vidgen.data.video.files import read_clip
from vidgen.data.video.stream import STREAM_SUFFIXES, VideoStream, check_streamable
from vidgen.types import VideoShape


def film(frames, height=16, width=24, start=0):
    """Frame i: a smooth picture whose brightness is 2 (i mod 100) in the left half."""
    video = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        video[i] = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
        video[i, :, : width // 2] = 2 * ((start + i) % 100)
    return video


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".MP4"])
@pytest.mark.parametrize("chunks", [(12,), (5, 1, 6)])
def test_what_goes_in_comes_out(tmp_path, suffix, chunks):
    path = tmp_path / f"film{suffix}"
    video = film(12)
    with VideoStream(path, 8, 16, 24) as stream:
        for chunk in np.split(video, np.cumsum(chunks)[:-1]):
            stream.append(chunk)
            assert not path.exists()
        assert stream.frames == 12
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read = read_clip(path, VideoShape(frames=12, height=16, width=24, fps=8.0), 0.0)
    assert np.abs(read.astype(int) - video).mean() < 3
    if suffix not in (".gif", ".webp"):  # which test_written_clips.py looks at
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate) == 8 and container.duration == 1_500_000


def test_npy_grows_and_can_be_mapped_all_the_time(tmp_path):
    path, growing = tmp_path / "film.npy", tmp_path / "on the way.npy"
    video = np.random.default_rng(0).uniform(-1, 1, (1200, 2, 3, 1)).astype(np.float32)
    stream = VideoStream(path, 8, 2, 3, growing=growing)
    for start, stop in ((0, 1), (1, 9), (9, 1200)):  # the number of digits in the header grows
        stream.append(video[start:stop])
        assert (np.load(growing, mmap_mode="r") == video[:stop]).all()
    assert stream.close() == path and not growing.exists()
    assert (np.load(path) == video).all()


def test_png_is_a_folder_of_frames(tmp_path):
    video = film(3)
    with VideoStream(tmp_path / "film.png", 8, 16, 24) as stream:
        stream.append(video[:2])
        stream.append(transforms.to_float(video[2:]))
    assert [p.name for p in tmp_path.iterdir()] == ["film"]
    names = sorted(p.name for p in (tmp_path / "film").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    for name, frame in zip(names, video, strict=True):
        assert (np.array(Image.open(tmp_path / "film" / name)) == frame).all()
    with pytest.raises(OSError, match=r"already\).*film\.png"):
        VideoStream(tmp_path / "film.png", 8, 16, 24)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_plays_while_it_grows(tmp_path, suffix):
    stream = VideoStream(tmp_path / f"film{suffix}", 8, 16, 24)
    seen = []
    for start in range(0, 160, 40):
        stream.append(film(40, start=start))
        if start:
            seen.append(decoded(stream.growing))
    counts = [len(frames) for frames in seen]
    assert counts == sorted(set(counts)) and counts[-1] >= 160 - 80  # ten seconds behind at most
    for i, frame in enumerate(seen[-1]):
        assert abs(frame[64, 32].mean() - 2 * (i % 100)) < 6
    stream.end()  # all of it is readable where it grew
    assert len(decoded(stream.growing)) == 160 and not stream.path.exists()
    assert stream.close() == stream.path
    assert len(decoded(stream.path)) == 160


def test_mp4_has_its_index_in_front(tmp_path):
    with VideoStream(tmp_path / "film.mp4", 8, 16, 24) as stream:
        stream.append(film(40))
    data = (tmp_path / "film.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat") and b"moof" not in data


@pytest.mark.parametrize("suffix", STREAM_SUFFIXES)
def test_an_error_leaves_nothing(tmp_path, suffix):
    with (
        pytest.raises(KeyboardInterrupt),
        VideoStream(tmp_path / f"a{suffix}", 8, 16, 24) as stream,
    ):
        stream.append(film(4))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_wrong_use_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"'\.mov'; .*\.mp4, \.webm, \.gif, \.webp"):
        check_streamable(tmp_path / "a.mov")
    with pytest.raises(ValueError, match=r"'\.avi'; .*\.mp4"):
        VideoStream(tmp_path / "a.avi", 8, 16, 24)
    with pytest.raises(ValueError, match="fps is 0"):
        VideoStream(tmp_path / "a.mp4", 0, 16, 24)
    with pytest.raises(OSError, match=r"\(No such file.*a\.mp4"):
        VideoStream(tmp_path / "no" / "a.mp4", 8, 16, 24)
    with pytest.raises(ValueError, match="no frame"), VideoStream(tmp_path / "a.mp4", 8, 16, 24):
        pass
    with VideoStream(tmp_path / "a.npy", 8, 16, 24) as stream:
        stream.append(film(1))
        with pytest.raises(ValueError, match=r"\(1, 24, 16, 3\); .*\(t, 16, 24"):
            stream.append(film(1, 24, 16))
        with pytest.raises(ValueError, match="3 channels; .* 1 "):
            stream.append(film(1)[..., :1])
        with pytest.raises(ValueError, match="uint8 .*; float32"):
            stream.append(transforms.to_float(film(1)))
    with pytest.raises(ValueError, match="is closed"):
        stream.append(film(1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]
    assert len(np.load(tmp_path / "a.npy")) == 1


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with VideoStream(path, 8, 16, 24) as stream:
        stream.append(film(2))
        assert path.read_bytes() == b"old"
    assert (np.load(path) == film(2)).all()


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    stream = VideoStream(tmp_path / "a.npy", 8, 16, 24)
    stream.append(film(1))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as error:
        stream.close()
    assert error.value.errno == 28 and error.value.filename == str(tmp_path / "a.npy")
    stream.discard()
    assert not list(tmp_path.iterdir())


def test_gray_frames_play_in_color(tmp_path):
    with VideoStream(tmp_path / "a.mp4", 8, 128, 128) as stream:
        stream.append(np.full((3, 128, 128, 1), 0.0, np.float32))
    assert abs(decoded(tmp_path / "a.mp4")[1].astype(int) - 128).max() <= 2


GROW = """
import sys, numpy as np
from vidgen.data.video.stream import VideoStream
stream = VideoStream(sys.argv[1], 8, 16, 24, growing=sys.argv[2])
for i in range(10_000):
    stream.append(np.full((8, 16, 24, 3), i % 200, np.uint8))
    print(i, flush=True)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".npy"])
def test_what_a_killed_process_leaves_can_be_read(tmp_path, suffix):
    path, growing = tmp_path / f"a{suffix}", tmp_path / f"growing{suffix}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", GROW, path, growing]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 30:
                break
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    frames = decoded(growing) if suffix == ".mp4" else np.load(growing)
    assert len(frames) >= (240 - 80 if suffix == ".mp4" else 31 * 8)
    for i in range(0, len(frames), 8):
        assert abs(frames[i].mean() - (i // 8) % 200) < 4


def test_memory_does_not_grow(tmp_path):
    chunk = film(8, 128, 128)
    with VideoStream(tmp_path / "a.npy", 8, 128, 128) as stream:
        stream.append(chunk)
        tracemalloc.start()
        try:
            for _ in range(40):
                stream.append(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 3 * chunk.nbytes
