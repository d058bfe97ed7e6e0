"""Where the trained stages are that --upscale names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidgen.assets import model_folders
from vidgen.inference.stages import MODELS, Stage
from vidgen.types import STAGES


def find(names: str | None, model: str, elsewhere: str | None = None) -> tuple[Path, ...]:
    """List the training folders of the stages that a video is sent through.

    Args:
      names: names of stages, with commas between them; None is none.
      model: the folder of --model, in which they are; beside it where it is that of one model.
      elsewhere: the folder of --upscale_model, if they are in another one.

    Returns:
      The folders, in the order in which the stages run.

    Raises:
      ValueError: a name that is no stage that up-samples, twice the same, or another order.
      FileNotFoundError: a stage is not there.
    """
    if names is None:
        return ()
    wanted = _names(names)
    flag = "--upscale_model" if elsewhere else "--model"
    folder = model_folders.check_local(flag, model_folders.find(elsewhere or model))
    if (folder / "config.gin").is_file():
        if elsewhere and len(wanted) == 1:
            return (folder,)
        folder = folder.parent
    here = [name for name in MODELS if (folder / name / "config.gin").is_file()]
    for name in wanted:
        if name not in here:
            raise FileNotFoundError(
                f"--upscale={names}: there is no trained {name} in {folder}, which has "
                f"{', '.join(here) or 'no stage'}; name the folder of a cascade with "
                f"--upscale_model."
            )
    return tuple(folder / name for name in wanted)


def _names(text: str) -> list[str]:
    names, choices = [name.strip() for name in text.split(",")], STAGES[1:]
    for name in names:
        if name == STAGES[0]:
            raise ValueError(
                f"--upscale={text}: {name} makes video from text alone; choose from "
                f"{', '.join(choices)}."
            )
        if name not in choices:
            raise ValueError(
                f"--upscale={text}: there is no stage {name!r}; choose from {', '.join(choices)}."
            )
    ordered = [name for name in choices if name in names]
    if names != ordered:
        raise ValueError(
            f"--upscale={text}: each stage runs once, in the order of the cascade; give "
            f"--upscale={','.join(ordered)}."
        )
    return names


def check_names(stages: Sequence[Stage], folders: Sequence[Path], names: str | None) -> None:
    """Check that each folder holds the stage that --upscale names.

    Args:
      stages: as they were loaded.
      folders: where each was loaded from.
      names: value of --upscale; None is none.

    Raises:
      ValueError: a folder holds another stage.
    """
    wanted = [] if names is None else _names(names)
    for stage, folder, name in zip(stages, folders, wanted, strict=True):
        if stage.model.name != name:
            raise ValueError(
                f"--upscale={names}: {folder} holds the stage {stage.model.name}, not {name}."
            )
