"""A film into clips: which frames, how many, what is counted, what is refused."""

import collections
import dataclasses
import json
import weakref

import numpy as np
import pytest

from vidgen.data.sources.array_records import count_records, read_record
from vidgen.data.sources.clip_records import ClipRecord
from vidgen.data.sources.files import Packed
from vidgen.data.video.files import probe, read_clip
from vidgen.data.video.stream import VideoStream
from vidgen.precompute import clip_cutting
from vidgen.precompute.clip_cutting import ClipCutter, SourceVideo, cut_video, described
from vidgen.precompute.shots import CutDetector
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=24, fps=8.0)
LENGTHS, VALUES = (20, 3, 30), (30, 220, 120)


@pytest.fixture
def film(tmp_path):
    """Three flat shots at 16 frames a second."""
    path = tmp_path / "films" / "a.mp4"
    path.parent.mkdir()
    with VideoStream(path, 16, 32, 64, min_side=0) as stream:
        for length, value in zip(LENGTHS, VALUES, strict=True):
            stream.append(np.full((2 * length, 32, 64, 3), value, np.uint8))
    return SourceVideo(path=str(path), name="a.mp4", captions=("three colors",))


def cut(film, tmp_path, **settings):
    cutter = ClipCutter(**{"shape": SHAPE, "longest": 2.0} | settings)
    found = cut_video(film, cutter, str(tmp_path / "work" / cutter.mark))
    records = [ClipRecord.unpack(read_record(found.records, i)) for i in range(len(found.keys))]
    return found, records


def test_clips_of_shots(film, tmp_path):
    """20 frames give 16 and 4, 3 are too few, 30 give 16 and 14."""
    found, records = cut(film, tmp_path)
    assert not found.reason and count_records(found.records) == 4
    assert [record.metadata["frames"] for record in records] == [16, 4, 16, 14]
    assert [record.metadata["first_frame"] for record in records] == [0, 32, 46, 78]
    assert [record.metadata["last_frame"] for record in records] == [30, 38, 76, 104]
    for record, value in zip(records, (30, 30, 120, 120), strict=True):
        assert record.caption == "three colors" and record.suffix == ".mp4"
        file = Packed("a.mp4", record.content)
        held = probe(file)
        assert (held.height, held.width, held.fps) == (16, 24, 8.0)
        assert held.seconds == pytest.approx(record.metadata["frames"] / 8)
        video = read_clip(file, dataclasses.replace(SHAPE, frames=record.metadata["frames"]), 0)
        assert np.abs(video.astype(int) - value).max() <= 3
    assert found.counts == collections.Counter(
        {
            ("films",): 1,
            ("shots",): 3,
            ("clips",): 4,
            ("frames",): 50,
            ("bytes",): sum(len(record.content) for record in records),
            ("rejected clips", "fewer than 4 frames"): 1,
            ("seconds of a clip", "2"): 2,
            ("seconds of a clip", "0"): 1,
            ("seconds of a clip", "1"): 1,
            ("words of a caption", "2"): 4,
            ("size of the film", "32x64"): 4,
            ("fps of the film", "16"): 4,
        }
    )


def test_the_same_film_gives_the_same_records(film, tmp_path):
    one, records = cut(film, tmp_path)
    two, again = cut(film, tmp_path / "other")
    assert records == again and one.keys == two.keys and len(set(one.keys)) == 4
    with open(one.records, "rb") as first, open(two.records, "rb") as second:
        assert first.read() == second.read()
    renamed, _ = cut(dataclasses.replace(film, name="b.mp4"), tmp_path)
    assert not set(renamed.keys) & set(one.keys)


def test_what_was_cut_is_not_cut_again(film, tmp_path, monkeypatch):
    found, _ = cut(film, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(clip_cutting, "stream_frames", None)
        again, _ = cut(film, tmp_path)
    assert again == found and isinstance(again.counts, collections.Counter)
    other, _ = cut(dataclasses.replace(film, captions=("new",)), tmp_path)
    assert other.records != found.records
    (tmp_path / "films" / "a.shots.json").write_text("[[0, 10]]")
    assert len(cut(film, tmp_path)[0].keys) == 1


def test_given_shots(film, tmp_path):
    (tmp_path / "films" / "a.shots.json").write_text("[[2, 12], [30, 40]]")
    _, records = cut(film, tmp_path)
    assert [record.metadata["first_frame"] for record in records] == [2, 30]
    assert [record.metadata["frames"] for record in records] == [5, 5]
    (tmp_path / "films" / "a.shots.json").write_text("[[2, 1]]")
    found, _ = cut(film, tmp_path)
    assert "a.shots.json is no list of shots" in found.reason and not found.keys


def test_other_settings(film, tmp_path):
    assert [r.metadata["frames"] for r in cut(film, tmp_path / "a", longest=9.0)[1]] == [20, 30]
    blind = CutDetector(least=0.99)
    assert [r.metadata["frames"] for r in cut(film, tmp_path / "b", detector=blind)[1]] == [
        *(16, 16, 16, 5)
    ]
    whole = dataclasses.replace(SHAPE, fps=16.0)
    lengths = [r.metadata["frames"] for r in cut(film, tmp_path / "c", shape=whole)[1]]
    assert lengths == [32, 8, 6, 32, 28]


def test_quality(film, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), np.uint8)
    with VideoStream(film.path, 8, 16, 24, min_side=0) as stream:
        stream.append(noise)
    (tmp_path / "films" / "a.shots.json").write_text("[[0, 8]]")
    size = [len(cut(film, tmp_path, quality=q)[1][0].content) for q in (51, 30, 0)]
    assert size[0] < size[1] < size[2]


def test_films_that_give_nothing(film, tmp_path):
    with open(film.path, "rb") as file:
        data = file.read()
    files = {"junk.mp4": b"no film", "cut.mp4": data[: len(data) // 3], "empty.mp4": b""}
    reasons = {}
    for name, content in files.items():
        path = tmp_path / "films" / name
        path.write_bytes(content)
        found, records = cut(SourceVideo(path=str(path), name=name, captions=("x",)), tmp_path)
        assert not records and found.counts["films",] == 1
        (kind,) = [key[1] for key in found.counts if key[0] == "rejected films"]
        assert found.reason.startswith(kind)
        reasons[name] = found.reason
    assert "cannot be decoded" in reasons["junk.mp4"] and "empty" in reasons["empty.mp4"]
    long = dataclasses.replace(SHAPE, frames=32)
    found, _ = cut(film, tmp_path, shape=long, longest=4.0)
    assert found.reason == "no shot of it has 32 frames"
    assert not list((tmp_path / "work").glob("**/*.array_record*"))


def test_few_frames_are_kept(film, tmp_path, monkeypatch):
    real, alive, most = clip_cutting.stream_frames, 0, 0

    def counted(path):
        nonlocal alive, most

        def died():
            nonlocal alive
            alive -= 1

        for frame in real(path):
            weakref.finalize(frame, died)
            alive += 1
            most = max(most, alive)
            yield frame

    monkeypatch.setattr(clip_cutting, "stream_frames", counted)
    cut(film, tmp_path)
    assert CutDetector().window < most <= CutDetector().window + 5


def test_statistics():
    counts = collections.Counter({("films",): 3, ("clips",): 2, ("frames",): 20, ("bytes",): 9})
    counts.update({("seconds of a clip", "10"): 1, ("seconds of a clip", "4"): 1})
    table = described(counts, 8.0)
    assert table["films"] == 3 and table["shots"] == 0 and table["seconds"] == 2.5
    assert list(table["seconds of a clip"]) == ["4", "10"]
    json.dumps(table)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"longest": 0.4}, r"0\.4 s .* 8 fps .* 3 frames, 4x16x24 .* 4;"),
        ({"quality": 52}, "quality is 52"),
        ({"shape": VideoShape(frames=1, height=4, width=4, channels=1)}, "channels is 1"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        ClipCutter(**{"shape": SHAPE} | settings)
