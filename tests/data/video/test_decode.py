"""Files whose headers, times or data are not what they should be; pictures that lie on a side.

Tests of vidgen/data/video/header.py, vidgen/data/video/orientation.py too.
"""

import struct

import av
import numpy as np
import pytest
from PIL import Image
from timed_videos import number_of, numbers_of, picture, with_matrix, write_timed

from vidgen.data.source import BadExample
from vidgen.data.video import decode
from vidgen.data.video.decode import VideoReader
from vidgen.data.video.files import probe, read_clip
from vidgen.data.video.footage import open_footage
from vidgen.data.video.frames import stream_frames
from vidgen.types import VideoShape

FPS = 8
REORDERED = {"bframes": 2, "gop": 9}
OPEN_GOP = {"bframes": 2, "gop": 9, "options": {"x264-params": "open-gop=1:b-adapt=0"}}
SHAPE = VideoShape(frames=4, height=16, width=32, fps=float(FPS))


def streamed(path):
    return [number_of(f.image.to_ndarray(format="rgb24", threads=1)) for f in stream_frames(path)]


def check_regular(path, first=0, count=40):
    """Frame `first` + i is shown at i / FPS, whichever way the file is read."""
    assert streamed(path) == list(range(first, first + count))
    for start in (0, 3, 8, 9, 10, 17, 26, 27, count - 4):
        wanted = list(range(first + start, first + start + 4))
        assert numbers_of(read_clip(path, SHAPE, start / FPS)) == wanted
    assert probe(path).seconds == pytest.approx(count / FPS, abs=0.02)


def same_stamps(packet):
    packet.pts = packet.dts


@pytest.mark.parametrize("suffix", ["mkv", "ts", "nut"])
def test_times_that_are_those_of_decoding(tmp_path, suffix):
    """Frames are reordered and pts are dts: what counts is the order in which frames come."""
    path = write_timed(tmp_path / f"a.{suffix}", range(40), edit=same_stamps, **REORDERED)
    check_regular(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "flv"])
def test_open_groups_of_pictures(tmp_path, suffix):
    check_regular(write_timed(tmp_path / f"a.{suffix}", range(40), **OPEN_GOP))


@pytest.mark.parametrize(
    "flags", ["frag_keyframe+empty_moov", "frag_keyframe+skip_trailer", "dash"]
)
def test_fragments(tmp_path, flags):
    check_regular(
        write_timed(tmp_path / "a.mp4", range(40), muxing={"movflags": flags}, **REORDERED)
    )


def test_a_recording_without_index_and_length(tmp_path):
    path = write_timed(tmp_path / "a.mkv", range(40), muxing={"live": "1"}, **REORDERED)
    check_regular(path)


def test_an_edit_list_that_leaves_out_the_beginning(tmp_path):
    """The first key frame after what is cut away is 9."""
    path = write_timed(
        tmp_path / "a.mp4", range(-9, 31), options={"x264-params": "scenecut=0"}, gop=9
    )
    check_regular(path, first=9, count=31)


def test_a_broadcast_from_its_middle_on(tmp_path):
    """What comes before the first key frame cannot be shown; frame 9 is."""
    path = write_timed(tmp_path / "a.ts", range(49), options={"x264-params": "scenecut=0"}, gop=9)
    data = path.read_bytes()
    path.write_bytes(data[: 188 * 3] + data[188 * 14 :])
    check_regular(path, first=9)


def test_an_interlaced_stream(tmp_path):
    options = {"x264-params": "interlaced=1:tff=1"}
    check_regular(write_timed(tmp_path / "a.ts", range(40), options=options, **REORDERED))


def test_times_that_wrap(tmp_path):
    """33 bits of 1/90000 s are over after 95443.7 s."""
    path = write_timed(tmp_path / "a.ts", np.arange(40) + 95441 * FPS, **REORDERED)
    check_regular(path)


@pytest.mark.parametrize("offset", [0, 3600 * FPS])
def test_recordings_put_together(tmp_path, offset):
    """The second begins at an earlier time than the first ends, or an hour later."""
    parts = [tmp_path / "1.ts", tmp_path / "2.ts"]
    for part, begin in zip(parts, (0, offset), strict=True):
        write_timed(part, np.arange(20) + begin, **REORDERED)
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert streamed(path) == [*range(20), *range(20)]
    assert numbers_of(read_clip(path, SHAPE, 18 / FPS)) == [18, 19, 0, 1]
    assert numbers_of(read_clip(path, SHAPE, 30 / FPS)) == [10, 11, 12, 13]
    assert probe(path).seconds == pytest.approx(40 / FPS, abs=0.02)


def test_lost_data_are_no_long_frame(tmp_path):
    """Of a broadcast: a clip over the gap is refused, one behind it is right."""
    path = write_timed(tmp_path / "a.ts", range(80), bframes=2, gop=16)
    data = path.read_bytes()
    lost = len(data) // 188 // 2
    path.write_bytes(data[: 188 * lost] + data[188 * (lost + 9) :])
    with pytest.raises(BadExample, match=r"a\.ts: .*missing at [345]\.\d\d s"):
        list(stream_frames(path))
    reasons, right = [], 0
    for start in range(76):
        try:
            read = numbers_of(read_clip(path, SHAPE, start / FPS))
            assert read == list(range(start, start + 4))
            right += 1
        except BadExample as error:
            reasons.append(error.reason)
    assert right > 40 and reasons and all("data are missing" in reason for reason in reasons)


@pytest.mark.parametrize("suffix", ["avi", "mkv", "flv"])
def test_files_that_were_cut(tmp_path, suffix):
    path = write_timed(tmp_path / f"a.{suffix}", range(80), gop=9)
    data = path.read_bytes()
    head = data.index(b"movi") if suffix == "avi" else 0
    path.write_bytes(data[: (head + len(data)) // 2])
    with pytest.raises(BadExample, match=r"end at [1-6]\.\d\d s of (9\.88|10)|decoded"):
        list(stream_frames(path))
    with pytest.raises(BadExample, match="frames end|too short"):
        read_clip(path, SHAPE, 8.0)
    assert numbers_of(read_clip(path, SHAPE, 1.0)) == [8, 9, 10, 11]


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_header_with_a_wrong_length(tmp_path, factor):
    """The table of frames knows better."""
    path = write_timed(tmp_path / "a.mp4", range(40), **REORDERED)
    data = bytearray(path.read_bytes())
    place = data.index(b"mdhd") + 20
    (units,) = struct.unpack_from(">I", data, place)
    struct.pack_into(">I", data, place, int(units * factor))
    path.write_bytes(data)
    check_regular(path)


@pytest.mark.parametrize("suffix", ["flv", "mkv", "mp4", "ts"])
def test_sound_that_goes_on_is_no_damage(tmp_path, suffix):
    """The header counts the sound; every random start lies within the film."""
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as output:
        film = output.add_stream("libx264", rate=FPS)
        film.height, film.width, film.pix_fmt = 32, 64, "yuv420p"
        sound = output.add_stream("aac", rate=44100)
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            output.mux(film.encode(frame))
        output.mux(film.encode(None))
        for number in range(10 * 44100 // 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    assert probe(path).seconds == pytest.approx(5.0, abs=0.02)
    assert streamed(path) == list(range(40))
    for seed in range(8):
        read = numbers_of(read_clip(path, SHAPE, np.random.default_rng(seed)))
        assert (np.diff(read) == 1).all()


@pytest.mark.parametrize("suffix", ["mp4", "ts", "avi", "mkv", "flv"])
def test_one_frame(tmp_path, suffix):
    path = write_timed(tmp_path / f"a.{suffix}", [0])
    assert streamed(path) == [0]
    one = VideoShape(frames=1, height=16, width=32, fps=float(FPS))
    assert numbers_of(read_clip(path, one, np.random.default_rng(0))) == [0]
    with pytest.raises(BadExample, match="too short: 0"):
        read_clip(path, SHAPE, 0.0)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.mkv", "a.avi"])
def test_ordinary_files_are_not_read_whole(tmp_path, monkeypatch, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    bframes = 0 if name.endswith("avi") else 2
    path = write_timed(tmp_path / name, range(80), codec, gop=9, bframes=bframes)
    monkeypatch.setattr(decode, "read_packets", None)
    for start in (0, 8, 26, 75):
        read = numbers_of(read_clip(path, SHAPE, start / FPS))
        assert read == list(range(start, start + 4))
    assert probe(path).seconds == pytest.approx(10.0, abs=0.02)


@pytest.mark.parametrize(("name", "bframes"), [("a.ts", 2), ("b.avi", 2), ("a.flv", 2)])
def test_only_a_group_of_pictures_is_decoded(tmp_path, monkeypatch, name, bframes):
    codec = "mpeg4" if name == "b.avi" else "libx264"
    path = write_timed(tmp_path / name, range(200), codec, gop=10, bframes=bframes)
    seen, decoded = VideoReader._timed, []
    monkeypatch.setattr(
        VideoReader, "_timed", lambda self, *args: (decoded.append(args[0]), seen(self, *args))[1]
    )
    assert numbers_of(read_clip(path, SHAPE, 150 / FPS)) == [150, 151, 152, 153]
    assert len(decoded) < 40


# ---- which way is up -----------------------------------------------------------------------------

# a, b, c, d of the matrix: x' = a x + c y, y' = b x + d y; and what becomes of an array
MATRICES = {
    (1, 0, 0, 1): lambda p: p, (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1], (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1), (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): np.rot90, (0, -1, -1, 0): lambda p: p[::-1, ::-1].swapaxes(0, 1),
}  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_orientations(tmp_path, matrix):
    path = write_timed(tmp_path / "a.mp4", range(20, 60), options={"qp": "1"})
    with_matrix(path, matrix)
    shown = MATRICES[matrix](picture(1))
    height, width = shown.shape[:2]
    shape = VideoShape(frames=2, height=height, width=width, fps=float(FPS))
    found = probe(path)
    assert (found.height, found.width) == (height, width)
    read = read_clip(path, shape, 1 / FPS)[0]
    assert np.abs(read.astype(int) - shown).mean() < 6
    footage = open_footage(path)
    assert (footage.height, footage.width) == (height, width)
    assert np.abs((footage.read(shape, 1 / FPS)[0] + 1) * 127.5 - shown).mean() < 6
    frame = next(stream_frames(path))
    assert frame.size == (height, width)


# ---- what is transparent -------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx", "webm"), ("libvpx-vp9", "mkv")])
def test_transparent_parts_are_white(tmp_path, codec, suffix):
    """Left half opaque red, the rest transparent black."""
    path, pixels = tmp_path / f"a.{suffix}", np.zeros((32, 64, 4), np.uint8)
    pixels[:, :32] = (200, 0, 0, 255)
    with av.open(str(path), "w") as output:
        track = output.add_stream(codec, rate=FPS, options={"auto-alt-ref": "0"})
        track.height, track.width, track.pix_fmt = 32, 64, "yuva420p"
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="yuva420p")
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    for start in (0.0, 1.0):
        read = read_clip(path, SHAPE, start).astype(int)
        assert np.abs(read[:, 2:-2, -8:] - 255).max() < 4
        assert np.abs(read[:, 2:-2, 2:12] - (200, 0, 0)).max() < 12


# ---- pictures that Pillow reads ------------------------------------------------------------------

# EXIF value: what a viewer does with the stored picture
EXIF = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("value", EXIF)
@pytest.mark.parametrize("name", ["still.png", "still.jpg", "film.webp", "film.png"])
def test_all_eight_orientations_of_pictures(tmp_path, value, name):
    exif = Image.Exif()
    exif[0x0112] = value
    frames = [Image.fromarray(picture(number)) for number in (1, 20)]
    options = {"exif": exif} | ({"quality": 100} if name.endswith("jpg") else {"lossless": True})
    if name.startswith("film"):
        options |= {"save_all": True, "append_images": frames[1:], "duration": 500}
    frames[0].save(tmp_path / name, **options)
    shown = [EXIF[value](picture(number)) for number in (1, 20)]
    height, width = shown[0].shape[:2]
    footage = open_footage(tmp_path / name)
    assert (footage.height, footage.width) == (height, width)
    shape = VideoShape(frames=2, height=height, width=width, fps=2.0)
    video = (footage.read(shape) + 1) * 127.5
    wanted = shown if name.startswith("film") else shown[:1] * 2
    assert np.abs(video - wanted).max() < 12
    if name.startswith("film"):
        assert [frame.size for frame in stream_frames(tmp_path / name)] == [(height, width)] * 2
        np.testing.assert_array_equal(read_clip(tmp_path / name, shape, 0.0), wanted)
