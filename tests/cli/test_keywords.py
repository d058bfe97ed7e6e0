"""Keywords of Python as the flags of a command."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from vidgen.cli import generate_flags, keywords, main


def test_defaults_are_those_of_the_command():
    parser = argparse.ArgumentParser()
    generate_flags.add(parser)
    assert keywords.as_flags(generate_flags.add, {}) == parser.parse_args([])


@pytest.mark.parametrize(
    ("keyword", "word"),
    [
        ({"seed": 3}, "--seed=3"),
        ({"steps": 64}, "--steps=64"),
        ({"steps": "64,base=256"}, "--steps=64,base=256"),
        ({"guidance": 2.5}, "--guidance=2.5"),
        ({"overlap": 0.5}, "--overlap=0.5"),
        ({"keep_stages": True}, "--keep_stages"),
        ({"init": Path("a.mp4")}, "--init=a.mp4"),
        ({"init": "~/a.mp4"}, "--init=~/a.mp4"),
        ({"fps": 12}, "--fps=12"),
        ({"fps": np.float32(12)}, "--fps=12"),
        ({"seed": np.int64(3)}, "--seed=3"),
        ({"seed": "3"}, "--seed=3"),
        ({"steps": np.int32(64)}, "--steps=64"),
        ({"guidance": np.float32(0.7)}, "--guidance=0.7"),
        ({"prompts": ["a tiger"]}, "a tiger"),
    ],
)
def test_a_keyword_is_the_flag_as_it_would_be_read(keyword, word):
    parser = argparse.ArgumentParser()
    generate_flags.add(parser)
    found, told = keywords.as_flags(generate_flags.add, keyword), parser.parse_args([word])
    assert repr(found) == repr(told)  # 12.0 is 12


def test_flags_that_are_not_there_are_told():
    with pytest.raises(ValueError, match=r"no flag 'stepps' .* steps[,.]"):
        keywords.as_flags(generate_flags.add, {"stepps": 3})
    with pytest.raises(ValueError, match="no flag 'until'"):
        keywords.as_flags(generate_flags.add, {"until": "base"}, without=["until"])


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ({"seed": 1.5}, r"seed=1\.5: .*whole number, .*--seed=N"),
        ({"seed": True}, "seed=True: .*whole number"),
        ({"frames": "many"}, "frames='many': .*whole number"),
        ({"strength": "half"}, "strength='half': expected a number, .*--strength=S"),
        ({"size": (96, 160)}, r"size=\(96, 160\): .*text or .*--size=HxW"),
        ({"guidance_interval": (0.2, 3)}, r"guidance_interval=\(0\.2, 3\): .*text or .*=LOW:HIGH"),
        ({"steps": {"base": 8}}, r"steps=\{'base': 8\}: .*text or"),
        ({"negative": ["a frog"]}, r"negative=\['a frog'\]: .*text or"),
        ({"first": np.zeros((9, 9, 3))}, "first=.*: .*file or folder"),
        ({"prompts": 1j}, "prompts=1j: .*text or"),
        ({"prompts": [None]}, "prompts=None: .*text or"),
        ({"long": "yes"}, "long='yes': .*True or False"),
    ],
)
def test_values_that_no_flag_takes_are_told(keyword, words):
    with pytest.raises(ValueError, match=words):
        keywords.as_flags(generate_flags.add, keyword)


def test_a_command_line_has_files_flags_and_settings():
    given = {
        "profile": "3:5",
        "compile": True,
        "json": False,
        "effort": None,
        "MODEL_DIR": Path("runs/a"),
        "PROMPTS": ("a", "b"),
        "Trainer.ema_decay": 0.9,
        "base/DiffusionStage.shape": "%CLIP_SHAPE",
        "DATASET": "@Sprites()",
    }
    assert keywords.command_line("plan", ["a.gin", Path("b.gin")], given) == [
        "plan",
        "--gin_file=a.gin",
        "--gin_file=b.gin",
        "--profile=3:5",
        "--compile",
        "--gin.MODEL_DIR='runs/a'",
        "--gin.PROMPTS=('a', 'b')",
        "--gin.Trainer.ema_decay=0.9",
        "--gin.base/DiffusionStage.shape=%CLIP_SHAPE",
        "--gin.DATASET=@Sprites()",
    ]
    assert keywords.command_line("train", "a.gin", {}) == ["train", "--gin_file=a.gin"]


def test_a_wrong_command_line_is_an_error_and_not_an_exit(vidgen):
    with pytest.raises(ValueError, match=r"unrecognized arguments: --prophile=3:5 \(see vidgen"):
        main.call(keywords.command_line("train", [], {"prophile": "3:5"}))
    told = vidgen("train", "--prophile=3:5")
    assert told.status == 2 and told.err.startswith("vidgen: error: unrecognized arguments")
