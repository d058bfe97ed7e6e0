"""The captions of a folder: several of one clip, what is no text, and what matches nothing."""

import json
import logging
import shutil

import made_videos
import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.sources import captions
from vidgen.data.sources.captions import captioned_files, folder_captions, listed_files
from vidgen.data.sources.folder import FolderSource
from vidgen.evals.clips import SourceClips
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)


def folder(tmp_path, *names, **texts):
    """A folder of empty videos, and of texts by name, "__" for a dot."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, text in texts.items():
        (tmp_path / name.replace("__", ".")).write_text(text, "utf-8")
    return str(tmp_path)


def captions_of(path, kinds=(".mp4",)):
    """Captions by the name of the file."""
    return {
        file.removeprefix(f"{path}/"): found for file, found in listed_files(path, kinds, "video")
    }


def test_rows_for_one_file_are_several_captions(tmp_path):
    rows = ["a.mp4,a cat", "b.mp4,a dog", "a.mp4,a second caption", "a.mp4,a  cat", "a,a third"]
    path = folder(tmp_path, "a.mp4", "b.mp4", captions__csv="\n".join(["file,caption", *rows]))
    found = {"a.mp4": ("a cat", "a second caption", "a third"), "b.mp4": ("a dog",)}
    assert captions_of(path) == found


def test_lists_in_json(tmp_path):
    rows = [{"file": "a.mp4", "caption": ["x", "y"]}, {"file": "a.mp4", "caption": "z"}]
    path = folder(
        tmp_path,
        *("a.mp4", "b.mp4", "c.mp4", "d.mp4"),
        captions__jsonl="\n".join(map(json.dumps, rows)),
        b__json='{"caption": ["u", "v"], "fps": 8}',
        c__json='["s", "t"]',
        d__json='{"boxes": [[1, 2]]}',
        captions__csv="file,caption\na.mp4,loses\nb.mp4,loses\nd.mp4,of the table\n",
    )
    wanted = {"a.mp4": ("x", "y", "z"), "b.mp4": ("u", "v"), "c.mp4": ("s", "t")}
    assert captions_of(path) == wanted | {"d.mp4": ("of the table",)}


def test_a_blank_text_hides_nothing(tmp_path):
    path = folder(
        tmp_path,
        *("a.mp4", "b.mp4", "c.mp4"),
        **{"a__txt": " \n", "b__txt": "\ufeff", "c__txt": "good", "a__json": '{"caption": "x"}'},
        captions__csv="file,caption\na.mp4,loses\nb.mp4,y\nc.mp4,loses\n",
    )
    assert captions_of(path) == {"a.mp4": ("x",), "b.mp4": ("y",), "c.mp4": ("good",)}


@pytest.mark.parametrize("value", ["7", "true", '{"en": "x"}', '["x", null]', '["x", 1]'])
@pytest.mark.parametrize("place", ["json", "jsonl"])
@pytest.mark.parametrize("missing", ["skip", "empty"])
def test_what_is_no_text_costs_one_clip(tmp_path, caplog, value, place, missing):
    entry = f'{{"file": "a.mp4", "caption": {value}}}'
    name = "a__json" if place == "json" else "captions__jsonl"
    path = folder(tmp_path, "a.mp4", "b.mp4", b__txt="good", **{name: entry})
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        found = captioned_files(path, (".mp4",), "video", missing)
    assert found == ((f"{path}/b.mp4", ("good",)),)
    assert "1 of 2 videos" in caplog.text and "not text" in caplog.text
    assert place == "json" or "captions.jsonl line 1" in caplog.text


@pytest.mark.parametrize("value", ["null", "NaN", '""', '" "', "[]", '["", " "]'])
@pytest.mark.parametrize("place", ["json", "jsonl"])
def test_nothing_is_no_caption(tmp_path, caplog, value, place):
    entry = f'{{"file": "a.mp4", "caption": {value}}}'
    name = "a__json" if place == "json" else "captions__jsonl"
    path = folder(tmp_path, "a.mp4", "b.mp4", b__txt="good", **{name: entry})
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        found = captioned_files(path, (".mp4",), "video", "skip")
    assert found == ((f"{path}/b.mp4", ("good",)),)
    assert "1 of 2 videos" in caplog.text and "have no caption (skipped)" in caplog.text
    assert captions_of(path)["a.mp4"] == ()


def test_rows_that_match_no_file_are_told(tmp_path, caplog):
    text = "file,caption\na.mp4,x\n" + "".join(f"gone/{n}.mp4,y\n" for n in range(312))
    path = folder(tmp_path, "a.mp4", "photo.jpg", captions__csv=f"{text}photo.jpg,z\n,w\n")
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        assert captions_of(path) == {"a.mp4": ("x",)}
    assert "313 rows of captions.csv match no file, e.g. gone/0.mp4 (line 3)" in caplog.text
    (tmp_path / "captions.csv").write_text("file,caption\nc.mp4,x\n")
    with pytest.raises(FileNotFoundError, match=r"1 row .*captions\.csv .* c\.mp4"):
        captioned_files(path, (".mp4",), "video", "skip")


def test_a_row_that_may_mean_two_files_is_refused(tmp_path):
    path = folder(tmp_path, "a.mp4", "a.webm", captions__csv="file,caption\na,x\n")
    with pytest.raises(ValueError, match=r"captions\.csv line 2: 'a' may mean a\.mp4 or a\.webm"):
        listed_files(path, (".mp4", ".webm"), "video")


def test_a_quotation_mark_that_takes_in_other_rows(tmp_path):
    path = folder(
        tmp_path, "a.mp4", "b.mp4", captions__csv='file,caption\na,"x\nvideos\\b.mp4,y\nb,z"\n'
    )
    with pytest.raises(ValueError, match=r"captions\.csv line 2: .*quotation .*b\.mp4"):
        captions_of(path)


def test_a_quotation_mark_that_takes_in_the_row_of_a_file_elsewhere(tmp_path):
    path = folder(tmp_path, "a.mp4", captions__csv='file,caption\na.mp4,"x\ngone.mp4,y"\n')
    with pytest.raises(ValueError, match=r"captions\.csv line 2: .*quotation .* gone\.mp4"):
        captions_of(path)


def test_texts_beside_clips_in_other_letters(tmp_path):
    path = folder(tmp_path, "a.mp4", "e\u0301.mp4", "c.MP4", **{"\u00e9__Txt": "accent"})
    (tmp_path / "a.TXT").write_text("capitals")
    (tmp_path / "c.JSON").write_text('{"caption": "json"}')
    found = {"a.mp4": ("capitals",), "e\u0301.mp4": ("accent",), "c.MP4": ("json",)}
    assert captions_of(path) == found
    (tmp_path / "a.Txt").write_text("twice")
    with pytest.raises(ValueError, match=r"a\.mp4 has both a\.TXT and a\.Txt beside it"):
        captions_of(path)


def test_files_that_nothing_reads_are_counted_once(tmp_path, caplog):
    names = ("a.mp4", "b.mxf", "c.mxf", "sub/readme.md", "a.shots.json", "lost.txt", ".hidden")
    path = folder(tmp_path, *names, a__txt="x", a__json="{}", captions__csv="file,caption\n")
    captions.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        captions_of(path)
        captions_of(path)
    assert caplog.text.count("4 files in") == 1
    assert "2 .mxf, 1 .txt, 1 .md, e.g. b.mxf" in caplog.text


def test_a_large_table_is_read_in_one_pass(tmp_path, monkeypatch):
    """No listing and no look at the disk for a row; a name in its own words least of all."""
    count = 20_000
    files = [f"{n:05}.mp4" for n in range(count)]
    rows = "".join(f"videos\\{file},caption {n}\n" for n, file in enumerate(files))
    (tmp_path / "videos").mkdir()
    path = folder(tmp_path / "videos", captions__csv=f"file,caption\n{rows}")
    monkeypatch.setattr("os.listdir", None)
    monkeypatch.setattr("os.stat", None)
    found = folder_captions(path, [*files, "captions.csv"], files)
    assert len(found.captions) == count and found.captions["00007.mp4"] == ("caption 7",)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two clips of twenty captions each."""
    path = made_videos.squares(tmp_path_factory.mktemp("several"), count=2)
    rows = [f"{n}.mp4,clip {n} told {k}" for k in range(20) for n in range(2)]
    for text in path.glob("*.txt"):
        text.unlink()
    (path / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    return path


def test_one_of_several_is_drawn_at_each_visit(several):
    """By the seed, and alike for any number of workers, processes and interruptions."""
    source = FolderSource(path=str(several), shape=SHAPE)
    assert len(source) == 2 and len(set(source.captions())) == 40

    def batches(count, *, seed=0, process=(0, 1), state=None, workers=0):
        pipeline = Pipeline(source=source, batch_size=2, seed=seed, workers=workers)
        iterator = pipeline.iterator(process=process)
        if state:
            iterator.set_states([state])
        found = [next(iterator)["caption"] for _ in range(count)]
        saved = iterator.get_state()
        iterator.close()
        return found, saved

    whole, _ = batches(12)
    assert all({text[:6] for text in batch} == {"clip 0", "clip 1"} for batch in whole)
    assert len({text for batch in whole for text in batch}) > 12
    assert batches(12)[0] == whole == batches(12, workers=1)[0] != batches(12, seed=1)[0]
    halves = [batches(12, process=(p, 2))[0] for p in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole
    first, state = batches(5)
    assert first + batches(7, state=state)[0] == whole


def test_evaluations_take_the_first(several):
    clips = SourceClips(source=FolderSource(path=str(several), shape=SHAPE), count=6, seed=4)
    assert {clips.read(number)[1] for number in range(6)} == {"clip 0 told 0", "clip 1 told 0"}


def test_the_clip_is_that_of_a_single_caption(several, tmp_path):
    shutil.copy(several / "0.mp4", tmp_path)
    (tmp_path / "0.txt").write_text("one")
    sources = [FolderSource(path=str(path), shape=SHAPE) for path in (several, tmp_path)]
    one, other = (source.load(0, np.random.default_rng(5)).video for source in sources)
    np.testing.assert_array_equal(one, other)
