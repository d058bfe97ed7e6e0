"""Checkpoints: everything a run needs to resume exactly, written while training continues.

    MODEL_DIR/checkpoints/<step>/params     weights
                                 ema        averaged weights, where they are kept
                                 power_ema  averages for `vidgen average`, likewise
                                 optimizer  optimizer state and step number
                                 data       position of each process in the data

The parts are separate items, so that generating reads one tree of weights and nothing else. A
step folder appears by a rename once it is complete: a run killed while saving leaves none. This is
the only file that imports orbax; it keeps the newest `keep` steps and every `keep_every`-th.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vidgen import paths
from vidgen.train import positions
from vidgen.train.checkpoint_errors import (
    CheckpointError,
    DamagedCheckpoint,
    check_lengths,
    check_shapes,
    first_line,
    no_folder,
    reason,
    shapes,
)
from vidgen.train.state import TrainState
from vidgen.types import Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Which checkpoints are kept, and how they are written.

    Attributes:
      keep: number of newest checkpoints that are kept.
      keep_every: steps that are multiples of this are never deleted; None deletes them too.
      asynchronous: write in the background while training continues.
      retries: how often a write that failed is tried again.
      retry_seconds: before the first of these tries, doubled with each. [guess] A minute in all.
    """

    keep: int = 3
    keep_every: int | None = None
    asynchronous: bool = True
    retries: int = 3
    retry_seconds: float | int = 10

    def __post_init__(self) -> None:
        for name, least in (("keep", 1), ("retries", 0), ("retry_seconds", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"CheckpointSettings.{name} is {value}; it must be >= {least}.")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(
                f"CheckpointSettings.keep_every is {self.keep_every}; it must be >= 1, or None."
            )

    def options(self, *, read_only: bool) -> ocp.CheckpointManagerOptions:
        """Return the same settings as options of orbax.

        Args:
          read_only: never make the folder, delete in it, or write in the background.

        Returns:
          Options for an `ocp.CheckpointManager`.
        """
        kept: list[Any] = [policies.LatestN(self.keep)]
        if self.keep_every is not None:
            kept.append(policies.EveryNSteps(self.keep_every))
        return ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            enable_async_checkpointing=self.asynchronous and not read_only,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )


class Checkpointer:
    """The checkpoints of one model directory."""

    def __init__(
        self,
        model_dir: epath.PathLike,
        settings: CheckpointSettings | None = None,
        *,
        read_only: bool = False,
        name: str = "checkpoints",
    ) -> None:
        """Open `MODEL_DIR/checkpoints`; with `read_only` it must exist and is not changed.

        Raises:
          FileNotFoundError: it is `read_only`, and there is no such folder.
        """
        self.directory = _absolute(model_dir) / name
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(no_folder(self.directory))
        options = (settings or CheckpointSettings()).options(read_only=read_only)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: Any = None) -> None:
        """Start to write a checkpoint; a step that is there already is left as it is.

        Args:
          step: its number.
          state: copied to the host before this returns, so its buffers may be donated.
          data_state: this process's position in the data: bytes, or anything JSON can hold.

        Raises:
          CheckpointError: this or the write before it failed (a full disk, say).
        """
        if step in self._manager.all_steps():
            return
        items = {
            "params": ocp.args.StandardSave(state.params),
            "optimizer": ocp.args.StandardSave(_optimizer_item(state)),
            "data": ocp.args.JsonSave({"processes": positions.gathered(data_state)}),
        }
        averages = {"ema": state.ema, "power_ema": state.power_ema}
        items |= {n: ocp.args.StandardSave(x) for n, x in averages.items() if x is not None}
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:  # orbax lets those of tensorstore and of the system through
            raise self._cannot_write(error) from error

    def restore(
        self, abstract: TrainState, step: int | None = None
    ) -> tuple[TrainState, list[Any]]:
        """Read the state and the data positions of all processes.

        Args:
          abstract: ShapeDtypeStructs with shardings, from `Trainer.abstract_state`; the checkpoint
            may have been written on another mesh.
          step: the step of the checkpoint; None is the newest.

        Returns:
          The state, laid out as `abstract` says, and what each process gave to `save` as
          `data_state`. Where the checkpoint has no averaged weights and `abstract` has, they begin
          at the weights.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          CheckpointError: it was written by another model or optimizer, or has power-function
            averages of other lengths.
          DamagedCheckpoint: it cannot be read.
        """
        step = self._existing(step)
        kept = self._items(step)
        self._check_fit(step, "params", abstract.params)
        trees = {"params": abstract.params, "optimizer": _optimizer_item(abstract)}
        self._check_optimizer(step, trees["optimizer"])
        if abstract.ema is not None:
            # Averaging that begins later begins at the weights of that moment.
            trees["ema"] = abstract.ema
        if abstract.power_ema is not None:
            with self._reading(step):
                stored = self._metadata(step, "power_ema") if "power_ema" in kept else {}
            check_lengths(f"checkpoint {self.directory / str(step)}", stored, abstract.power_ema)
            trees["power_ema"] = abstract.power_ema
        sources = {n: n if n in kept else "params" for n in trees}
        items = {n: ocp.args.StandardRestore(trees[n]) for n in trees if sources[n] == n}
        with self._reading(step):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), **items)
            )
        state = TrainState(
            step=restored["optimizer"]["step"],
            params=restored["params"],
            opt_state=restored["optimizer"]["opt_state"],
            ema=None if abstract.ema is None else restored[sources["ema"]],
            power_ema=None if abstract.power_ema is None else restored["power_ema"],
        )
        if abstract.ema is not None and sources["ema"] == "params":
            state = state.replace(ema=jax.tree.map(lambda x: x.copy(), state.params))
        return state, [positions.decoded(text) for text in restored["data"]["processes"]]

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, list[Any]]:
        """Read the newest checkpoint that is not damaged.

        Damaged ones are moved to MODEL_DIR/damaged, with a warning: the run writes them again.

        Args:
          abstract: as in `restore`.

        Returns:
          The state and the data positions, as `restore` does.

        Raises:
          FileNotFoundError: there is no checkpoint.
          CheckpointError: the newest one was written by another model or optimizer.
          DamagedCheckpoint: the only one that is left cannot be read.
        """
        while True:
            try:
                return self.restore(abstract)
            except DamagedCheckpoint as error:
                steps = self.steps()
                if len(steps) < 2:
                    raise
                log.warning("%s; going back to step %d", str(error).rstrip("."), steps[-2])
                self._set_aside(steps[-1])

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Read the weights alone, averaged if the run kept an average.

        Args:
          abstract: shapes, dtypes and optionally shardings to load onto; None takes shapes and
            dtypes from the checkpoint and puts all on the first device.
          step: the step of the checkpoint; None is the newest.
          averaged: False reads the weights themselves.

        Returns:
          The weights, in the tree of `abstract`.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          CheckpointError: it was written by another model.
          DamagedCheckpoint: what it says of its arrays cannot be read.
        """
        step = self._existing(step)
        item = self._weights_item(step, averaged)
        if abstract is None:
            abstract = self.stored_params(step, averaged=averaged)
        else:
            self._check_fit(step, item, abstract)
        restore = ocp.args.StandardRestore(jax.tree.map(placed, abstract))
        return self._manager.restore(step, args=ocp.args.Composite(**{item: restore}))[item]

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Describe the weights that `restore_params` would read.

        Args:
          step: the step of the checkpoint; None is the newest.
          averaged: False describes the weights themselves.

        Returns:
          ShapeDtypeStructs, without shardings.

        Raises:
          FileNotFoundError: there is no such checkpoint.
        """
        step = self._existing(step)
        stored = dict(self._metadata(step, self._weights_item(step, averaged)))
        return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), stored)

    def delete_after(self, step: int) -> None:
        """Delete all checkpoints of later steps, which a run that goes on from `step` rewrites.

        Args:
          step: the newest that stays.
        """
        for later in [n for n in self.steps() if n > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
          CheckpointError: a write failed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Wait for the last write, and close the folder."""
        try:
            self._manager.close()
        except Exception as error:
            raise self._cannot_write(error) from error

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(
                f"no complete checkpoint in {self.directory}; train the model first, or correct "
                "MODEL_DIR."
            )
        if step is not None and step not in steps:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {self.directory}; there are {steps}."
            )
        return steps[-1] if step is None else step

    def _items(self, step: int) -> set[str]:
        return {path.name for path in (self.directory / str(step)).iterdir()}

    def _weights_item(self, step: int, averaged: bool) -> str:
        return "ema" if averaged and "ema" in self._items(step) else "params"

    def _metadata(self, step: int, item: str) -> Any:
        return ocp.PyTreeCheckpointHandler().metadata(self.directory / str(step) / item)

    def _check_fit(self, step: int, item: str, abstract: Params) -> None:
        with self._reading(step):
            stored = dict(self._metadata(step, item))
        check_shapes(f"checkpoint {self.directory / str(step)}", stored, abstract)

    def _check_optimizer(self, step: int, abstract: dict[str, Any]) -> None:
        with self._reading(step):
            stored = shapes(self._metadata(step, "optimizer"))
        wanted = shapes(abstract)
        if differing := sorted(stored.items() ^ wanted.items()):
            raise CheckpointError(
                f"checkpoint {self.directory / str(step)} has the weights of this model, but not "
                "the state of this optimizer: use the optimizer settings that it was trained "
                f"with, or another MODEL_DIR ({differing[0][0]} differs)."
            )

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turn every error inside the block into DamagedCheckpoint."""
        try:
            yield
        except Exception as error:
            raise DamagedCheckpoint(
                f"checkpoint {self.directory / str(step)} is damaged and cannot be read "
                f"({first_line(error)})."
            ) from error

    def _set_aside(self, step: int) -> None:
        """Move a checkpoint to MODEL_DIR/damaged; all processes call this, the first one moves."""
        source, target = self.directory / str(step), self.directory.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            if target.exists():
                target.rmtree()
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()

    def _cannot_write(self, error: Exception) -> CheckpointError:
        """Delete what was written of a failed checkpoint, and return the error for a user."""
        if jax.process_index() == 0:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                paths.remove_folder(unfinished)
        last = max((s for s in self.steps()), default=None)
        kept = "no checkpoint is complete yet" if last is None else f"step {last} is safe"
        return CheckpointError(
            f"cannot write a checkpoint to {self.directory} ({reason(error)}); {kept}. Make room "
            "there; re-running the same command resumes from the newest checkpoint."
        )


def _absolute(path: epath.PathLike) -> epath.Path:
    """Make a local path absolute, as orbax wants; object-store addresses stay as they are."""
    folder = epath.Path(path).expanduser()
    return folder if "://" in str(folder) else folder.resolve()


def _optimizer_item(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def placed(x: Any) -> Any:
    """Give a description of an array the sharding that orbax asks for.

    Args:
      x: a ShapeDtypeStruct.

    Returns:
      `x` itself where it has a sharding, else a copy of it on the first device of this process.
    """
    if getattr(x, "sharding", None) is not None:
        return x
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
