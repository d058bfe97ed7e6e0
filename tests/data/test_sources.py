"""A user's folder: which files are found, and where their captions come from."""

import json
import logging

import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.sources import FolderSource, Source
from vidgen.data.video_writer import write_video
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
    assert list(source.files) == [(str(tmp_path / f), caption) for f, caption in expected]
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
    assert [caption for _, caption in every.files] == ["", "the only one", ""]


def test_nothing_usable_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
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
        ("captions.csv", "name,text\na.mp4,x\n", r"header line.*\['name', 'text'\]"),
        ("captions.jsonl", '{"file": "a.mp4"}\n', "line 1 is not like"),
        ("captions.jsonl", '{"file": "a.mp4", "caption": "x"}\nnonsense\n', "line 2 is not like"),
    ],
)
def test_wrong_caption_files_are_explained(tmp_path, name, text, hint):
    _clip(tmp_path / "a.mp4")
    (tmp_path / name).write_text(text)
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
