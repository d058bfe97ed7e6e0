"""A user's folder: which files are found, and where their captions come from."""

import csv
import json
import logging
import pathlib
import tempfile

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen import paths
from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Source
from vidgen.data.sources.folder import FolderSource
from vidgen.data.video.encode import write_video
from vidgen.data.video.files import read_clip
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)


def _clip(path, brightness=0.0, frames=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    video = np.full((frames, 16, 16, 3), brightness, np.float32)
    video[::2, 0] = brightness - 0.1  # a change per frame: equal frames of a gif are merged
    write_video(path, video, 8, min_side=0)


def test_captions_from_text_csv_and_jsonl(tmp_path):
    for name in ("b/two.mp4", "a/one.webm", "three.gif", "four.webp", "five.mp4"):
        _clip(tmp_path / name)
    (tmp_path / "a/one.txt").write_text("  a sidecar\nwins  \n")
    (tmp_path / "b/captions.jsonl").write_text(
        json.dumps({"file": "two.mp4", "caption": "from json", "tags": []}) + "\n\n"
    )
    (tmp_path / "captions.csv").write_text(
        'caption,file\n"red, then blue",three.gif\nplain,four.webp\nhidden,a/one.webm\n'
        "loses,b/two.mp4\nfifth,five.mp4\n",
        encoding="utf-8-sig",
    )
    source = FolderSource(path=str(tmp_path), shape=SHAPE)
    assert isinstance(source, Source)
    expected = [
        ("a/one.webm", "a sidecar wins"),
        ("b/two.mp4", "from json"),
        ("five.mp4", "fifth"),
        ("four.webp", "plain"),
        ("three.gif", "red, then blue"),
    ]
    assert list(source.files) == [(str(tmp_path / f), (caption,)) for f, caption in expected]
    for index in range(len(source)):
        example = source.load(index, np.random.default_rng(0))
        assert example.video.shape == SHAPE.thwc and example.caption == expected[index][1]


def test_missing_captions_are_counted_and_reported(tmp_path, caplog):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        _clip(tmp_path / name)
    (tmp_path / "b.txt").write_text("the only one")
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        source = FolderSource(path=str(tmp_path), shape=SHAPE)
    assert len(source) == 1
    assert "2 of 3 videos" in caplog.text and "a.mp4" in caplog.text
    every = FolderSource(path=str(tmp_path), shape=SHAPE, missing_captions="empty")
    assert [captions for _, captions in every.files] == [(), ("the only one",), ()]
    assert list(every.captions()) == ["", "the only one", ""]


def test_nothing_usable_is_explained(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"a\.mp4 is a file"):
        FolderSource(path=str(tmp_path / "a.mp4"), shape=SHAPE)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="nowhere .*not exist"):
        FolderSource(path=str(tmp_path / "nowhere"), shape=SHAPE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds no video.*\.mp4 \.webm"):
        FolderSource(path=str(tmp_path), shape=SHAPE)
    _clip(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match=r"no caption.*a\.txt.*captions\.jsonl"):
        FolderSource(path=str(tmp_path), shape=SHAPE)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        (
            "captions.csv",
            "name,text\na.mp4,x\n",
            r"captions\.csv .*header line.*\['name', 'text'\]",
        ),
        ("captions.jsonl", '{"file": "a.mp4"}\n', r"captions\.jsonl line 1 .*not like"),
        (
            "captions.jsonl",
            '{"file": "a.mp4", "caption": "x"}\nnonsense\n',
            r"captions\.jsonl line 2 .*not like",
        ),
        ("captions.jsonl", "[" * 100_000, r"captions\.jsonl line 1 .*not like"),
        (
            "captions.csv",
            'file,caption\na.mp4,"' + "x\n" * 100_000,
            r"captions\.csv line 2 .*quotation mark",
        ),
        ("captions.csv", b"file,caption\na.mp4,caf\xe9\n", r"captions\.csv .*not UTF-8"),
    ],
)
def test_wrong_caption_files_are_explained(tmp_path, name, text, hint):
    _clip(tmp_path / "a.mp4")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=hint):
        FolderSource(path=str(tmp_path), shape=SHAPE)


def test_pipeline_skips_bad_files_of_a_folder(tmp_path, caplog):
    _clip(tmp_path / "good.mp4", 1.0)
    _clip(tmp_path / "short.mp4", frames=2)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "captions.csv").write_text(
        "file,caption\ngood.mp4,white\nshort.mp4,short\nbroken.mp4,broken\n"
    )
    iterator = Pipeline(
        source=FolderSource(path=str(tmp_path), shape=SHAPE), batch_size=4
    ).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        batch = next(iterator)
    assert batch["caption"] == ["white"] * 4 and batch["video"].min() > 225
    assert {name.rsplit("/", 1)[1] for name in iterator.skipped} == {"short.mp4", "broken.mp4"}
    assert "too short" in caplog.text and "broken.mp4" in caplog.text


def test_one_caption_that_cannot_be_read_costs_one_clip(tmp_path, caplog):
    for name in ("a", "b", "c"):
        _clip(tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(f"clip {name}")
    (tmp_path / "b.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "captions.csv").write_text("file,caption\nb.mp4,not what its text says\n")
    for missing in ("skip", "empty"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="vidgen"):
            source = FolderSource(path=str(tmp_path), shape=SHAPE, missing_captions=missing)
        assert list(source.captions()) == ["clip a", "clip c"]
        assert "1 of 3 videos" in caplog.text and "b.mp4: it is no UTF-8 text" in caplog.text
    for name in ("a", "c"):
        (tmp_path / f"{name}.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r": 1 .* b\.mp4: .*UTF-8"):
        FolderSource(path=str(tmp_path), shape=SHAPE)


def test_a_caption_of_any_length_is_kept_to_a_bound(tmp_path):
    for name, text in (
        ("a", "\ufeff" + "é" * 100_000),
        ("b", "word " * 20_000),
        ("c", "🎬" * 9_999),
    ):
        _clip(tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(text)
    _clip(tmp_path / "d.mp4")
    entry = {"file": str(tmp_path / "d.mp4"), "caption": "x" * 200_000}
    (tmp_path / "captions.jsonl").write_text(json.dumps(entry))
    found = list(FolderSource(path=str(tmp_path), shape=SHAPE).captions())
    assert found == ["é" * 10_000, ("word " * 2_000).strip(), "🎬" * 9_999, "x" * 10_000]


def test_captions_of_json_are_text_that_can_be_encoded(tmp_path):
    """Half a surrogate pair is legal in JSON, and null is no caption, least of all "None"."""
    lines = ['"a \\ud83c b"', '"\\ud83c\\udfac"', "null"]
    for number, value in enumerate(lines):
        _clip(tmp_path / f"{number}.mp4")
        with open(tmp_path / "captions.jsonl", "a") as table:
            table.write(f'{{"file": "{number}.mp4", "caption": {value}}}\n')
    found = dict(FolderSource(path=str(tmp_path), shape=SHAPE).files)
    names = {file.rsplit("/", 1)[1]: captions for file, captions in found.items()}
    assert names == {"0.mp4": ("a \ufffd b",), "1.mp4": ("🎬",)}
    ByteEncoder()([caption for captions in names.values() for caption in captions])


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=60)


@given(captions=st.lists(TEXT.filter(str.strip), min_size=1, max_size=6), kind=st.integers(0, 2))
def test_captions_of_any_characters_are_read_as_written(captions, kind):
    """Only spaces are made alike; line separators of all scripts end no row of a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows = [(f"{i}.mp4", caption) for i, caption in enumerate(captions)]
        for file, _ in rows:
            (folder / file).touch()
        if kind == 0:
            for file, caption in rows:
                (folder / file).with_suffix(".txt").write_text(caption, "utf-8", newline="")
        elif kind == 1:
            with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as table:
                csv.writer(table).writerows([("file", "caption"), *rows])
        else:
            entries = [json.dumps({"file": f, "caption": c}, ensure_ascii=False) for f, c in rows]
            (folder / "captions.jsonl").write_text("\n".join(entries), "utf-8", newline="")
        found = list(FolderSource(path=name, shape=SHAPE).captions())
    assert found == [" ".join(caption.split()) for caption in captions]


# ---- object stores -------------------------------------------------------------------------------


def _stored(tmp_path, brightness=0.0):
    _clip(tmp_path / "made.mp4", brightness)
    return (tmp_path / "made.mp4").read_bytes()


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_in_an_object_store(store, tmp_path, monkeypatch, whole):
    """The same as here, from one request a clip, or from parts of it."""
    if not whole:
        monkeypatch.setattr(paths, "_WHOLE", 0)
        monkeypatch.setattr(paths, "_BLOCK", 500)
    for name in ("a/one.mp4", "two.MP4", "three.webp", "four.mp4"):
        _clip(tmp_path / name.lower(), 0.5)
        store.put(name, (tmp_path / name.lower()).read_bytes())
    store.put("a/one.txt", "  a sidecar\nwins ")
    store.put("a/captions.jsonl", '{"file": "../two.MP4", "caption": "from json"}')
    store.put("captions.csv", f"file,caption\n{store.url}/three.webp,whole path\na/one.mp4,loses")
    source = FolderSource(path=store.url, shape=SHAPE)
    expected = [("a/one.mp4", "a sidecar wins"), ("three.webp", "whole path")]
    expected += [("two.MP4", "from json")]
    assert list(source.files) == [(f"{store.url}/{f}", (caption,)) for f, caption in expected]
    for index, (name, caption) in enumerate(expected):
        example = source.load(index, np.random.default_rng(0))
        beside = read_clip(tmp_path / name.lower(), SHAPE, np.random.default_rng(0))
        np.testing.assert_array_equal(example.video, beside)
        assert example.caption == caption


def test_an_object_that_cannot_be_read_is_skipped_and_counted(store, tmp_path, caplog):
    for name in ("a", "b", "c"):
        store.put(f"{name}.mp4", _stored(tmp_path))
        store.put(f"{name}.txt", name)
    source = FolderSource(path=store.url, shape=SHAPE)
    store.fail(3)
    assert source.load(0, np.random.default_rng(0)).caption == "a"  # at the fourth try
    store.fail(4)
    with pytest.raises(BadExample, match=r"a\.mp4: cannot be read \(it failed after 4 tries.*503"):
        source.load(0, np.random.default_rng(0))
    store.put("b.mp4", b"")
    fsspec.filesystem("flaky").rm(f"{store.url}/c.mp4")
    iterator = Pipeline(source=source, batch_size=2).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        for _ in range(3):
            assert set(next(iterator)["caption"]) == {"a"}
    assert set(iterator.skipped) == {f"{store.url}/{name}.mp4" for name in "bc"}
    assert "b.mp4: the file is empty" in caplog.text
    assert "c.mp4: cannot be read (No such file or directory)" in caplog.text


def test_a_folder_that_is_not_in_the_store(store):
    with pytest.raises(FileNotFoundError, match=f"the data folder {store.url} does not exist"):
        FolderSource(path=store.url, shape=SHAPE)
    store.put("notes.md", "x")
    with pytest.raises(FileNotFoundError, match=r"holds no video.*\.mp4 \.webm"):
        FolderSource(path=store.url, shape=SHAPE)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_objects_travels_to_worker_processes(tmp_path, workers):
    for number in range(3):
        _clip(tmp_path / f"{number}.mp4", number / 4)
        (tmp_path / f"{number}.txt").write_text(f"{number}")
    source = FolderSource(path=f"file://{tmp_path}", shape=SHAPE)
    iterator = Pipeline(source=source, batch_size=3, workers=workers).iterator()
    batch = next(iterator)
    iterator.close()
    assert sorted(batch["caption"]) == ["0", "1", "2"]
    for video, caption in zip(batch["video"], batch["caption"], strict=True):
        assert video[:, 2:].mean() == pytest.approx(127.5 * (1 + int(caption) / 4), abs=3)
