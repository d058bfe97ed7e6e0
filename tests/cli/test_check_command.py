"""`vidgen check` as a user calls it."""

import json
import shlex

import numpy as np
import pytest
from made_videos import squares, tar
from PIL import Image

import vidgen as face
from vidgen.cli import check_command
from vidgen.cli.main import _parser


@pytest.fixture
def videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = squares(tmp_path / "my videos", count=4)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("a broken one")
    (folder / "short.txt").write_text("no video for it")
    return folder


def test_a_folder_is_told_and_drawn(vidgen, videos):
    told = vidgen("check", "my videos")
    assert told.status == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == "my videos"
    assert "examples  5 with their captions, all read: 4 can be used" in lines
    assert "length    2 s; 8 s in all" in lines
    assert "size      height x width: 16x16 (4)" in lines
    assert "a clip    8 frames of 16x16 at 8 fps, 1 s from a random place of each" in lines
    assert "refused (1)" in lines and "left out (1)" in lines
    assert any(line.startswith("  broken.mp4: cannot be decoded") for line in lines)
    assert "  short.txt: it is no video and no caption of one" in lines
    with Image.open("check.png") as sheet:
        cell = 4 * (96 + 2) + 12
        assert sheet.size == (2 * cell, 2 * (14 + 96 + 10))
        colors = np.asarray(sheet)
    # The first clip: a gray of -0.5, and a white square somewhere on it.
    assert tuple(colors[14 + 90, 4 + 90]) == pytest.approx((64, 64, 64), abs=4)
    assert colors[14 + 40, 4 : 4 + 96].max() > 250


def test_the_command_that_is_printed_trains_on_what_was_checked(vidgen, videos):
    told = vidgen("check", "my videos", "--json", "--sheet=")
    facts = json.loads(told.out)
    assert facts["sheet"] is None and not list(videos.parent.glob("*.png"))
    words = shlex.split(facts["command"].replace("\\\n", ""))
    assert words[:2] == ["vidgen", "train"] and "--gin.MODEL_DIR='runs/my_videos'" in words
    dry = vidgen(*words[1:], "--dry_run")
    assert dry.status == 0, dry.err
    assert "folder.FolderSource.path = %DATA_DIR" in dry.out
    assert "DATA_DIR = 'my videos'" in dry.out
    fields = ("frames", "height", "width", "fps")
    for name in fields:
        assert f"types.VideoShape.{name} = {facts['clip'][name]}" in dry.out


def test_wide_videos_get_a_wide_clip(vidgen, tmp_path):
    from vidgen.data.video.encode import write_video

    wide = np.zeros((4, 36, 64, 3), np.float32)
    (tmp_path / "wide").mkdir()
    write_video(tmp_path / "wide" / "a.mp4", wide, 10, min_side=0)
    (tmp_path / "wide" / "a.txt").write_text("wide")
    told = vidgen("check", "wide", "-o", "sheets/a.jpg")
    assert told.status == 0, told.err
    assert "a clip    4 frames of 16x28 at 10 fps, 0.4 s" in told.out
    for change in ("frames=4", "width=28", "fps=10.0"):
        assert f"--gin.base/VideoShape.{change}" in told.out
    with Image.open(tmp_path / "sheets" / "a.jpg") as sheet:
        assert sheet.format == "JPEG"


def test_captions_whose_end_is_cut_are_counted(vidgen, videos):
    (videos / "0.txt").write_text("word " * 15)
    (videos / "1.txt").write_text("word " * 14)
    told = vidgen("check", "my videos", "--sheet=")
    assert "of 1 or more the end is cut: 16 tokens of a text are read" in told.out
    assert "captions  5, 5 of them different; 2 to 15 words, median 3" in told.out


def test_an_experiment_of_the_user_says_what_a_clip_is(vidgen, videos):
    told = vidgen(
        "check", "my videos", "--gin_file=experiments/phenaki_cvivit_tiny.gin", "--sheet=",
        "--gin.FolderSource.missing_captions='empty'",
    )  # fmt: skip
    assert told.status == 0, told.err
    assert "a clip    5 frames of 16x16 at 8 fps" in told.out
    assert "--gin_file=experiments/phenaki_cvivit_tiny.gin" in told.out
    assert "--gin_file=experiments/imagen" not in told.out
    assert "--gin.FolderSource.missing_captions=\"'empty'\"" in told.out


def test_a_data_file_of_the_user_needs_no_folder(vidgen, tmp_path):
    told = vidgen("check", "--gin_file=data/sprites.gin", "--clips=3", "--sheet=")
    assert told.status == 0, told.err
    assert "3 of them read, evenly spread: 3 can be used" in told.out
    assert "--gin_file=experiments/imagen_base_tiny.gin" in told.out


def test_shards_are_recognized(vidgen, videos, monkeypatch):
    monkeypatch.chdir(videos)
    tar(videos.parent / "shards" / "a.tar", *(p.relative_to(videos) for p in videos.glob("[01].*")))
    monkeypatch.chdir(videos.parent)
    told = vidgen("check", "shards", "--sheet=", f"--gin.TarShards.index_dir='{videos}'")
    assert told.status == 0, told.err
    assert "examples  2 with their captions, all read: 2 can be used" in told.out
    assert "--gin_file=data/tar_shards.gin" in told.out and "--gin.SHARDS=\"'shards'\"" in told.out


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.mp4", "a.txt"], "data/folder.gin"),
        (["00000.tar", "notes.txt"], "data/tar_shards.gin"),
        (["manifest.json", "clips-00000-of-00001.array_record"], "data/clip_records.gin"),
        ([], "data/folder.gin"),
    ],
)
def test_a_folder_is_recognized_by_its_files(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert check_command.layer_of(str(tmp_path))[0] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("gs://bucket/{00000..00009}.tar", "data/tar_shards.gin"),
        ("prepared/clips-*.array_record", "data/clip_records.gin"),
        ("no_such_folder", "data/folder.gin"),
    ],
)
def test_so_is_a_pattern(pattern, expected, monkeypatch):
    monkeypatch.setattr(check_command.paths, "is_folder", lambda path: False)
    assert check_command.layer_of(pattern)[0] == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_folder"], "the data folder no_such_folder does not exist"),
        ([], "name the data: vidgen check DATA_DIR"),
        (["my videos", "--sheet=check.doc"], "a picture ends in .png, .jpg, .jpeg, .webp"),
        (["my videos", "--clips=-1"], "--clips is -1"),
        (["my videos", "--gin.FolderSourc.path='x'"], "FolderSourc"),
        (["broken"], "none of the 1 clips that were read can be used"),
    ],
)
def test_wrong_input_is_one_sentence(vidgen, videos, arguments, words):
    (videos.parent / "broken").mkdir()
    for suffix in ("mp4", "txt"):
        (videos / f"broken.{suffix}").rename(videos.parent / "broken" / f"a.{suffix}")
    told = vidgen("check", *arguments)
    assert told.status == 2
    assert told.err.splitlines()[-1].startswith("vidgen: error: ") and words in told.err
    assert not list(videos.parent.glob("*.png"))


def test_a_damaged_only_folder_still_says_what_it_holds(vidgen, videos):
    for path in videos.glob("[0-3].*"):
        path.unlink()
    told = vidgen("check", "my videos")
    assert told.status == 2
    assert "refused (1)" in told.out and "train on it with" not in told.out


def test_python_gets_the_facts(videos, capsys):
    facts = face.check(videos, sheet="", clips=2)
    assert facts["read"] == 2 and "2 of them read" in capsys.readouterr().out
    assert facts["command"].startswith("vidgen train \\\n    --gin_file=experiments/")


def command_of(*arguments):
    flags = _parser().parse_args(["check", *arguments])
    flags.bindings = ["Trainer.ema_decay=0.9"]
    return check_command.command(flags, "e.gin", [("data/folder.gin", "DATA_DIR")], ["a/B.c=1"])


@pytest.mark.parametrize(
    ("data", "quoted", "name"),
    [
        ("videos", "\"'videos'\"", "videos"),
        ("gs://bucket/my-clips/", "\"'gs://bucket/my-clips/'\"", "my-clips"),
        ("my/shards/{00000..00009}.tar", "\"'my/shards/{00000..00009}.tar'\"", "shards"),
        ("it's", "'\"it'\"'\"'s\"'", "it_s"),
        ("a $b", "''\"'\"'a $b'\"'\"''", "a_b"),
    ],
)
def test_a_shell_reads_the_command_as_it_is_meant(data, quoted, name):
    text = command_of(data)
    assert f"--gin.DATA_DIR={quoted} " in text
    words = shlex.split(text.replace("\\\n", ""))
    assert words == [
        "vidgen", "train", "--gin_file=e.gin", "--gin_file=data/folder.gin",
        f"--gin.DATA_DIR={data!r}", "--gin.a/B.c=1", "--gin.Trainer.ema_decay=0.9",
        f"--gin.MODEL_DIR='runs/{name}'",
    ]  # fmt: skip
