"""Films frame by frame, and at other frame rates."""

import av
import numpy as np
import pytest

from vidgen.data.video.encode import write_video
from vidgen.data.video.files import BadExample
from vidgen.data.video.frames import StreamedFrame, at_rate, stream_frames
from vidgen.data.video.stream import VideoStream


def film(path, frames=12, fps=12, size=(20, 30)):
    """Frame i has the brightness i / frames."""
    ramp = np.arange(frames) / frames
    video = np.broadcast_to(ramp[:, None, None, None], (frames, *size, 3))
    write_video(path, video.astype(np.float32), fps, min_side=0)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_all_frames_in_order(tmp_path, suffix):
    fps = 10  # a gif counts in hundredths of a second
    found = list(stream_frames(film(tmp_path / f"a{suffix}", fps=fps)))
    assert [frame.number for frame in found] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in found], np.arange(12) / fps, atol=2e-3)
    for frame in found:
        assert frame.size == (20, 30) and frame.step == pytest.approx(1 / fps, abs=2e-3)
        small = frame.thumbnail(4, 8)
        assert small.shape == (4, 8, 3)
        assert small.mean() == pytest.approx(127.5 * (1 + frame.number / 12), abs=4)


def test_what_cannot_be_streamed(tmp_path):
    path = film(tmp_path / "a.mp4", frames=60)
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(BadExample, match=r"a\.mp4: .*decoded"):
        list(stream_frames(path))
    path.write_bytes(b"")
    with pytest.raises(BadExample, match=r"a\.mp4: .*empty"):
        list(stream_frames(path))
    with pytest.raises(BadExample, match="No such file"):
        list(stream_frames(tmp_path / "b.mp4"))


def test_a_film_that_ends_too_early(tmp_path):
    """An index in front, and half of what it speaks of."""
    path = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    with VideoStream(path, 12, 32, 32, min_side=0) as stream:
        stream.append(rng.integers(0, 256, (96, 32, 32, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadExample, match=r"end at .* s of 7\.92 s|decoded"):
        list(stream_frames(path))


def at(fps, count):
    """Frames at a rate; nothing looks at their pictures."""
    picture = av.VideoFrame(2, 2)
    return [StreamedFrame(i / fps, picture, number=i, step=1 / fps) for i in range(count)]


def rated(frames, fps):
    return [frame.number for frame in at_rate(iter(frames), fps)]


def test_frames_nearest_in_time():
    assert rated(at(24, 10), 8) == [0, 3, 6, 9]
    assert rated(at(24, 10), 24) == list(range(10))
    assert rated(at(8, 3), 24) == [0, 0, 1, 1, 1, 2, 2, 2]
    # 0, 2.4, 4.8, 7.2, 9.6 frames; the last is past the half of what is shown last
    assert rated(at(24, 10), 10) == [0, 2, 5, 7]
    assert rated(at(24, 11), 10) == [0, 2, 5, 7, 10]
    assert rated(at(24, 1), 8) == [0] and rated([], 8) == []
    assert rated(at(24, 20)[7:], 8) == [7, 10, 13, 16, 19]  # counted from the first one
