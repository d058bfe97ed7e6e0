"""What `vidgen check` says of data: all of it is read by the source that training has."""

import dataclasses

import numpy as np
import pytest
from made_videos import tar

from vidgen.data.sources.clip_record import ClipRecord
from vidgen.data.sources.clip_records import ClipRecords, ShardsManifest, write_shard
from vidgen.data.sources.folder import FolderSource
from vidgen.data.sources.images import ImageFolder, Joint
from vidgen.data.sources.tar_shards import TarShards
from vidgen.data.video.encode import write_video
from vidgen.precompute import check_data
from vidgen.precompute.check_data import CheckData, caption_facts, grouped, of_shape, summary
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)


def clip(path, frames=16, height=24, width=32, fps=8):
    video = np.zeros((frames, height, width, 3), np.float32)
    video[:, :, : width // 2] = np.linspace(-0.9, 0.9, frames)[:, None, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, video, fps, min_side=0)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three good clips, and one of each kind that is not used."""
    for number, (frames, fps) in enumerate([(16, 8), (12, 4), (40, 10)]):
        clip(tmp_path / f"{number}.mp4", frames, fps=fps)
        (tmp_path / f"{number}.txt").write_text(f"clip number {number}")
    clip(tmp_path / "short.mp4", frames=2)
    (tmp_path / "short.txt").write_text("a short one")
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    (tmp_path / "damaged.txt").write_text("a damaged one")
    clip(tmp_path / "silent.mp4")
    clip(tmp_path / "odd.mp4")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "letter.doc").write_text("x")
    (tmp_path / "captions.csv").write_text("file,caption\ngone.mp4,what is gone\n")
    return tmp_path


def test_a_folder(folder):
    facts = CheckData(source=FolderSource(path=str(folder), shape=SHAPE))()
    assert (facts["examples"], facts["read"], facts["usable"]) == (5, 5, 3)
    seconds = facts["seconds"]  # of all that can be opened, the short one too
    assert seconds["least"] == pytest.approx(0.25) and seconds["most"] == pytest.approx(4)
    assert seconds["sum"] == pytest.approx(2 + 3 + 4 + 0.25)
    assert facts["fps"]["least"] == pytest.approx(4) and facts["fps"]["most"] == pytest.approx(10)
    assert facts["sizes"] == {"24x32": 4}
    assert facts["captions"]["count"] == facts["captions"]["different"] == 5
    refused = {one["file"]: one["why"] for one in facts["refused"]}
    assert refused.keys() == {str(folder / "short.mp4"), str(folder / "damaged.mp4")}
    assert refused[str(folder / "short.mp4")].startswith("too short: 0.25 s")
    left_out = {(one["file"], one["why"]) for one in facts["left_out"]}
    assert left_out == {
        ("silent.mp4", "it has no caption"),
        ("odd.mp4", "its caption cannot be read: it is no UTF-8 text"),
        ("letter.doc", "it is no video and no caption of one"),
        (
            str(folder),
            f"1 row of captions.csv match no file, e.g. gone.mp4 (line 2); it has 1 rows and lies "
            f"in {folder}",
        ),
    }
    assert facts["clip"] == {"frames": 4, "height": 16, "width": 16, "fps": 8.0}


def test_clips_without_a_caption_that_are_used_are_not_left_out(folder):
    source = FolderSource(path=str(folder), shape=SHAPE, missing_captions="empty")
    facts = CheckData(source=source)()
    assert facts["examples"] == 6 and facts["captions"]["empty"] == 1
    assert "silent.mp4" not in {one["file"] for one in facts["left_out"]}


def test_some_clips_are_spread_evenly(folder):
    for number in range(4, 10):
        clip(folder / f"{number}.mp4")
        (folder / f"{number}.txt").write_text("one more")
    source = FolderSource(path=str(folder), shape=SHAPE)
    check = CheckData(source=source, clips=4)
    assert check._numbers() == [0, 2, 5, 8] and len(source) == 11
    assert check()["read"] == 4
    assert CheckData(source=source, clips=0)()["read"] == 11
    assert check()["captions"]["count"] == 11  # they are all listed anyway


def test_what_was_looked_up_is_not_looked_up_again(folder, monkeypatch):
    check = CheckData(source=FolderSource(path=str(folder), shape=SHAPE))
    known = check.probed()
    assert [number for number, file in known.items() if file is None] == [3]  # damaged.mp4
    monkeypatch.setattr(check_data, "probe", None)
    assert dataclasses.replace(check, known=known)()["sizes"] == {"24x32": 4}


def test_clips_to_look_at_are_those_of_training_in_more_pixels(folder):
    source = FolderSource(path=str(folder), shape=SHAPE)
    check = CheckData(source=source)
    shown = check.shown()
    assert [one.caption for one in shown] == [f"clip number {n}" for n in range(3)]
    for number, one in enumerate(shown):
        assert one.video.shape == (4, 96, 96, 3)
        small = source.load(number, check._rng(number)).video
        brightness = one.video[:, 40:56, 8:24].mean((1, 2, 3))  # the same moments
        same = small[:, 7:9, 2:4].astype(float).mean((1, 2, 3)) / 127.5 - 1
        np.testing.assert_allclose(brightness, same, atol=0.03)


def test_tar_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for number in range(3):
        names.append(clip(tmp_path / f"{number}.mp4").relative_to(tmp_path))
    (tmp_path / "0.txt").write_text("the first")
    (tmp_path / "1.json").write_text('{"caption": ["a second", "the second"]}')
    (tmp_path / "note.xyz").write_text("x")
    files = [*names, *(tmp_path / n for n in ("0.txt", "1.json", "note.xyz"))]
    tar(
        tmp_path / "shards" / "a.tar",
        *(f.relative_to(tmp_path) if f.is_absolute() else f for f in files),
    )
    source = TarShards(path="shards", shape=SHAPE, index_dir=str(tmp_path / "indices"))
    facts = CheckData(source=source)()
    assert (facts["examples"], facts["usable"], facts["sizes"]) == (2, 2, {"24x32": 2})
    assert facts["captions"]["count"] == 3
    assert [tuple(one.values()) for one in facts["left_out"]] == [
        ("shards/a.tar/2.mp4", "it has no caption"),
        ("shards/a.tar/note.xyz", "no part of a sample, as 1 file(s) here"),
    ]
    empty = dataclasses.replace(source, missing_captions="empty")
    assert [name for name, _ in empty.left_out()] == ["shards/a.tar/note.xyz"]


def test_records(tmp_path):
    content = clip(tmp_path / "a.mp4").read_bytes()
    record = ClipRecord(key="a", caption="a clip", suffix=".mp4", content=content)
    silent = dataclasses.replace(record, key="b", caption="")
    shard = write_shard(tmp_path, 0, 1, [record, silent])
    ShardsManifest(shards=[shard]).write(tmp_path)
    facts = CheckData(source=ClipRecords(path=str(tmp_path), shape=SHAPE))()
    assert (facts["examples"], facts["usable"], facts["sizes"]) == (1, 1, {"24x32": 1})
    name = tmp_path / "clips-00000-of-00001.array_record"
    assert facts["left_out"] == [{"file": f"{name}[1]", "why": "it has no caption"}]


def test_videos_with_images(folder):
    images = folder / "images"
    images.mkdir()
    for number in range(5):
        write_video(images / f"{number}.png", np.zeros((1, 16, 16, 3), np.float32), 1)
        (images / f"{number}.txt").write_text(f"image {number}")
    joint = Joint(
        videos=FolderSource(path=str(folder), shape=SHAPE),
        images=ImageFolder(path=str(images), shape=SHAPE),
        image_rate=1.0,
    )
    facts = CheckData(source=joint)()
    assert facts["image_packs"] == facts["usable"] == 5
    assert facts["captions"]["count"] == 10
    (shown, *_) = CheckData(source=joint).shown()
    assert shown.video.shape == (4, 96, 96, 3) and shown.caption == "clip number 0"


def test_what_cannot_be_checked_is_told(folder):
    source = FolderSource(path=str(folder), shape=SHAPE)
    with pytest.raises(ValueError, match="--clips is -1"):
        CheckData(source=source, clips=-1)
    with pytest.raises(ValueError, match=r"CheckData\.source is None; .*DATA_DIR"):
        CheckData(source=None)


def test_another_shape_finds_no_files_anew(folder, monkeypatch):
    source = FolderSource(path=str(folder), shape=SHAPE)
    larger = dataclasses.replace(SHAPE, height=32)
    monkeypatch.setattr(FolderSource, "files", None)
    other = of_shape(source, larger)
    assert (source.shape, other.shape) == (SHAPE, larger)
    assert other.__dict__["files"] is source.__dict__["files"]


def test_numbers_are_summed_up():
    assert summary([]) is None
    found = summary([float(n) for n in range(100, 0, -1)])
    assert found == {
        "least": 1.0, "reached_by_95_percent": 6.0, "median": 50.5, "most": 100.0, "sum": 5050.0,
    }  # fmt: skip
    assert summary([2.0])["reached_by_95_percent"] == 2.0


def test_captions_are_counted():
    texts = ["a cat", "a cat", "a dog that runs very fast", ""]
    facts = caption_facts(texts, ByteEncoder(length=7).length)
    assert (facts["count"], facts["empty"], facts["different"], facts["cut"]) == (3, 1, 2, 1)
    assert facts["most_frequent"] == {"a cat": 2, "a dog that runs very fast": 1}
    assert facts["words"]["most"] == 6
    assert caption_facts(texts)["cut"] is None


def test_refusals_are_grouped_by_their_reason():
    why = ["too short: 0.2 s", "cannot be decoded (end)", "too short: 0.3 s", "it has no caption"]
    groups = grouped([{"file": str(i), "why": text} for i, text in enumerate(why)])
    assert [(name, len(those)) for name, those in groups] == [
        ("too short", 2), ("cannot be decoded", 1), ("it has no caption", 1),
    ]  # fmt: skip
