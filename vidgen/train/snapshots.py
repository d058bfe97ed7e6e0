"""The power-function averages of a run, stored now and then for good (`power_ema.py`).

    MODEL_DIR/snapshots/<step>/params    {"0.05": averaged weights, "0.1": averaged weights}

A snapshot is whole before any checkpoint of its step or a later one is begun, so that a run that is
killed and goes on from a checkpoint has all of them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from etils import epath

from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.state import TrainState
from vidgen.train.throughput import say

FOLDER = "snapshots"


class Snapshots(Checkpointer):
    """The snapshots of a run that is being trained."""

    def __init__(
        self, model_dir: epath.PathLike, settings: CheckpointSettings, resume_step: int
    ) -> None:
        """Open the folder; snapshots after `resume_step` are deleted, as they are made again."""
        self._settings = dataclasses.replace(settings, keep_every=1)  # all of them
        super().__init__(model_dir, self._settings, name=FOLDER)
        self.delete_after(resume_step)

    def store(self, state: TrainState) -> None:
        """Store the averages of a state, and wait until they are written.

        Args:
          state: has `power_ema`.

        Raises:
          CheckpointError: it failed every time that the settings allow.
        """
        step = int(state.step)
        kept = TrainState(step=state.step, params=state.power_ema, opt_state={})

        def write(again: bool) -> None:
            del again
            self.save(step, kept)
            self.wait()

        with_retries(write, self._settings)


def with_retries(write: Callable[[bool], None], settings: CheckpointSettings) -> None:
    """Call `write(False)`, and after a pause `write(True)` where it raises CheckpointError.

    Args:
      write: writes something; it gets whether it is called again.
      settings: how often, and the pauses.

    Raises:
      CheckpointError: it failed every time.
    """
    for number in range(settings.retries + 1):
        try:
            write(number > 0)
            return
        except CheckpointError as error:
            if number == settings.retries:
                raise
            pause = settings.retry_seconds * 2**number
            say(f"{error} Trying again in {pause:g} s.")
            time.sleep(pause)


def open_snapshots(model_dir: epath.PathLike) -> Checkpointer:
    """Open the snapshots of a run to read them.

    Args:
      model_dir: folder of the run.

    Returns:
      A reader, to use in a `with` block; the parameters of a snapshot are its averages, by their
      relative lengths as text, such as "0.05" and "0.1".

    Raises:
      FileNotFoundError: the run has no snapshots.
    """
    folder = epath.Path(model_dir).expanduser()
    if not (folder / FOLDER).is_dir():
        raise FileNotFoundError(
            f"there are no snapshots of averages in {folder}: train with "
            "--gin_file=experiments/post_hoc_ema.gin, or name the folder of such a run."
        )
    snapshots = Checkpointer(folder, read_only=True, name=FOLDER)
    if not snapshots.steps():
        raise FileNotFoundError(f"there is no whole snapshot in {folder / FOLDER} yet.")
    return snapshots
