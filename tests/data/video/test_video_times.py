"""A clip at time s holds the frames of time s: every container, against a decode of the whole file.

Frames show their number (helpers/timed_videos.py): what was read is known, not only how it looks.
"""

import itertools

import numpy as np
import pytest
from timed_videos import (
    number_of,
    numbers_of,
    plain_decode,
    write_animation,
    write_timed,
)

from vidgen.data.video.files import probe, read_clip
from vidgen.data.video.footage import open_footage
from vidgen.data.video.frames import stream_frames
from vidgen.types import VideoShape

FRAMES = 42  # so that the last steps are of the usual length: of those AVI says nothing
REORDERS = ("libx264", "mpeg4", "mpeg2video", "mpeg1video")
# name: codec, frames a second (MPEG-1 and -2 know only some), container where the name won't do
CONTAINERS = {
    "a.mp4": ("libx264", 8, None), "b.mp4": ("libx264", 8, "mpegts"), "a.mov": ("mpeg4", 8, None),
    "a.mkv": ("libx264", 8, None), "a.webm": ("libvpx-vp9", 8, None),
    "b.webm": ("libvpx", 8, None), "a.avi": ("libx264", 8, None), "b.avi": ("mpeg4", 8, None),
    "c.avi": ("mpeg2video", 25, None), "a.ts": ("libx264", 8, None),
    "b.ts": ("mpeg2video", 25, None), "a.m2ts": ("libx264", 8, None),
    "a.mpg": ("mpeg2video", 25, None), "b.mpg": ("mpeg1video", 25, None),
    "a.vob": ("mpeg2video", 25, "vob"), "a.flv": ("libx264", 8, None), "b.flv": ("flv", 8, None),
    "a.3gp": ("libx264", 8, None), "a.m4v": ("mpeg4", 8, None), "a.ogv": ("libvpx", 8, None),
    "a.wmv": ("wmv2", 8, "asf"), "a.mxf": ("mpeg2video", 25, "mxf"), "a.nut": ("libx264", 8, None),
}  # fmt: skip
# Files that hold a rate and few times: none, one for each 2 kB (many frames as small as these), or
# that of the last frame of each page.
RATE_ONLY = ("a.mxf", "a.mpg", "b.mpg", "a.vob", "a.ogv")
STEPS = {"constant": [1], "variable": [1, 2, 1, 4, 1], "held": [1] * 10 + [24] + [1] * 40}


def ticks_of(timing, offset):
    return offset + np.cumsum([0, *itertools.islice(itertools.cycle(STEPS[timing]), FRAMES - 1)])


def check(path, ticks, fps, plain=None):
    """All ways of reading a file agree with when its frames are shown."""
    times, rng = (ticks - ticks[0]) / fps, np.random.default_rng(0)
    streamed = list(stream_frames(path))
    numbers = [number_of(f.image.to_ndarray(format="rgb24", threads=1)) for f in streamed]
    assert numbers == (plain_decode(path) if plain is None else plain) == list(range(len(ticks)))
    np.testing.assert_allclose([frame.time for frame in streamed], times, atol=0.002)
    held, found = open_footage(path), probe(path)
    step = times[-1] / (len(times) - 1)
    # a header may count in the order of decoding, and how long the last frame is shown is a guess
    assert times[-1] - 2 * step <= found.seconds <= times[-1] + max(step, 1 / fps, 4 / fps) + 0.02
    assert held.seconds == found.seconds and (found.height, found.width) == (32, 64)
    shape = VideoShape(frames=4, height=16, width=32, fps=float(fps))
    for start in [0.0, times[-1] - 3 / fps, *rng.uniform(0, times[-1] - 4 / fps, 3)]:
        wanted = start + np.arange(4) / fps
        off = np.abs(times[:, None] - wanted)
        read = numbers_of(read_clip(path, shape, float(start)))
        assert (off[read, np.arange(4)] <= off.min(0) + 0.004).all(), (start, read)
        footage = numbers_of((held.read(shape, float(start)) + 1) * 127.5)
        assert footage == read
    drawn = numbers_of(read_clip(path, shape, rng))
    assert (np.diff(drawn) >= 0).all() and drawn[-1] < len(ticks)


@pytest.mark.parametrize(
    ("bframes", "name"),
    [(0, name) for name in CONTAINERS]
    + [(2, name) for name, (codec, *_) in CONTAINERS.items() if codec in REORDERS],
)
def test_every_gop_and_offset(tmp_path, name, bframes):
    codec, fps, container = CONTAINERS[name]
    # an AVI begins at 0: FFmpeg passes over empty chunks in front of the first frame
    late = 0 if name.endswith("avi") else 3 * fps
    cases = [(1, 0), (9, 0), (300, late), (9, late)]
    for gop, offset in cases[bool(bframes) :]:  # one frame a group reorders nothing
        ticks = ticks_of("constant", offset)
        settings = {"fps": fps, "gop": gop, "bframes": bframes}
        path = tmp_path / f"{gop}_{offset}_{name}"
        check(write_timed(path, ticks, codec, container=container, **settings), ticks, fps)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in RATE_ONLY])
@pytest.mark.parametrize("timing", ["variable", "held"])
def test_variable_rates(tmp_path, name, timing):
    """Nothing between two frames is no damage: the first is shown until the second."""
    codec, fps, container = CONTAINERS[name]
    bframes = 2 * (codec in REORDERS)
    ticks = ticks_of(timing, 0)
    path = write_timed(
        tmp_path / name, ticks, codec, container=container, fps=fps, gop=9, bframes=bframes
    )
    check(path, ticks, fps)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.parametrize("timing", STEPS)
def test_animations(tmp_path, suffix, timing):
    ticks = ticks_of(timing, 0)
    path = write_animation(tmp_path / f"a.{suffix}", ticks, fps=10)
    check(path, ticks, 10, plain=list(range(FRAMES)))
