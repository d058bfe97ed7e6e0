"""Files of every kind, damaged at random: clips of the right shape or BadExample, and no third.

Tests of vidgen/data/sources/files.py too.
"""

import io
import time
import zlib

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidgen.data.source import BadExample
from vidgen.data.sources import files
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import read_image
from vidgen.data.video import header, pictures
from vidgen.data.video.files import probe, read_clip
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16)
VIDEOS = {
    ".mp4": "libx264",
    ".webm": "libvpx-vp9",
    ".mkv": "ffv1",
    ".avi": "mpeg4",
    ".mov": "mjpeg",
}
CONTAINERS = {".mkv": "matroska"}
PIXELS = {"mjpeg": "yuvj420p"}
STILLS = {
    "rgb.png": "RGB", "palette.png": "P", "clear.png": "RGBA", "deep.png": "I;16", "bits.png": "1",
    "photo.jpg": "RGB", "print.jpg": "CMYK", "clear.webp": "RGBA", "gray.jpg": "L",
}  # fmt: skip


def texture(frames=8, height=32, width=48):
    steps = np.random.default_rng(0).integers(-20, 21, (frames, height, width, 3))
    return (np.cumsum(steps, 0) % 256).astype(np.uint8)


def video(suffix):
    """A file of each container, as bytes."""
    stream = io.BytesIO()
    if suffix in (".gif", ".webp"):
        frames = [Image.fromarray(frame) for frame in texture()]
        frames[0].save(stream, suffix[1:], save_all=True, append_images=frames[1:], duration=125)
        return stream.getvalue()
    codec = VIDEOS[suffix]
    with av.open(stream, "w", format=CONTAINERS.get(suffix, suffix[1:])) as output:
        track = output.add_stream(codec, rate=8)
        track.height, track.width, track.pix_fmt = 32, 48, PIXELS.get(codec, "yuv420p")
        for frame in texture():
            output.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(track.encode(None))
    return stream.getvalue()


def still(name):
    stream = io.BytesIO()
    mode, kind = STILLS[name], name.rpartition(".")[2].replace("jpg", "jpeg")
    if mode == "I;16":
        image = Image.fromarray(texture()[0, :, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(texture()[0]).convert(mode)
    image.save(stream, kind)
    return stream.getvalue()


CONTENT = {"clip" + suffix: video(suffix) for suffix in (*VIDEOS, ".gif", ".webp")}
CONTENT |= {name: still(name) for name in STILLS}
BYTES = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))


@st.composite
def damaged(draw, names):
    """A file with some bytes changed, most of them in its headers, and perhaps cut or longer."""
    name = draw(st.sampled_from(sorted(names)))
    data = bytearray(CONTENT[name])
    reach = draw(st.sampled_from([64, 512, len(data)]))
    places = st.integers(0, min(reach, len(data)) - 1)
    for place, value in draw(st.lists(st.tuples(places, BYTES), max_size=12)):
        data[place] = value
    end = draw(st.one_of(st.none(), st.integers(1, len(data))))
    return Packed(name, bytes(data[:end]) + draw(st.sampled_from([b"", b"\0" * 100])))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damage that it puts up with
@given(damaged(set(CONTENT) - set(STILLS)), st.one_of(st.none(), st.floats(0, 3)))
def test_a_damaged_video_is_a_clip_or_a_bad_example(file, start):
    begin = time.monotonic()
    try:
        clip = read_clip(file, SHAPE, np.random.default_rng(0) if start is None else start)
        assert clip.shape == SHAPE.thwc and clip.dtype == np.uint8
        assert probe(file).seconds > 0
    except BadExample as error:
        assert error.path == file.name and error.reason
    assert time.monotonic() - begin < 20


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(damaged(STILLS))
def test_a_damaged_picture_is_a_picture_or_a_bad_example(file):
    try:
        picture = read_image(file)
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    except BadExample as error:
        assert error.path == file.name and error.reason


@given(st.binary(max_size=2000), st.sampled_from(sorted(CONTENT)))
def test_bytes_that_are_no_file_at_all(data, name):
    reading = [read_image] if name in STILLS else [probe, lambda f: read_clip(f, SHAPE, 0.0)]
    for read in reading:
        with pytest.raises(BadExample):
            read(Packed(name, data))


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png", ".jpg"])
def test_a_wrong_suffix(name, suffix):
    """The content counts where Pillow and PyAV can tell; else it is one sentence."""
    file, still_suffix = Packed(f"a{suffix}", CONTENT[name]), suffix in (".png", ".jpg")
    try:
        if still_suffix:
            assert read_image(file).shape == (32, 48, 3)
        else:
            assert read_clip(file, SHAPE, 0.0).shape == SHAPE.thwc
    except BadExample as error:
        assert "cannot be" in error.reason or "too short" in error.reason
        assert "\n" not in str(error)


# ---- sizes that are absurd -----------------------------------------------------------------------


def png_of(height, width):
    """A file of 60 bytes that promises a picture of this size."""
    stream = io.BytesIO()
    Image.new("1", (1, 1)).save(stream, "png")
    data = bytearray(stream.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = np.uint32(zlib.crc32(bytes(data[12:29]))).tobytes()[::-1]
    return Packed("a.png", bytes(data))


@pytest.mark.parametrize("size", [(8193, 8192), (65535, 65535), (40_000, 1), (2**31 - 1, 1)])
def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(size):
    with pytest.raises(BadExample, match="too large|limit|bomb|cannot be read"):
        read_image(png_of(*size))


def test_an_animation_of_a_day_is_refused(monkeypatch):
    monkeypatch.setattr(pictures, "_MAX_ANIMATION", 8 * 32 * 48 - 1)
    with pytest.raises(BadExample, match="8 frames of 48 x 32 are too many"):
        read_clip(Packed("a.gif", CONTENT["clip.gif"]), SHAPE, 0.0)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mov", ".mkv"])
def test_a_video_of_absurd_size_is_refused(monkeypatch, suffix):
    monkeypatch.setattr(files, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(BadExample, match="its picture of 48 x 32 is too large"):
        read_clip(Packed(f"a{suffix}", CONTENT[f"clip{suffix}"]), SHAPE, 0.0)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov"])
def test_frames_larger_than_the_header_says_are_refused(monkeypatch, suffix):
    monkeypatch.setattr(header, "MAX_PIXELS", 32 * 48 - 1)  # what the decoder is told
    with pytest.raises(BadExample, match="cannot be decoded"):
        read_clip(Packed(f"a{suffix}", CONTENT[f"clip{suffix}"]), SHAPE, 0.0)
