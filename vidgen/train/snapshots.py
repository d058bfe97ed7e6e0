"""The power-function averages of a run, stored now and then for good (`power_ema.py`).

    MODEL_DIR/snapshots/<step>/params    {"0.05": averaged weights, "0.1": averaged weights}

A snapshot is whole before any checkpoint of its step or a later one is begun, so that a run that is
killed and goes on from a checkpoint has all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping

from etils import epath

from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import Checkpointer, CheckpointSettings
from vidgen.train.power_ema import PowerEma
from vidgen.train.state import TrainState
from vidgen.train.throughput import say
from vidgen.types import Params

FOLDER = "snapshots"


class Snapshots:
    """The snapshots of a run that is being trained."""

    def __init__(
        self, model_dir: epath.PathLike, settings: CheckpointSettings, resume_step: int
    ) -> None:
        """Open the folder; snapshots after `resume_step` are deleted, as they are made again."""
        self._settings = dataclasses.replace(settings, keep_every=1)  # all of them
        self._checkpointer = Checkpointer(model_dir, self._settings, name=FOLDER)
        self._checkpointer.delete_after(resume_step)

    @classmethod
    def opened(
        cls,
        power_ema: PowerEma | None,
        model_dir: epath.PathLike,
        settings: CheckpointSettings,
        *,
        resume_step: int,
        stack: contextlib.ExitStack,
    ) -> Snapshots | None:
        """Open the snapshots of a run, which `stack` closes.

        Args:
          power_ema: which averages the run keeps; None for none.
          model_dir: folder of the run.
          settings: how its checkpoints are written; all snapshots are kept.
          resume_step: the step from which the run resumes; later snapshots are deleted.
          stack: closes them.

        Returns:
          The snapshots; None where the run keeps no such averages.
        """
        if power_ema is None:
            return None
        snapshots = cls(model_dir, settings, resume_step)
        stack.callback(snapshots.close)
        return snapshots

    def save(self, state: TrainState) -> None:
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
            self._checkpointer.save(step, kept)
            self._checkpointer.wait()

        with_retries(write, self._settings)

    def close(self) -> None:
        """Close the folder."""
        self._checkpointer.close()


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


class StoredSnapshots:
    """The snapshots of a run, to read."""

    def __init__(self, model_dir: epath.PathLike) -> None:
        """Open the folder.

        Raises:
          FileNotFoundError: the run has no snapshots.
        """
        folder = epath.Path(model_dir).expanduser()
        if not (folder / FOLDER).is_dir():
            raise FileNotFoundError(
                f"there are no snapshots of averages in {folder}: train with "
                "--gin_file=experiments/post_hoc_ema.gin, or name the folder of such a run."
            )
        self._checkpointer = Checkpointer(folder, read_only=True, name=FOLDER)
        if not self._checkpointer.steps():
            raise FileNotFoundError(f"there is no whole snapshot in {folder / FOLDER} yet.")

    def __enter__(self) -> StoredSnapshots:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Return the steps of all snapshots."""
        return self._checkpointer.steps()

    def lengths(self, step: int) -> list[str]:
        """Return the names of the averages in a snapshot.

        Args:
          step: the step of the snapshot.

        Returns:
          Their relative lengths as text, sorted, such as ["0.05", "0.1"].
        """
        return sorted(self._checkpointer.stored_params(step))

    def read(self, step: int) -> Mapping[str, Params]:
        """Read the averages of a snapshot.

        Args:
          step: the step of the snapshot.

        Returns:
          Weights by the names that `lengths` has.
        """
        return self._checkpointer.restore_params(step=step)
