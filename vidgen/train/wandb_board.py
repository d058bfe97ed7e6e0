"""Metrics to Weights & Biases, where the environment variable WANDB_PROJECT names a project.

Its other settings are its own variables (WANDB_ENTITY, WANDB_MODE=offline, ...). A run that resumes
in the same MODEL_DIR resumes there too; steps that it repeats keep their first values.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8


class WandbBoard:
    """A run of wandb with the methods of TensorBoard's writer."""

    def __init__(self, run: Any, image: Any) -> None:
        """Log to `run` of wandb; `image` is the class of its pictures."""
        self._run, self._image = run, image

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Log one number of a step.

        Args:
          name: the name of the metric.
          value: must be finite.
          step: the step of the run.
        """
        self._run.log({name: value}, step=step)

    def add_image(
        self, name: str, image: UInt8[np.ndarray, "h w c"], step: int, dataformats: str
    ) -> None:
        """Log a picture of a step.

        Args:
          name: title of the picture.
          image: the pixels.
          step: the step of the run.
          dataformats: "HWC", which is all that the writer of metrics uses.
        """
        self._run.log({name: self._image(image)}, step=step)

    def close(self) -> None:
        """Send what is left, and end the run."""
        self._run.finish()


def open_board(model_dir: epath.PathLike) -> WandbBoard | None:
    """Open the board of a run.

    Args:
      model_dir: MODEL_DIR, by which a run that resumes finds its board again.

    Returns:
      The board; None where WANDB_PROJECT is not set.

    Raises:
      ValueError: WANDB_PROJECT is set, and wandb is not installed.
    """
    if not os.environ.get("WANDB_PROJECT"):
        return None
    try:
        import wandb  # an extra
    except ImportError as error:
        raise ValueError(
            "WANDB_PROJECT is set, but Weights & Biases is not installed: "
            'pip install "vidgen[wandb]", or unset it.'
        ) from error
    folder = epath.Path(model_dir)
    where = os.fspath(folder)
    name = hashlib.sha256((where if "://" in where else os.path.abspath(where)).encode())
    run = wandb.init(
        id=name.hexdigest()[:16],
        name=folder.name,
        dir=None if "://" in where else where,
        resume="allow",
    )
    return WandbBoard(run, wandb.Image)
