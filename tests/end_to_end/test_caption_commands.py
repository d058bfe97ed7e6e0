"""Captions through the commands: what `vidgen train` reads, and what `vidgen prepare` keeps.

A case is a function: from two clips (0.mp4 and 1.mp4, in a folder to put captions in) to a gin file
with its macros, and the captions of the data set.
"""

import json
import os
import shutil
import unicodedata

import made_videos
import numpy as np
import pytest
import tiny_cascade

from vidgen.data.sources.clip_records import ClipRecords
from vidgen.evals.clips import SourceClips
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import VideoShape

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

TRAIN = [
    "--gin_file=experiments/imagen_base_tiny.gin",
    "--gin.TRAIN_STEPS=2",
    "--gin.BATCH_SIZE=16",
]
TRAIN += ["--gin.base/VideoShape.height=8", "--gin.base/VideoShape.width=8"]
TRAIN += ["--gin.base/VideoShape.frames=4"]
TEXTS = ["--gin_file=small.gin", "--gin.TEXT_CACHE='texts'"]


def table(folder, *rows, name="captions.csv"):
    (folder / name).write_text("\n".join(["file,caption", *rows]), "utf-8")
    return "data/folder.gin", {"DATA_DIR": str(folder)}


def a_comma_in_quotation_marks(folder):
    return table(folder, '0.mp4,"a cat, running"', "1.mp4,a bird"), {"a cat, running", "a bird"}


def two_rows_of_a_clip(folder):
    rows = ("0.mp4,a cat", "0.mp4,a second caption", "1.mp4,a dog", "1.mp4,a dog")
    return table(folder, *rows), {"a cat", "a second caption", "a dog"}


def paths_from_elsewhere(folder):
    (folder / "videos").mkdir()
    (folder / "1.mp4").rename(folder / "videos" / unicodedata.normalize("NFD", "é.MP4"))
    rows = (f"{folder}/0.mp4,absolute", "videos\\é.mp4,backslash")
    relative = os.path.relpath(folder)
    return (table(folder, *rows)[0], {"DATA_DIR": relative}), {"absolute", "backslash"}


def a_list_in_a_shard(folder):
    (folder / "0.json").write_text('{"caption": ["a dog runs", "a brown dog"]}')
    (folder / "1.json").write_text('{"caption": "not blank"}')
    (folder / "1.txt").write_text(" \n")
    files = (folder / name for name in ("0.mp4", "0.json", "1.mp4", "1.txt", "1.json"))
    made_videos.tar(folder / "0.tar", *files)
    wanted = {"a dog runs", "a brown dog", "not blank"}
    return ("data/tar_shards.gin", {"SHARDS": str(folder / "0.tar")}), wanted


def dots_in_a_shard(folder):
    for number, name in enumerate(("clip.v1", "clip.v2")):
        (folder / f"{number}.mp4").rename(folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(f"version {number}")
    made_videos.tar(folder / "0.tar", *sorted(folder.glob("clip.*")))
    return ("data/tar_shards.gin", {"SHARDS": str(folder)}), {"version 0", "version 1"}


CASES = (
    a_comma_in_quotation_marks,
    two_rows_of_a_clip,
    paths_from_elsewhere,
    a_list_in_a_shard,
    dots_in_a_shard,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips without captions."""
    path = made_videos.squares(tmp_path_factory.mktemp("clips"), count=2)
    for text in path.glob("*.txt"):
        text.unlink()
    return path


@pytest.fixture
def folder(clips, tmp_path):
    """A copy of them."""
    return shutil.copytree(clips, tmp_path / "own")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """What makes a model small; no index of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.gin").write_text(tiny_cascade.SMALL.format(stage="base"))


@pytest.fixture
def asked(monkeypatch):
    """The captions that are encoded."""
    prompts = set()
    real = ByteEncoder.__call__

    def noted(self, given):
        prompts.update(given)
        return real(self, given)

    monkeypatch.setattr(ByteEncoder, "__call__", noted)
    return prompts


def flags(layer, macros):
    return [f"--gin_file={layer}", *(f"--gin.{name}={value!r}" for name, value in macros.items())]


MIXTURE = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen.data.sources import mixtures
from vidgen.data.sources import folder
from vidgen.data.sources import tar_shards

DATASET = @mixtures.Mixture()
HELD_OUT_LOSS = None
SAMPLE_VIDEOS = None
mixtures.Mixture.rates = (1, 1, 1, 1, 1)
"""
CLASSES = {
    "data/folder.gin": "folder.FolderSource",
    "data/tar_shards.gin": "tar_shards.TarShards",
}


@pytest.mark.cli
def test_train_reads_all_cases(vidgen, clips, tmp_path, asked):
    """In one training, of their mixture: each is a program to compile otherwise."""
    text, wanted = MIXTURE, {}
    for case in CASES:
        (layer, macros), wanted[case] = case(shutil.copytree(clips, tmp_path / case.__name__))
        source = f"{case.__name__}/{CLASSES[layer]}"
        text += f"{source}.path = {next(iter(macros.values()))!r}\n{source}.shape = %CLIP_SHAPE\n"
    names = ", ".join(line.split(".path")[0] for line in text.splitlines() if ".path = " in line)
    names = ", ".join(f"@{name}()" for name in names.split(", "))
    (tmp_path / "mixture.gin").write_text(f"{text}mixtures.Mixture.sources = ({names})\n")
    files = ["--gin_file=mixture.gin", "--gin_file=small.gin", "--gin.MODEL_DIR='m'"]
    told = vidgen("train", *TRAIN, *files)
    assert told.status == 0, told.err
    assert asked - {""} <= set.union(*wanted.values())
    assert all(asked & captions for captions in wanted.values())


@pytest.mark.cli
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_encode_reads_all(case, vidgen, folder, asked):
    (layer, macros), wanted = case(folder)
    told = vidgen("encode", TRAIN[0], *flags(layer, macros), *TEXTS)
    assert told.status == 0, told.err
    assert asked - {""} == wanted


@pytest.mark.cli
def test_prepared_records_keep_all_and_are_drawn_from(vidgen, folder, asked):
    wanted = two_rows_of_a_clip(folder)[1]
    settings = ["--gin.RAW_VIDEOS='own'", "--gin.RECORDS='out'", "--gin.Prepare.shards=1"]
    shape = [f"--gin.base/VideoShape.{n}" for n in ("height=8", "width=8", "frames=4")]
    told = vidgen("prepare", TRAIN[0], *settings, *shape)
    assert told.status == 0, told.err
    lines = (folder.parent / "out" / "captions-00000-of-00001.jsonl").read_text().splitlines()
    others = [json.loads(line).get("other_captions") for line in lines]
    assert sorted(map(str, others)) == ["None"] + ["['a second caption']"] * 2  # of two shots
    source = ClipRecords(path="out", shape=VideoShape(frames=4, height=8, width=8))
    assert set(source.captions()) == wanted
    drawn = [source.load(i % 3, np.random.default_rng(i)).caption for i in range(30)]
    assert set(drawn) == wanted and drawn.count("a dog") == 10
    clips = SourceClips(source=source, count=6)
    assert {clips.read(number)[1] for number in range(6)} == {"a cat", "a dog"}
    told = vidgen("encode", TRAIN[0], *flags("data/clip_records.gin", {"RECORDS": "out"}), *TEXTS)
    assert told.status == 0, told.err
    assert asked - {""} == wanted


@pytest.mark.cli
@pytest.mark.parametrize("command", ["train", "prepare"])
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["0.mp4,a cat, running", "1.mp4,x"], ["captions.csv line 2", "3 fields", '"a cat, ']),
        (['0.mp4,"a cat', "1.mp4,x"], ["captions.csv line 2", "not closed"]),
        (["0.mp4,x", '1.mp4,"a cat" runs'], ["captions.csv line 3", 'write ""']),
        (["c.mp4,x", "d.mp4,y"], ["2 rows of captions.csv match no file", "c.mp4"]),
    ],
)
def test_a_wrong_table_is_told(vidgen, folder, command, rows, words):
    layer, macros = table(folder, *rows)
    macros = macros | {"MODEL_DIR": "m"}
    if command == "prepare":
        told = vidgen("prepare", TRAIN[0], "--gin.RAW_VIDEOS='own'", "--gin.RECORDS='out'")
    else:
        told = vidgen("train", *TRAIN, *flags(layer, macros), "--gin_file=small.gin")
    assert told.status == 2 and not (folder.parent / "m").exists()
    assert all(word in told.err for word in words), told.err
