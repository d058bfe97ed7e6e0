"""Where the trained stages are that --upscale names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidgen.assets import model_folders
from vidgen.inference import stage_folders
from vidgen.inference.stages import Stage


def find(names: str | None, model: str, elsewhere: str | None = None) -> tuple[Path, ...]:
    """List the training folders of the stages that a video is sent through.

    Args:
      names: names of stages, with commas between them; None is none.
      model: the folder of --model, in which they are; beside it where it is that of one model.
      elsewhere: the folder of --upscale_model, if they are in another one.

    Returns:
      The folders, in the order in which the stages run.

    Raises:
      ValueError: twice the same name, or another order.
      FileNotFoundError: a stage is not there.
    """
    if names is None:
        return ()
    wanted = [name.strip() for name in names.split(",")]
    flag = "--upscale_model" if elsewhere else "--model"
    folder = model_folders.check_local(flag, model_folders.find(elsewhere or model))
    if (folder / "config.gin").is_file():
        if elsewhere and len(wanted) == 1:
            return (folder,)
        folder = folder.parent
    here = stage_folders.names(folder)
    for name in wanted:
        if name not in here:
            raise FileNotFoundError(
                f"--upscale={names}: there is no trained {name} in {folder}, which has "
                f"{', '.join(here) or 'no stage'}; name the folder of a cascade with "
                f"--upscale_model."
            )
    ordered = [name for name in here if name in wanted]
    if wanted != ordered:
        raise ValueError(
            f"--upscale={names}: each stage runs once, in the order of the cascade; give "
            f"--upscale={','.join(ordered)}."
        )
    return tuple(folder / name for name in wanted)


def check_names(stages: Sequence[Stage], folders: Sequence[Path], names: str | None) -> None:
    """Check that each folder holds the stage that --upscale names, and that it up-samples.

    Args:
      stages: as they were loaded.
      folders: where each was loaded from.
      names: value of --upscale; None is none.

    Raises:
      ValueError: a folder holds another stage, or one that makes video from text alone.
    """
    wanted = [] if names is None else [name.strip() for name in names.split(",")]
    for stage, folder, name in zip(stages, folders, wanted, strict=True):
        if stage.model.name != name:
            raise ValueError(
                f"--upscale={names}: {folder} holds the stage {stage.model.name}, not {name}."
            )
        if stage.model.input_shape is None:
            raise ValueError(
                f"--upscale={names}: {name} makes video from text alone; name stages that "
                "start from a video."
            )
