"""The home folder, "~": no shell knows it in --model=~/a or --gin.DATA_DIR=~/a, so vidgen does."""

import argparse

import pytest

from vidgen.cli import main
from vidgen.config import gin_files, gin_utils
from vidgen.data.sources.folder import FolderSource
from vidgen.data.sources.images import ImageFolder
from vidgen.data.sources.tar_shards import TarShards
from vidgen.train.warm_start import WarmStart
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=1, height=8, width=8)
KINDS = ("FILE", "FOLDER", "FOLDER,FOLDER", "DIR", "MODEL", "CLIPS", "STORY")
GIN = {"gin_file", "gin_search_paths"}
FLAGS = {
    "train": GIN,
    "encode": GIN,
    "prepare": GIN,
    "plan": GIN,
    "assets": set(),
    "generate": GIN
    | {"prompts_file", "model", "output", "init", "first", "last", "inpaint", "mask", "story"}
    | {"upscale_model", "preview"},
    "evaluate": GIN
    | {"inputs", "model", "stories", "inception", "clip", "output", "html", "cache"},
}
# Every macro of gin_configs/ that is a path.
MACROS = (
    *("DATA_DIR", "IMAGE_DIR", "IMAGE_SHARDS", "INIT_FROM", "LAION_SHARDS", "MODEL_DIR"),
    *("RAW_VIDEOS", "RECORDS", "SHARDS", "TEACHER_DIR", "TEXT_CACHE", "TFDS_DIR"),
    *("TOKENIZER_DIR", "TOKEN_CACHE", "VIDEO_DIR"),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def path_flags(command):
    """The flags of a command that name files, by what --help calls their values."""
    commands = next(
        action
        for action in main._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    actions = commands.choices[command]._actions
    return {action.dest: action for action in actions if action.metavar in KINDS}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_that_is_a_path(command, home):
    found = path_flags(command)
    assert set(found) == FLAGS[command]
    for name, action in found.items():
        given = ["~/x"] if not action.option_strings else [f"{action.option_strings[-1]}=~/x"]
        value = getattr(main._parsed([command, *given]), name)
        value = value[0] if isinstance(value, list) else value
        assert value == f"{home}/x", name


@pytest.mark.parametrize("macro", MACROS)
@pytest.mark.parametrize("how", ["flag", "file"])
def test_every_macro_that_is_a_path(macro, how, home, tmp_path):
    text = "from __gin__ import dynamic_registration\nfrom vidgen.train import warm_start\n"
    text += f"{macro} = ''\nwarm_start.WarmStart.model_dir = %{macro}\n"
    file = tmp_path / "a.gin"
    file.write_text(text + (f"{macro} = '~/x'\n" if how == "file" else ""))
    with gin_utils.session([str(file)], [f"{macro}=~/x"] if how == "flag" else []):
        assert gin_utils.build(WarmStart).model_dir == f"{home}/x"


def test_settings_of_several_paths(home):
    assert gin_files.expand_home(["~/a", ("b", {"c": "~"}), 1, "d ~ e"]) == [
        f"{home}/a",
        ("b", {"c": str(home)}),
        1,
        "d ~ e",
    ]


def test_files_of_gin(home):
    (home / "inner.gin").write_text("A = 3\n")
    (home / "outer.gin").write_text("include '~/inner.gin'\n")
    with gin_utils.session(["~/outer.gin"]):
        assert "A" in gin_utils.macros()


@pytest.mark.parametrize("macro", ["TEACHER_DIR", "TOKENIZER_DIR"])
def test_configurations_of_trained_models(macro, home):
    (home / "m").mkdir()
    (home / "m" / "config.gin").touch()
    for said in (f"{macro}=~/m", f"{macro}='~/m'", f'{macro} = "~/m"'):
        assert main._trained_configs([said], macro) == [f"{home}/m/config.gin"]


@pytest.mark.parametrize("source", [FolderSource, ImageFolder, TarShards])
def test_sources_from_python(source, home):
    with pytest.raises(FileNotFoundError, match=f"{home}/none"):
        source(path="~/none", shape=SHAPE)
