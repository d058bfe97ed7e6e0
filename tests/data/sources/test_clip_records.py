"""Clips in ArrayRecord shards: what is written, how it is read, what is refused.

Tests of vidgen/data/sources/clip_record.py too.
"""

import dataclasses
import json
import logging
import os
import pickle

import msgpack
import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Source
from vidgen.data.sources.array_records import count_records, write_records
from vidgen.data.sources.clip_records import (
    ClipRecord,
    ClipRecords,
    ShardsManifest,
    captions_file,
    shard_name,
    write_shard,
)
from vidgen.data.video.encode import write_video
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=16, width=16, fps=8.0)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A clip or a picture of a brightness, as the bytes of a file."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def make(brightness, suffix=".mp4"):
        if (brightness, suffix) not in made:
            path = folder / f"{len(made)}{suffix}"
            video = np.full((1 if suffix == ".png" else 8, 16, 16, 3), brightness, np.float32)
            video[::2, 0] = brightness - 0.1  # equal frames of a webp would be merged
            write_video(path, video, 8, min_side=0)
            made[brightness, suffix] = path.read_bytes()
        return made[brightness, suffix]

    return make


@pytest.fixture
def clip(content):
    def make(number, caption=None, suffix=".mp4"):
        caption = f"clip {number}" if caption is None else caption
        data = content(number / 8, suffix)
        return ClipRecord(
            key=f"k{number}",
            caption=caption,
            suffix=suffix,
            content=data,
            metadata={"number": number},
        )

    return make


def write(folder, shards, finish=True):
    """A folder of records, from a list of clips for each shard."""
    folder.mkdir(exist_ok=True)
    found = [write_shard(folder, i, len(shards), iter(clips)) for i, clips in enumerate(shards)]
    if finish:
        ShardsManifest(shards=found).write(folder)
    return folder


def records(folder, **settings):
    return ClipRecords(**{"path": str(folder), "shape": SHAPE} | settings)


def load(source, index, seed=0):
    return source.load(index, np.random.default_rng(seed))


def test_a_record_comes_back(clip):
    one = clip(3, "naïve 🎬 \ud83d")  # JSON may hold half of a character
    assert ClipRecord.unpack(one.pack()) == one
    more = msgpack.unpackb(clip(3).pack()) | {"added later": 1}
    assert ClipRecord.unpack(msgpack.packb(more)) == clip(3)
    for wrong in (b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"key": "a"})):
        with pytest.raises(ValueError, match=r"no record .*\([A-Z]\w+\)"):
            ClipRecord.unpack(wrong)
    with pytest.raises(ValueError, match="another type"):
        ClipRecord.unpack(msgpack.packb(more | {"content": "text"}))


def test_round_trip_in_order(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0), clip(1)], [], [clip(2, suffix=".webp")]])
    source = records(folder)
    assert isinstance(source, Source) and len(source) == 3
    assert list(source.captions()) == ["clip 0", "clip 1", "clip 2"]
    for index in (2, 0, 1):
        example = load(source, index)
        assert example.caption == f"clip {index}" and example.video.shape == SHAPE.thwc
        assert example.video.mean() == pytest.approx(127.5 + index / 8 * 127.5, abs=3)
        again = load(records(folder), index)
        np.testing.assert_array_equal(again.video, example.video)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["examples"] == 3 and [s["examples"] for s in manifest["shards"]] == [2, 0, 1]
    row = json.loads((folder / "captions-00002-of-00003.jsonl").read_text())
    assert row == {"key": "k2", "caption": "clip 2"}


def test_several_captions(tmp_path, clip):
    """All are kept, one is drawn, and records from before there could be several are read."""
    many = dataclasses.replace(clip(0), other_captions=("second", "third", "clip 0"))
    folder = write(tmp_path / "a", [[many, clip(1)]])
    row = json.loads((folder / "captions-00000-of-00001.jsonl").read_text().splitlines()[0])
    assert row == {"key": "k0", "caption": "clip 0", "other_captions": list(many.other_captions)}
    source = records(folder)
    assert list(source.captions()) == ["clip 0", "second", "third", "clip 1"]
    drawn = [load(source, 0, seed).caption for seed in range(30)]
    assert set(drawn) == {"clip 0", "second", "third"}
    assert drawn == [load(source, 0, seed).caption for seed in range(30)]
    assert load(source, 0, 3).first_caption == "clip 0" and load(source, 1).captions == ()
    os.remove(captions_file(folder / shard_name(0, 1)))  # then the records themselves are asked
    assert list(records(folder).captions()) == ["clip 0", "second", "third", "clip 1"]
    old = {"key": "k", "caption": "x", "suffix": ".mp4", "content": b"x", "metadata": {}}
    assert ClipRecord.unpack(msgpack.packb(old)).captions == ("x",)
    assert set(msgpack.unpackb(clip(1).pack())) == set(old)  # as it was for one
    with pytest.raises(ValueError, match="another type"):
        ClipRecord.unpack(msgpack.packb(old | {"other_captions": [7]}))


def test_the_same_clips_give_the_same_bytes(tmp_path, clip):
    folders = [write(tmp_path / name, [[clip(0), clip(1)]]) for name in "ab"]
    shards = [(folder / shard_name(0, 1)).read_bytes() for folder in folders]
    assert shards[0] == shards[1]


def test_patterns(tmp_path, clip):
    a = write(tmp_path / "a", [[clip(0)], [clip(1)]])
    write(tmp_path / "b", [[clip(2)]])
    both = records(f"{tmp_path}/*")
    assert list(both.captions()) == ["clip 0", "clip 1", "clip 2"]
    assert [load(both, i).caption for i in range(3)] == ["clip 0", "clip 1", "clip 2"]
    (a / "manifest.json").unlink()
    loose = records(f"{a}/*.array_record")
    assert list(loose.captions()) == ["clip 0", "clip 1"]
    os.remove(captions_file(a / shard_name(0, 2)))  # then the records themselves are asked
    assert list(records(f"{a}/clips-*").captions()) == ["clip 0", "clip 1"]
    assert list(records(f"{a}/clips-00001-*").captions()) == ["clip 1"]


def test_clips_without_a_caption(tmp_path, clip, caplog):
    folder = write(tmp_path / "a", [[clip(0), clip(1, "")], [clip(2, ""), clip(3, "")], [clip(4)]])
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        source = records(folder)
    assert "3 clips" in caplog.text and "skipped" in caplog.text
    assert [load(source, i).caption for i in range(len(source))] == ["clip 0", "clip 4"]
    assert list(source.captions()) == ["clip 0", "clip 4"]
    every = records(folder, missing_captions="empty")
    assert [load(every, i).caption for i in range(5)] == ["clip 0", "", "", "", "clip 4"]
    assert list(every.captions()) == ["clip 0", "", "", "", "clip 4"]
    loose = records(f"{folder}/clips-*")  # without a manifest it turns out when it is read
    with pytest.raises(BadExample, match=r"k1\.mp4: .*no caption"):
        load(loose, 1)
    with pytest.raises(ValueError, match="clip k0 .*after"):
        write(tmp_path / "b", [[clip(1, ""), clip(0)]])
    with pytest.raises(FileNotFoundError, match=r"1 shard.*ClipRecords\.missing_captions"):
        records(write(tmp_path / "c", [[clip(1, "")]]))


def test_images(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0, suffix=".png"), clip(1)]])
    source = records(folder, kind="images")
    assert source.shape.frames == 1 and load(source, 0).video.shape == (1, 16, 16, 3)
    assert load(source, 0).video.mean() == pytest.approx(127.5, abs=1)
    with pytest.raises(BadExample, match=r"k1.mp4: .*images .*\.png"):
        load(source, 1)


def test_few_shards_are_open_at_a_time(tmp_path, clip, monkeypatch):
    """And none before it is read."""
    from vidgen.data.sources import array_records

    source = records(write(tmp_path / "a", [[clip(i % 8)] for i in range(300)]))
    assert len(source) == 300
    array_records._reader.cache_clear()
    load(source, 7)
    assert array_records._reader.cache_info().currsize == 1
    for index in range(300):
        load(source, index)
    info = array_records._reader.cache_info()
    assert info.currsize == info.maxsize < 300


# ---- through the pipeline ------------------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(3 * s + i) for i in range(3)] for s in range(2)])
    return Pipeline(source=records(folder), batch_size=2, seed=3)


def test_batches_do_not_depend_on_processes_or_workers(pipeline):
    one = pipeline.iterator()
    whole = [next(one) for _ in range(6)]
    captions = [batch["caption"] for batch in whole]
    assert sorted(sum(captions[:3], [])) == [f"clip {i}" for i in range(6)]
    halves = [pipeline.iterator(process=(p, 2)) for p in range(2)]
    assert [[next(half)["caption"][0] for half in halves] for _ in range(6)] == captions
    with_workers = Pipeline(source=pipeline.source, batch_size=2, seed=3, workers=2).iterator()
    for batch in whole:
        found = next(with_workers)
        assert found["caption"] == batch["caption"]
        np.testing.assert_array_equal(found["video"], batch["video"])
    with_workers.close()


def test_exact_resume(pipeline):
    one = pipeline.iterator()
    for _ in range(2):
        next(one)
    state = json.loads(json.dumps(one.get_state()))
    rest = [next(one) for _ in range(5)]
    two = pipeline.iterator()
    two.set_states([state])
    for batch in rest:
        found = next(two)
        assert found["caption"] == batch["caption"]
        np.testing.assert_array_equal(found["video"], batch["video"])


def test_pickling_after_reading(pipeline):
    source = pipeline.source
    load(source, 0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    np.testing.assert_array_equal(load(copy, 4).video, load(source, 4).video)


# ---- bad data ------------------------------------------------------------------------------------


def test_bad_records_are_skipped_and_named(tmp_path, clip, content, caplog):
    from dataclasses import replace

    good = clip(0, "good")
    cut = replace(clip(1), content=content(0.5)[:300])
    short = replace(clip(2), suffix=".mp4", content=b"")
    other = replace(clip(3), suffix=".txt")
    path = tmp_path / shard_name(0, 1)
    write_records(path, [good.pack(), cut.pack(), short.pack(), other.pack(), b"\xc1 no msgpack"])
    iterator = Pipeline(source=records(path), batch_size=2, seed=0).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        for _ in range(4):
            assert set(next(iterator)["caption"]) == {"good"}
    for words in ("k1.mp4: ", "k2.mp4: the file is empty", "k3.txt: "):
        assert words in caplog.text
    assert f"{path}[4]: it is no record of a clip" in caplog.text
    assert len(iterator.skipped) == 4


def test_a_damaged_record_leaves_the_others(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0), clip(1), clip(2)]])
    path = folder / shard_name(0, 1)
    data = bytearray(path.read_bytes())
    data[data.index(clip(1).content) + 100] ^= 255
    path.write_bytes(data)
    source = records(folder)
    assert load(source, 0).caption == "clip 0" and load(source, 2).caption == "clip 2"
    with pytest.raises(BadExample, match=r"record\[1\]: record 1 is damaged") as told:
        load(source, 1)
    assert "hash mismatch" in told.value.reason and "\n" not in str(told.value)


def test_a_missing_shard_is_named(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0)], [clip(1)], [clip(2)]])
    (folder / shard_name(1, 3)).unlink()
    for path in (str(folder), f"{folder}/clips-*.array_record"):
        with pytest.raises(
            FileNotFoundError, match="no shard .*clips-00001-of-00003.array_record;"
        ):
            records(path)
    (folder / shard_name(2, 3)).unlink()
    with pytest.raises(FileNotFoundError, match="00001-of-00003.array_record and 1 more"):
        records(folder)


def test_a_shard_that_goes_while_it_is_read(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0)], [clip(1)]])
    source = records(folder)
    (folder / shard_name(1, 2)).unlink()
    assert load(source, 0).caption == "clip 0"
    with pytest.raises(BadExample, match=f"no file .*{shard_name(1, 2)}"):
        load(source, 1)


def test_a_cut_shard(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(i) for i in range(6)]])
    path = folder / shard_name(0, 1)
    data = path.read_bytes()
    for end in (0, 100, len(data) // 2, len(data) - 10):
        cut = tmp_path / f"cut{end}"
        write(cut, [[clip(i) for i in range(6)]])
        (cut / path.name).write_bytes(data[:end])
        with pytest.raises(ValueError, match=f"{path.name} has {end} bytes, .* {len(data)}:"):
            records(cut)
        with pytest.raises(ValueError, match=f"{path.name} .*no ArrayRecord"):
            records(cut / path.name)


@pytest.mark.parametrize("size", [10, 131072, 200_000])
def test_what_is_no_array_record(tmp_path, size):
    path = tmp_path / "clips.array_record"
    path.write_bytes(b"x" * size)
    with pytest.raises(ValueError, match=f"{path.name} .*no ArrayRecord"):
        records(path)


def test_a_folder_that_is_not_finished(tmp_path, clip):
    folder = write(tmp_path / "a", [[clip(0)]], finish=False)
    with pytest.raises(FileNotFoundError, match=r"no finished records: .*manifest\.json"):
        records(folder)
    with pytest.raises(FileNotFoundError, match="/b: .*no shard"):
        records(tmp_path / "b")
    for text, words in (
        ("{", r"manifest\.json .*no manifest"),
        ("[]", r"manifest\.json .*no manifest"),
        ('{"version": 2}', r"manifest\.json .*version 2; .* 1\."),
        ('{"version": 1, "shards": [{}]}', r"manifest\.json .*no manifest"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            records(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "audio"}, r"ClipRecords\.kind .*'audio'; .*videos or images"),
        ({"missing_captions": "keep"}, "missing_captions .*'keep'; .*skip or empty"),
        ({"shape": VideoShape(frames=1, height=4, width=4, channels=1)}, "channels is 1"),
    ],
)
def test_wrong_settings(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        records(tmp_path, **settings)


def test_a_shard_that_fails_leaves_nothing(tmp_path, clip):
    def failing():
        yield clip(0)
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_shard(tmp_path, 0, 1, failing())
    assert not list(tmp_path.iterdir())
    write_shard(tmp_path, 0, 1, [clip(0)])
    assert count_records(tmp_path / shard_name(0, 1)) == 1
