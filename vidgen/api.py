"""The commands as Python calls: the same flags, the same runs, arrays in return.

    model = vidgen.load("imagen_demo", until="ssr1")
    clips = model.generate("a tiger moving right on a green background", seed=1, guidance=2)
    clips.video                                       # "b t h w c" in [-1, 1]
    film = vidgen.load("phenaki_demo").story("story.yaml", seed=7)
    large = vidgen.load("imagen_demo", first="ssr1").upscale("holiday.mp4", init_size="own")
    vidgen.train(["experiments/imagen_base_tiny.gin"], MODEL_DIR="runs/a", TRAIN_STEPS=100)
    vidgen.evaluate(model="runs/a", clips=16)

Keywords in small letters are flags of the command, which says what they mean (`vidgen generate
--help`); what a flag says in text, such as "64,base=256", is text here too. Other keywords are
settings of gin, as --gin.NAME=VALUE: macros (TRAIN_STEPS=100) or, as **{"Trainer.ema_decay": 0.99},
parameters. A result is the one of the command with the same flags, to the bit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vidgen.assets import zoo
from vidgen.cli import keywords, main, startup
from vidgen.cli.keywords import GinFiles
from vidgen.config.gin_sessions import Sessions
from vidgen.display.generated import Clip, Clips, Film
from vidgen.inference import stages
from vidgen.inference.loaded import KeptStage, Tokenizer
from vidgen.inference.stage_folders import Trained
from vidgen.inference.stages import Stage
from vidgen.loaded_model import LoadedModel, Origin, evaluated
from vidgen.model import TokenizerModel

__all__ = ["Clip", "Clips", "Film", "LoadedModel", "check", "evaluate", "load", "plan", "train"]


def load(
    model: str | os.PathLike = zoo.DEFAULT,
    *,
    first: str | None = None,
    until: str | None = None,
    gin_files: GinFiles = (),
    **bindings: Any,
) -> LoadedModel:
    """Find a trained model, whose weights are read at the first call.

    Args:
      model: a folder that training wrote, or the name of a model that comes with the package.
      first: the first stage of a cascade to run, --from; a later one than the base starts from a
        video: `upscale`, or `generate` with init="video.mp4".
      until: the last stage to run; None is the last that there is.
      gin_files: as the command's --gin_file.
      **bindings: as its --gin.NAME=VALUE.

    Returns:
      The model, as an object with the calls `generate`, `story`, `upscale` and others.

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: there is no such stage, or a keyword is a flag that `generate` takes.
    """
    for name in filter(keywords.is_flag, bindings):
        raise ValueError(
            f"load takes no {name!r}; it takes first, until, gin_files and settings of gin. Flags "
            "of `vidgen generate` go to the calls of what it returns."
        )
    startup.setup_process()
    files = keywords.listed(gin_files)
    source = Origin(
        model=os.fspath(model),
        first=first,
        until=until,
        gin_files=files,
        bindings=keywords.bindings(bindings),
    )
    sessions = Sessions(["runs/generate.gin"], files, source.bindings)
    folders = stages.find(source.model, first, until)
    if len(folders) == 1:
        one = sessions.build_trained(Trained, folders[0])
        if isinstance(one.model, TokenizerModel):
            return LoadedModel(source, (), sessions, Tokenizer.of(one))
    trained = [stages.build_trained(sessions, Stage, folder) for folder in folders]
    stages.check_names(trained, first, until)
    return LoadedModel(source, [KeptStage.of(stage) for stage in trained], sessions)


def train(gin_files: GinFiles, **settings: Any) -> Path:
    """Train by `vidgen train`, or go on where an earlier call stopped.

    Args:
      gin_files: an experiment, and what is to change it, later ones winning.
      **settings: of gin, MODEL_DIR="runs/a" among them, and flags of the command.

    Returns:
      MODEL_DIR, which `load` and `evaluate` take.

    Raises:
      ValueError: MODEL_DIR is missing, or what training says is wrong.
    """
    if "MODEL_DIR" not in settings:
        raise ValueError('train needs MODEL_DIR="...", the folder to train in.')
    main.call(keywords.command_line("train", gin_files, settings))
    return Path(settings["MODEL_DIR"])


def plan(gin_files: GinFiles, **settings: Any) -> dict[str, Any] | None:
    """Count parameters, operations and memory by `vidgen plan`, and print them.

    Args:
      gin_files: an experiment, and what is to change it, later ones winning.
      **settings: flags of the command, such as compile=True, and settings of gin.

    Returns:
      The object that --json prints (`vidgen.plan.estimate.Plan.report`); None with `explain`.

    Raises:
      ValueError: a configuration or a flag is wrong.
    """
    return main.call(keywords.command_line("plan", gin_files, settings))


def check(
    data: str | os.PathLike | None = None, gin_files: GinFiles = (), **settings: Any
) -> dict[str, Any] | None:
    """Read a data set as training would, and print what it holds, by `vidgen check`.

    Args:
      data: a folder of videos, of tar shards or of records, or a pattern of shards; None where the
        files name the data.
      gin_files: an experiment and others; with none, one that suits is chosen.
      **settings: flags of the command, and settings of gin.

    Returns:
      What --json prints; `command` in it trains on the data.

    Raises:
      ValueError: a flag is wrong, or no clip can be used.
      FileNotFoundError: there are no such data.
    """
    place = [] if data is None else [os.fspath(data)]
    return main.call([*keywords.command_line("check", gin_files, settings), *place])


def evaluate(
    *inputs: str | os.PathLike, gin_files: GinFiles = (), **settings: Any
) -> dict[str, Any] | None:
    """Compute metrics by `vidgen evaluate`, and print them.

    Args:
      *inputs: two folders of clips, results, ...; none where there is a `model`.
      gin_files: as the command's --gin_file.
      **settings: flags of the command, and settings of gin.

    Returns:
      The result, as the command writes it to --output; None where results are only compared.

    Raises:
      ValueError: an unknown flag, or a value that does not fit.
    """
    flags = {name: value for name, value in settings.items() if keywords.is_flag(name)}
    files = keywords.listed(gin_files)
    flags["inputs"] = [os.fspath(path) for path in inputs]
    return evaluated(flags, files, keywords.bindings(settings, without=flags))
