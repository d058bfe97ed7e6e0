"""Errors of checkpoints, and the messages that a user reads."""

from __future__ import annotations

from typing import Any

from etils import epath

from vidgen.train.state import named_leaves
from vidgen.types import Params


class CheckpointError(ValueError):
    """A checkpoint could not be written, or does not fit the model; the message says which."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that should fit cannot be read."""


def check_shapes(where: str, stored: Params, wanted: Params) -> None:
    """Raise CheckpointError unless two trees have the same leaves in the same shapes.

    Args:
      where: what is read, for the message.
      stored: parameters there, or their shapes.
      wanted: those of the model.
    """
    there, here = shapes(stored), shapes(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise CheckpointError(
                f"{where} does not fit this model: {name} is {there.get(name, 'absent')} there "
                f"and {here.get(name, 'absent')} here; use the configuration it was trained "
                "with (MODEL_DIR/config.gin), or another MODEL_DIR."
            )


def check_item(where: str, item: str, stored: Any, wanted: Any) -> None:
    """Raise CheckpointError unless an item of a checkpoint has the arrays that a run expects.

    Args:
      where: what is read, for the message.
      item: its name: "optimizer", "power_ema", or that of a tree of weights.
      stored: arrays there, or what describes them.
      wanted: those of the run.
    """
    if item == "optimizer":
        if differing := sorted(shapes(stored).items() ^ shapes(wanted).items()):
            raise CheckpointError(
                f"{where} has the weights of this model, but not the state of this optimizer: use "
                "the optimizer settings that it was trained with, or another MODEL_DIR "
                f"({differing[0][0]} differs)."
            )
    elif item == "power_ema":
        if set(stored) != set(wanted):  # the lengths of the averages
            raise CheckpointError(
                f"{where} has power-function averages of the lengths {sorted(stored)}, not "
                f"{sorted(wanted)} (PowerEma.lengths): they begin with the first step; name "
                "another MODEL_DIR."
            )
    else:
        check_shapes(where, stored, wanted)


def no_folder(directory: epath.Path) -> str:
    """Say that a folder has no checkpoints, and what it has instead.

    Args:
      directory: MODEL_DIR/checkpoints, which is absent.

    Returns:
      A message that names MODEL_DIR and at most eight things in it.
    """
    parent = directory.parent
    if not parent.is_dir():
        return f"no model directory {parent}; give the MODEL_DIR of a training run."
    names = sorted(p.name for p in parent.iterdir())[:8]
    return f"no checkpoints in {parent} (it has: {', '.join(names) or 'nothing'}); train first."


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a tree by their path in it, whatever kinds of node are on the way.

    Args:
      tree: a PyTree of arrays, ShapeDtypeStructs or metadata of orbax.

    Returns:
      Shapes by paths such as "params/stem/kernel".
    """
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree).items()}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message.

    Args:
      error: its class's name stands in for an empty message.

    Returns:
      At most 200 characters: orbax puts whole trees into its messages.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def reason(error: BaseException) -> str:
    """Return what the system said, such as "No space left on device", out of a longer error.

    Args:
      error: an error of orbax, tensorstore or the system.

    Returns:
      The known phrase that is in the message, or else the message's first line.
    """
    text = str(error)
    for known in ("No space left on device", "File too large", "Permission denied", "quota"):
        if known in text:
            return known
    return first_line(error)
