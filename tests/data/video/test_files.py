"""Video files written and read back: colors, timing, damage, memory.

Tests of vidgen/data/video/encode.py too.
"""

import fractions
import io
import os
import struct
import tracemalloc

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidgen.data.sources.files import Packed
from vidgen.data.video import encode, files, transforms
from vidgen.data.video.decode import VideoReader
from vidgen.data.video.encode import write_video
from vidgen.data.video.files import BadExample, read_clip
from vidgen.types import VideoShape

RED, BLUE = (220, 30, 40), (30, 50, 210)


def _moving_bar(frames=8, h=16, w=24):
    """A red clip with a blue bar that moves right by three pixels a frame."""
    video = np.full((frames, h, w, 3), RED, np.uint8)
    for i in range(frames):
        video[i, :, 3 * i : 3 * i + 3] = BLUE
    return video


def _counting(path, frames, fps=24, size=(48, 64), codec="libx264", **options):
    """A file whose frame i is plain gray of brightness 4 (i mod 60)."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            pixels = np.full((*size, 3), 4 * (i % 60), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def _numbers(clip):
    return np.rint(clip.mean((1, 2, 3)) / 4).astype(int)


def _rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".MP4"])
def test_round_trip(tmp_path, suffix):
    video = _moving_bar()
    path = tmp_path / f"clip{suffix}"
    write_video(path, transforms.to_float(video), 8)
    read = read_clip(path, VideoShape(frames=8, height=16, width=24, fps=8.0), _rng())
    assert read.shape == video.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - video).mean() < 6
    assert np.abs(read[0, 8, 20].astype(int) - RED).max() < 8  # red stays red
    assert np.abs(read[5, 8, 16].astype(int) - BLUE).max() < 16
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_frame_count_rate_and_size(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_video(path, transforms.to_float(_moving_bar(h=15, w=25)), 8, min_side=0)
    if suffix == ".webp":
        with Image.open(path) as image:
            assert image.n_frames == 8 and image.size == (25, 15)
        return
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert sum(1 for _ in container.decode(stream)) == 8
        # yuv420p needs even sides
        assert (stream.width, stream.height) == ((25, 15) if suffix == ".gif" else (26, 16))
        assert float(stream.average_rate) == pytest.approx(8, rel=0.05)


def test_npy_is_exact_and_sheet_has_one_row_per_clip(tmp_path):
    clips = _rng().uniform(-1, 1, (3, 4, 6, 8, 3)).astype(np.float32)
    write_video(tmp_path / "a.npy", clips, 8)
    assert (np.load(tmp_path / "a.npy") == clips).all()
    write_video(tmp_path / "a.png", clips, 8, min_side=12)
    sheet = np.array(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (3 * 12, 4 * 16, 3)
    assert (sheet[12:24:2, 16:32:2] == transforms.to_uint8(clips[1, 1])).all()


def test_several_clips_are_tiled(tmp_path):
    clips = [np.full((2, 16, 16, 3), value, np.float32) for value in (-1.0, 0.0, 1.0)]
    write_video(tmp_path / "a.webp", clips, 8, min_side=0)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.size == (32, 32)
        pixels = np.array(image.convert("RGB"))
    assert pixels[4, 4, 0] == 0 and pixels[4, 20, 0] == 128 and pixels[20, 4, 0] == 255


def test_small_video_is_enlarged_by_a_whole_factor(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((2, 16, 24, 3), np.float32), 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (128, 192)


def test_wrong_output_is_explained(tmp_path, monkeypatch):
    video = np.zeros((2, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=r"unknown suffix '.mpg'; choose .mp4, .webm"):
        write_video(tmp_path / "a.mpg", video, 8)
    with pytest.raises(ValueError, match=r"shape \(2, 16, 16\)"):
        write_video(tmp_path / "a.mp4", video[..., 0], 8)
    with pytest.raises(ValueError, match="fps is 0"):
        write_video(tmp_path / "a.mp4", video, 0)
    with pytest.raises(OSError, match=r"a\.mp4"):
        write_video(tmp_path / "no_such_folder" / "a.mp4", video, 8)
    (tmp_path / "a.gif").write_bytes(b"old")

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        write_video(tmp_path / "a.gif", video, 8)
    assert str(tmp_path / "a.gif") in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
    assert (tmp_path / "a.gif").read_bytes() == b"old"


@pytest.mark.parametrize(("fps", "step"), [(24.0, 1), (8.0, 3), (12.0, 2), (6.0, 4)])
def test_frame_rate_is_honored(tmp_path, fps, step):
    path = _counting(tmp_path / "a.mp4", 60)
    shape = VideoShape(frames=8, height=12, width=16, fps=fps)
    starts = set()
    for seed in range(6):
        numbers = _numbers(read_clip(path, shape, _rng(seed)))
        assert (np.diff(numbers) == step).all()
        assert 0 <= numbers[0] and numbers[-1] < 60
        starts.add(int(numbers[0]))
    assert len(starts) > 3


def test_slow_file_repeats_frames(tmp_path):
    path = _counting(tmp_path / "a.mp4", 8, fps=8)
    shape = VideoShape(frames=16, height=12, width=16, fps=16.0)
    numbers = _numbers(read_clip(path, shape, _rng()))
    assert numbers[0] == 0 and numbers[-1] == 7 and set(np.diff(numbers)) == {0, 1}


def test_same_rng_same_clip(tmp_path):
    path = _counting(tmp_path / "a.mp4", 60)
    shape = VideoShape(frames=4, height=12, width=16)
    assert (read_clip(path, shape, _rng(3)) == read_clip(path, shape, _rng(3))).all()


def test_crop_keeps_the_middle(tmp_path):
    video = np.full((4, 32, 96, 3), RED, np.uint8)
    video[:, :, 32:64] = BLUE
    video[::2, 0] = 0  # a change per frame: equal frames of a webp are merged
    write_video(tmp_path / "a.webp", transforms.to_float(video), 8, min_side=0)
    read = read_clip(tmp_path / "a.webp", VideoShape(frames=4, height=8, width=8), _rng())
    assert (read[:, 1:] == np.array(BLUE)).all()


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_damage_is_a_bad_example(tmp_path, suffix):
    good = tmp_path / f"good{suffix}"
    noise = _rng().uniform(-1, 1, (24, 64, 64, 3)).astype(np.float32)
    write_video(good, noise, 8)
    shape = VideoShape(frames=20, height=16, width=16)
    assert read_clip(good, shape, _rng()).shape == shape.thwc
    data = good.read_bytes()
    for name, content, reason in (
        ("empty", b"", "empty"),
        ("text", b"this is not a video\n" * 50, "cannot be"),
        ("cut", data[: len(data) // 2], "damaged|cannot be|too short"),
    ):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(BadExample, match=reason) as error:
            read_clip(path, shape, _rng())
        assert str(path) in str(error.value)


def test_too_short_missing_and_audio_only(tmp_path):
    path = _counting(tmp_path / "a.mp4", 12)
    with pytest.raises(BadExample, match="too short: 0.50 s, .* 8 frames at 8 fps needs 1.00 s"):
        read_clip(path, VideoShape(frames=8, height=16, width=16), _rng())
    with pytest.raises(BadExample, match="No such file"):
        read_clip(tmp_path / "none.mp4", VideoShape(frames=8, height=16, width=16), _rng())
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(BadExample, match="no video stream"):
        read_clip(tmp_path / "sound.mp4", VideoShape(frames=8, height=16, width=16), _rng())


def test_rotation_metadata_is_obeyed(tmp_path):
    """A display matrix of 90 degrees clockwise in the track header, as phones write it."""
    video = np.full((4, 32, 32, 3), RED, np.uint8)
    video[:, :, :16] = BLUE  # left half: on top after turning clockwise
    path = tmp_path / "a.mp4"
    write_video(path, transforms.to_float(video), 8, min_side=0)
    data = bytearray(path.read_bytes())
    matrix = data.index(
        struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), data.index(b"tkhd")
    )
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 65536, 0, -65536, 0, 0, 32 * 65536, 0, 1 << 30
    )
    path.write_bytes(data)
    read = read_clip(path, VideoShape(frames=2, height=16, width=16), _rng())
    assert np.abs(read[0, 3, 8].astype(int) - BLUE).max() < 16
    assert np.abs(read[0, 12, 8].astype(int) - RED).max() < 16


def test_transparent_and_gray_and_deep_files(tmp_path):
    frames = [Image.new("RGBA", (16, 16), (0, 0, 0, 0)) for _ in range(4)]
    for i, frame in enumerate(frames):
        frame.paste((200, 0, 0, 255), (0, 0, 8, 16 - i))
    options = {"save_all": True, "append_images": frames[1:], "duration": 125, "lossless": True}
    frames[0].save(tmp_path / "a.webp", **options)
    shape = VideoShape(frames=4, height=16, width=16)
    read = read_clip(tmp_path / "a.webp", shape, _rng())
    assert (read[:, :, 12] == 255).all() and (read[:, 2, 2] == (200, 0, 0)).all()
    for name, codec, kind in (("g.mov", "ffv1", "gray16le"), ("d.mkv", "ffv1", "yuv420p10le")):
        with av.open(str(tmp_path / name), "w", format="matroska") as output:
            stream = output.add_stream(codec, rate=8)
            stream.height, stream.width, stream.pix_fmt = 18, 30, kind
            for _ in range(4):
                pixels = np.full((18, 30, 3), 128, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=kind)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        read = read_clip(tmp_path / name, shape, _rng())
        assert np.abs(read.astype(int) - 128).max() < 6


def test_long_file_is_read_with_bounded_memory_and_little_decoding(tmp_path, monkeypatch):
    """600 frames of 240 x 320 are 138 MB decoded; a clip of 4 may hold a few frames only."""
    path = _counting(tmp_path / "a.mp4", 600, size=(240, 320), g="24", preset="ultrafast")
    converted = []
    plain = files._av_to_rgb
    monkeypatch.setattr(files, "_av_to_rgb", lambda f: (converted.append(1), plain(f))[1])
    decoded = []
    plain_decode = VideoReader.frames_from

    def counted(*args):
        for frame in plain_decode(*args):
            decoded.append(frame.time)
            yield frame

    monkeypatch.setattr(VideoReader, "frames_from", counted)
    monkeypatch.setattr(VideoReader, "read_index", None)  # nor are all its packets read
    tracemalloc.start()
    for seed in range(3):
        decoded.clear(), converted.clear()
        read_clip(path, VideoShape(frames=4, height=16, width=16), _rng(seed))
        assert len(converted) == 4
        assert len(decoded) <= 24 + 11  # from a key frame to the last frame of the clip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 240 * 320 * 3


def test_check_suffix_lists_choices():
    encode.check_suffix("out.mp4")
    with pytest.raises(ValueError, match=r"\.npy"):
        encode.check_suffix("out")


# ---- colors --------------------------------------------------------------------------------------

# Number in the standards, weights of red and blue (ITU-R BT.709, BT.601, BT.2020).
MATRICES = {"709": (1, 0.2126, 0.0722), "601": (6, 0.299, 0.114), "2020": (9, 0.2627, 0.0593)}
FORMATS = [
    ("libx264", "mp4", "yuv420p"), ("libx264", "mp4", "yuv444p"), ("libx264", "mov", "yuv422p"),
    ("libx264", "mp4", "yuv420p10le"), ("libvpx-vp9", "webm", "yuv420p"),
    ("libvpx-vp9", "webm", "yuv444p"), ("ffv1", "matroska", "yuv420p"), ("mpeg4", "avi", "yuv420p"),
    ("mjpeg", "avi", "yuvj420p"), ("libx264", "mp4", "yuvj444p"),
]  # fmt: skip
COLORS = st.tuples(*[st.integers(0, 255)] * 3)


def _planes(color, matrix, full, bits=8):
    """Y, Cb and Cr of a color: the equations of the standards, by hand."""
    _, kr, kb = MATRICES[matrix]
    r, g, b = (value / 255 for value in color)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    middle, top = 2 ** (bits - 1), 2**bits - 1
    if full:
        return [round(top * luma), *(min(top, round(middle + top * x)) for x in (blue, red))]
    unit = 2 ** (bits - 8)
    return [round(unit * (16 + 219 * luma)), *(round(middle + unit * 224 * x) for x in (blue, red))]


def _flat(values, codec, container, kind, *, matrix=2, full=False, size=(32, 48)):
    """A video of two plain frames with these values in its planes, and tags that tell of them."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(codec, rate=8)
        track.height, track.width, track.pix_fmt = *size, kind
        track.codec_context.colorspace, track.codec_context.color_range = matrix, 1 + full
        for time in range(2):
            frame = av.VideoFrame(size[1], size[0], kind)
            frame.colorspace, frame.color_range, frame.pts = matrix, 1 + full, time
            dtype = np.uint16 if "10" in kind else np.uint8
            for plane, value in zip(frame.planes, values, strict=True):
                plane.update(np.full(plane.buffer_size // dtype().itemsize, value, dtype).tobytes())
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return Packed(f"a.{container.replace('matroska', 'mkv')}", stream.getvalue())


@given(COLORS, st.sampled_from(FORMATS), st.sampled_from(sorted(MATRICES)), st.booleans())
def test_a_color_is_the_same_in_every_format(color, form, matrix, full):
    codec, container, kind = form
    if kind.startswith("yuvj"):
        full = True
    if codec in ("mpeg4", "mjpeg"):  # which have no tags: BT.601, of one range each
        matrix, full = "601", codec == "mjpeg"
    values = _planes(color, matrix, full, bits=10 if "10" in kind else 8)
    file = _flat(values, *form, matrix=MATRICES[matrix][0], full=full)
    clip = read_clip(file, VideoShape(frames=2, height=8, width=8), 0.0)
    assert np.abs(clip.astype(int) - color).max() <= 8  # codecs of 8 bits and their rounding


@pytest.mark.parametrize(("size", "matrix"), [((480, 640), "601"), ((720, 1280), "709")])
def test_untagged_colors_are_what_players_take_them_for(size, matrix):
    color = (200, 60, 90)
    file = _flat(_planes(color, matrix, False), "libx264", "mp4", "yuv420p", size=size)
    clip = read_clip(file, VideoShape(frames=2, height=8, width=8), 0.0)
    assert np.abs(clip.astype(int) - color).max() <= 4


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer, name):
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as output:
        track = output.add_stream("libx264", rate=8)
        track.height, track.width, track.pix_fmt = 32, 48, "yuv420p10le"
        track.codec_context.color_trc = transfer
        for _ in range(2):
            output.mux(track.encode(av.VideoFrame(48, 32, "yuv420p10le")))
        output.mux(track.encode(None))
    with pytest.raises(BadExample, match=rf"is HDR \({name}\), .* convert it to SDR"):
        read_clip(Packed("a.mp4", stream.getvalue()), VideoShape(frames=1, height=8, width=8), 0.0)


# ---- time ----------------------------------------------------------------------------------------


@st.composite
def _timed(draw):
    """Times in milliseconds at which frames of a file appear, of a varying rate."""
    steps = draw(st.lists(st.integers(10, 400), min_size=3, max_size=24))
    return np.cumsum([0, *steps])


def _varying(times, container):
    """A lossless file whose frame i is plain gray of brightness 10 i and appears at times[i]."""
    stream = io.BytesIO()
    codec, kind = ("ffv1", "yuv420p") if container == "matroska" else ("libx264", "yuv420p")
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(
            codec, rate=25, options={} if codec == "ffv1" else {"qp": "10", "bf": "0"}
        )
        track.height, track.width, track.pix_fmt = 16, 16, kind
        track.time_base = track.codec_context.time_base = fractions.Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.full((16, 16, 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time), fractions.Fraction(1, 1000)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return Packed(f"a.{container.replace('matroska', 'mkv')}", stream.getvalue())


@given(_timed(), st.sampled_from(["mp4", "matroska"]), st.floats(0.5, 40), st.data())
def test_frames_are_the_nearest_in_time(times, container, fps, data):
    """Closed form: argmin |t_i - (start + k / fps)|, whatever the rates; at a tie either one."""
    seconds = times / 1000
    most = int(min(12, 1 + (seconds[-1] - 1e-3) * fps))
    frames = data.draw(st.integers(1, most), label="frames")
    last = max(0.0, seconds[-1] - (frames - 1) / fps - 1e-3)
    start = data.draw(st.floats(0, last), label="start")
    shape = VideoShape(frames=frames, height=16, width=16, fps=fps)
    clip = read_clip(_varying(times, container), shape, start)
    numbers = np.rint(clip.mean((1, 2, 3)) / 10).astype(int)
    wanted = start + np.arange(frames) / fps
    distance = np.abs(seconds[:, None] - wanted)
    assert (distance[numbers, np.arange(frames)] <= distance.min(0) + 2e-3).all()


@given(_timed(), st.floats(0.5, 40), st.integers(1, 12), st.integers(0, 3))
def test_a_random_start_always_fits_or_the_file_is_too_short(times, fps, frames, seed):
    shape = VideoShape(frames=frames, height=16, width=16, fps=fps)
    try:
        clip = read_clip(_varying(times, "matroska"), shape, _rng(seed))
    except BadExample as error:
        assert "too short" in error.reason
        assert (frames - 1) / fps > times[-1] / 1000 - 1e-3
        return
    assert clip.shape == shape.thwc
    assert (np.diff(np.rint(clip.mean((1, 2, 3)) / 10)) >= 0).all()
