"""`vidgen prepare`: real films through a real pipeline, and what is left when it fails."""

import json
import shutil
import sys

import numpy as np
import pytest
from places import FILES

from vidgen.data.sources.array_records import read_record
from vidgen.data.sources.clip_records import ClipRecord, ClipRecords, ShardsManifest
from vidgen.data.sources.files import Packed
from vidgen.data.video.files import read_clip
from vidgen.data.video.stream import VideoStream
from vidgen.precompute import clip_cutting, prepare
from vidgen.precompute.clip_cutting import ClipCutter
from vidgen.precompute.prepare import Prepare
from vidgen.types import VideoShape

BUNNY = FILES / "big_buck_bunny"
SHAPE = VideoShape(frames=8, height=18, width=32, fps=8.0)
CUTTER = ClipCutter(shape=SHAPE, longest=3.0)


@pytest.fixture
def films(tmp_path):
    """A real film, a copy for which shots are given, and three that give nothing."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    shutil.copy(BUNNY / "part.mp4", folder / "bunny.mp4")
    shutil.copy(BUNNY / "part.mp4", folder / "more" / "again.mp4")
    (folder / "more" / "again.shots.json").write_text("[[0, 24], [30, 40], [100, 160]]")
    (folder / "junk.mp4").write_bytes(b"no film")
    (folder / "cut.webm").write_bytes((BUNNY / "part.mp4").read_bytes()[:5000])
    shutil.copy(BUNNY / "part.mp4", folder / "silent.mp4")
    rows = [("bunny.mp4", "a rabbit"), ("junk.mp4", "junk"), ("cut.webm", "a part of a film")]
    rows += [("more/again.mp4", "a rabbit again")]
    lines = [json.dumps({"file": file, "caption": caption}) for file, caption in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def short(tmp_path):
    """Two films of two flat shots, one of them without a caption."""
    folder = tmp_path / "short"
    folder.mkdir()
    for name in "ab":
        with VideoStream(folder / f"{name}.mp4", 8, 18, 32, min_side=0) as stream:
            for value in (30, 200):
                stream.append(np.full((10, 18, 32, 3), value, np.uint8))
    (folder / "a.txt").write_text("two colors")
    return folder


def made(films, output, **settings):
    given = {"videos": str(films), "output": str(output), "cutter": CUTTER, "shards": 3}
    return Prepare(**given | settings)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_films_become_records(films, tmp_path):
    output = tmp_path / "records"
    made(films, output)()
    numbers = [f"-{n:05}-of-00003" for n in range(3)]
    wanted = [f"captions{n}.jsonl" for n in numbers] + [f"clips{n}.array_record" for n in numbers]
    assert visible(output) == [*wanted, "manifest.json", "rejected.jsonl"]
    assert not list(output.glob(".*"))
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rejected] == ["cut.webm", "junk.mp4", "silent.mp4"]
    assert "cannot be decoded" in rejected[0]["reason"]
    assert rejected[2]["reason"] == "has no caption"

    # Shots of 35, 24, 70, 43, 37, 158 (in three) and 39 frames at 24 fps; then 24, 10 and 60.
    manifest = ShardsManifest.read(output)
    told = manifest.statistics
    assert (told["films"], told["shots"], told["clips"]) == (5, 10, 10)
    assert told["rejected films"] == {"cannot be decoded": 2, "has no caption": 1}
    assert told["rejected clips"] == {"fewer than 8 frames": 2}
    assert told["seconds of a clip"] == {"1": 6, "2": 1, "3": 3}
    assert told["frames"] == 161 and told["seconds"] == 161 / 8
    assert told["size of the film"] == {"72x128": 10}
    assert told["words of a caption"] == {"2": 8, "3": 2}
    assert manifest.clip == {"height": 18, "width": 32, "fps": 8.0}

    source = ClipRecords(path=str(output), shape=SHAPE)
    captions = list(source.captions())
    assert sorted(captions) == ["a rabbit"] * 8 + ["a rabbit again"] * 2
    assert [source.load(i, np.random.default_rng(0)).caption for i in range(10)] == captions
    for shard in manifest.shards:
        for number in range(shard.examples):
            same_as_in_its_film(ClipRecord.unpack(read_record(output / shard.file, number)), films)


def same_as_in_its_film(clip, films):
    """As `read_clip` reads it from there, but for the loss of encoding it so small."""
    start, film = clip.metadata["start"], films / clip.metadata["film"]
    assert start == pytest.approx(clip.metadata["first_frame"] / 24, abs=1e-3)
    found = read_clip(Packed("a.mp4", clip.content), SHAPE, 0).astype(float)
    there, later = (
        np.abs(found - read_clip(film, SHAPE, start + wait)).mean() for wait in (0.0, 0.125)
    )
    assert there < 6 and there < later


def test_a_rerun_gives_the_same_shards(short, tmp_path):
    for name in ("one", "two"):
        made(short, tmp_path / name)()
    assert visible(tmp_path / "one") == visible(tmp_path / "two")
    for name in visible(tmp_path / "one"):
        files = [(tmp_path / folder / name).read_bytes() for folder in ("one", "two")]
        assert files[0] == files[1], name
    assert len(ClipRecords(path=str(tmp_path / "one"), shape=SHAPE)) == 2


def test_films_without_a_caption_may_be_kept(short, tmp_path):
    made(short, tmp_path / "out", missing_captions="empty")()
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == ""
    settings = {"path": str(tmp_path / "out"), "shape": SHAPE}
    assert len(ClipRecords(**settings)) == 2
    every = list(ClipRecords(**settings, missing_captions="empty").captions())
    assert sorted(every) == ["", "", "two colors", "two colors"]


def test_a_failed_pipeline_leaves_no_records_and_goes_on(short, tmp_path, monkeypatch):
    output = tmp_path / "out"
    real = prepare.write_shard

    def full(folder, number, shards, clips):
        if number == 1:
            raise OSError(28, "No space left on device", "a disk")
        return real(folder, number, shards, clips)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_shard", full)
        with pytest.raises(Exception, match="No space left"):
            made(short, output)()
    assert visible(output) == []
    with pytest.raises(FileNotFoundError, match=r"no finished records: .*manifest\.json"):
        ClipRecords(path=str(output), shape=SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(clip_cutting, "stream_frames", None)  # what was cut is not cut again
        made(short, output)()
    assert len(ClipRecords(path=str(output), shape=SHAPE)) == 2
    assert not list(output.glob(".*"))


def test_a_film_that_nobody_expects_fails_the_pipeline(short, tmp_path, monkeypatch):
    """Only what is wrong with a file is a file's fault."""
    monkeypatch.setattr(clip_cutting, "shrink", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(short, tmp_path / "out")()
    assert visible(tmp_path / "out") == []


def test_a_part_of_the_films(short, tmp_path):
    found = made(f"{short}/a*.mp4", tmp_path / "out").films
    assert [film.name for film in found] == ["a.mp4"] and found[0].captions == ("two colors",)
    same = made(f"{tmp_path}/sh*/*.mp4", tmp_path / "out").films
    assert [film.name for film in same] == ["short/a.mp4", "short/b.mp4"]
    with pytest.raises(FileNotFoundError, match=r"c\*\.mp4: .*no video"):
        made(f"{short}/c*.mp4", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"b\*\.mp4: 1 videos .*Prepare\.missing_captions"):
        made(f"{short}/b*.mp4", tmp_path / "out")


def test_nothing_but_rejected_films(short, tmp_path):
    long = ClipCutter(shape=VideoShape(frames=80, height=18, width=32, fps=8.0))
    with pytest.raises(ValueError, match=r" 2 videos; .*rejected\.jsonl"):
        made(short, tmp_path / "out", cutter=long)()
    assert visible(tmp_path / "out") == ["rejected.jsonl"]
    assert "no shot of it has 80 frames" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_wrong_settings(short, tmp_path, monkeypatch):
    for settings, words in (
        ({"missing_captions": "keep"}, "missing_captions .*'keep'; .*skip or empty"),
        ({"shards": 0}, "shards is 0; .*1 to 99999"),
        ({"output": ""}, "RECORDS is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            made(short, **{"output": tmp_path / "out"} | settings)
    with pytest.raises(FileNotFoundError, match="nowhere .*not exist"):
        made(tmp_path / "nowhere", tmp_path / "out")
    ShardsManifest(shards=[]).write(tmp_path)
    with pytest.raises(ValueError, match=r"finished records \(manifest\.json\)"):
        made(short, tmp_path)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r'pip install "vidgen\[beam\]"'):
        made(short, tmp_path / "out")


@pytest.mark.cli
def test_the_command(vidgen, short):
    files = ["--gin_file=experiments/imagen_base_tiny.gin"]
    flags = ["--gin.RAW_VIDEOS='short'", "--gin.RECORDS='out'", "--gin.Prepare.shards=2"]
    told = vidgen("prepare", *files, *flags)
    assert (told.status, told.out) == (0, ""), told.err
    assert "2 clips (2 s, 0.0 MB) of 1 videos are in out; 1 videos were rejected" in told.err
    again = vidgen("prepare", *files, *flags)
    again.assert_sentence("out holds finished records")
    vidgen("prepare", *files).assert_sentence("RECORDS is not set")
    other = ["--gin.RECORDS='other'", "--gin.Prepare.runner='NoRunner'"]
    vidgen("prepare", *files, *flags, *other).assert_sentence("NoRunner")
