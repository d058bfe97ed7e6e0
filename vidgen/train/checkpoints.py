"""Checkpoints: everything a run needs to resume exactly, written while training continues.

    MODEL_DIR/checkpoints/<step>/params     weights
                                 ema        averaged weights, where they are kept
                                 power_ema  averages for `vidgen average`, likewise
                                 optimizer  optimizer state and step number
                                 data       each process's position in the data, and checksums

The parts are separate items, so that generating reads one tree of weights and nothing else. A
step folder appears by a rename once it is complete: a run killed while saving leaves none. This is
the only file that imports orbax; it keeps the newest `keep` steps and every `keep_every`-th.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
from etils import epath, epy

from vidgen.train import checkpoint_folders, checksums, positions
from vidgen.train.checkpoint_errors import (
    CheckpointError,
    DamagedCheckpoint,
    check_item,
    first_line,
    no_folder,
    reason,
    shapes,
)
from vidgen.train.state import TrainState
from vidgen.types import Params

with epy.lazy_imports():  # a tenth of a second, for commands that read a weight file
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

log = logging.getLogger(__name__)
R = TypeVar("R", bound="WeightsReader")


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


class WeightsReader(abc.ABC):
    """What reads trained weights, to use in a `with` block; see `weights.open_weights`."""

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - not every reader keeps something open
        """Close what is open; by default nothing is."""

    @abc.abstractmethod
    def latest_step(self) -> int | None:
        """Return the newest step."""

    @abc.abstractmethod
    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Describe the weights by ShapeDtypeStructs; see `Checkpointer.stored_params`."""

    @abc.abstractmethod
    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Read the weights; see `Checkpointer.restore_params`."""


class Checkpointer(WeightsReader):
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
        self.directory = checkpoint_folders.absolute(model_dir) / name
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(no_folder(self.directory))
        options = (settings or CheckpointSettings()).options(read_only=read_only)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

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
        trees = _items_of(state)
        items: dict[str, Any] = {name: ocp.args.StandardSave(x) for name, x in trees.items()}
        record = {"processes": positions.gathered(data_state)}
        record |= {"arrays": {name: checksums.sums(x) for name, x in trees.items()}}
        items["data"] = ocp.args.JsonSave(record | {"checksum": checksums.of_json(record)})
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

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
        begins = abstract.ema is not None and "ema" not in self._items(step)
        trees = _items_of(abstract.replace(ema=None) if begins else abstract)
        restored, processes = self._read(step, trees)
        if begins:  # averaging that begins later begins at the weights of that moment
            restored["ema"] = jax.tree.map(lambda x: x.copy(), restored["params"])
        state = TrainState(**restored.pop("optimizer"), **restored)
        return state, [positions.decoded(text) for text in processes]

    def _read(self, step: int, trees: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Read items and data positions; where a process cannot, all raise CheckpointError."""
        where, error = f"checkpoint {self.directory / str(step)}", None
        restored, record = {}, {}
        try:
            record = self._record(step)
            for name, tree in trees.items():
                self._check_fit(step, name, tree, record)
            with self._reading(step):
                for name, tree in trees.items():  # without orbax's barriers: a process may fail
                    restored[name] = ocp.StandardCheckpointHandler().restore(
                        self.directory / str(step) / name, args=ocp.args.StandardRestore(tree)
                    )
        except CheckpointError as own:
            error = own
        if not positions.everywhere(error is None):
            raise error or DamagedCheckpoint(f"{where} is damaged: another process cannot read it.")
        for name, tree in restored.items():
            self._verify(step, name, tree, record)
        return restored, record["processes"]

    def _verify(self, step: int, item: str, tree: Any, record: Mapping[str, Any]) -> None:
        """Raise DamagedCheckpoint where an array is not what its checksum says."""
        wrong = checksums.first_difference(record.get("arrays", {}).get(item, {}), tree)
        if wrong is not None:
            where = f"checkpoint {self.directory / str(step)}"
            raise DamagedCheckpoint(f"{where} is damaged: {item}/{wrong} is not as written.")

    def _record(self, step: int) -> dict[str, Any]:
        """Read what `save` wrote beside the arrays; the first vidgens wrote no checksums."""
        with self._reading(step):
            folder, args = self.directory / str(step) / "data", ocp.args.JsonRestore()
            record: Any = ocp.JsonCheckpointHandler().restore(folder, args=args)
            checksum = record.pop("checksum", None)
            if checksum not in (None, checksums.of_json(record)):
                raise ValueError("its positions in the data are not as written")
        return record

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
                checkpoint_folders.set_aside(self.directory, steps[-1])
                self._manager.reload()

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
          DamagedCheckpoint: it cannot be read, or a weight is not as it was written.
        """
        step = self._existing(step)
        item = self._weights_item(step, averaged)
        if abstract is None:
            abstract = self.stored_params(step, averaged=averaged)
        else:
            self._check_fit(step, item, abstract)
        restore = ocp.args.StandardRestore(jax.tree.map(placed, abstract))
        with self._reading(step):
            params = self._manager.restore(step, args=ocp.args.Composite(**{item: restore}))[item]
        self._verify(step, item, params, self._record(step))
        return params

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
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the last write, and close the folder."""
        with self._writing():
            self._manager.close()

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

    def _check_fit(
        self, step: int, item: str, abstract: Params, record: Mapping[str, Any] | None = None
    ) -> None:
        """Raise CheckpointError unless an item has the shapes of `abstract`."""
        where = f"checkpoint {self.directory / str(step)}"
        with self._reading(step):
            absent = record is not None and item not in self._items(step)
            stored = {} if absent else self._metadata(step, item)
            stored = dict(stored) if item != "optimizer" else stored
        try:
            check_item(where, item, stored, abstract)
        except CheckpointError as error:
            written = (record or {}).get("arrays", {}).get(item, {})
            if written and checksums.describes(written, shapes(abstract)):
                raise DamagedCheckpoint(f"{where} is damaged: its {item} lost arrays.") from error
            raise

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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Where the block fails, delete what was written, and raise CheckpointError."""
        try:
            yield
        except Exception as error:  # orbax lets those of tensorstore and of the system through
            if jax.process_index() == 0:
                for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                    checkpoint_folders.remove_folder(unfinished)
            last = max(self.steps(), default=None)
            kept = "no checkpoint is complete yet" if last is None else f"step {last} is safe"
            raise CheckpointError(
                f"cannot write a checkpoint to {self.directory} ({reason(error)}); {kept}. Make "
                "room there; re-running the same command resumes from the newest checkpoint."
            ) from error


def _items_of(state: TrainState) -> dict[str, Any]:
    """The trees of arrays in a checkpoint, by the names of their folders."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    trees = {"params": state.params, "optimizer": optimizer}
    averages = {"ema": state.ema, "power_ema": state.power_ema}
    return trees | {name: tree for name, tree in averages.items() if tree is not None}


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
