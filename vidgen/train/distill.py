"""Distillation: a trained model's folder in, the folder of a student of few steps out.

    MODEL_DIR/phases/01_guidance/    a training run each, with checkpoints, metrics.jsonl, samples/
              phases/02_steps_32/
              ...
              checkpoints, metrics.jsonl     those of the last phase: what `vidgen generate` reads
              distillation.json              teacher and phases, so that nobody mixes two

Every phase is a `Train` of its own: it begins with the weights of the phase before, which are also
its frozen teacher, and its learning rate falls to 0 within it. A phase that is finished is passed
over, so the same command goes on where it was stopped, with the same numbers to the last bit.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from etils import epath

from vidgen.model import Student
from vidgen.train import progress
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.model_dir import check_model_dir
from vidgen.train.state import TrainState
from vidgen.train.train import Train
from vidgen.train.trainer import Trainer
from vidgen.train.warm_start import WarmStart
from vidgen.train.weights import open_weights
from vidgen.types import Batch, Frozen


@runtime_checkable
class DistillationPhase(Protocol):
    """One training run among several."""

    @property
    def name(self) -> str:
        """That of its folder."""
        ...

    @property
    def model(self) -> Student:
        """What it trains."""
        ...

    @property
    def train_steps(self) -> int:
        """Updates."""
        ...


@runtime_checkable
class DistillationSchedule(Protocol):
    """Phases that lead from a teacher to a student."""

    def phases(self) -> Sequence[DistillationPhase]:
        """In order; the first one's teacher is the trained model."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Where weights are: a folder that training wrote, and a step of it (None: the newest)."""

    model_dir: str
    step: int | None = None

    @property
    def initial(self) -> WarmStart:
        """For `Train.initial`."""
        return WarmStart(model_dir=self.model_dir, step=self.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """Brings the frozen parameters of a phase, for `Train.frozen`.

    Attributes:
      weights: where they are; the averaged ones are read, where there are any.
      trainer: that of the phase; the teacher lies on its mesh as the student does.
      batch_spec: shapes of a batch.
    """

    weights: Weights
    trainer: Trainer
    batch_spec: Batch

    def __call__(self) -> Frozen:
        """{"teacher": parameters}."""
        model = self.trainer.model
        assert isinstance(model, Student)
        own = dataclasses.replace(self.trainer, model=model.teacher, ema_decay=None)
        with open_weights(self.weights.model_dir) as checkpointer:
            abstract = own.abstract_state(self.batch_spec).params
            return {"teacher": checkpointer.restore_params(abstract, self.weights.step)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill:
    """The run; calling it trains all phases that are not finished.

    Attributes:
      course: the phases.
      train: what they have in common: data, optimizer, mesh, how often to log and save. Its model
        is the student, its train_steps are not used.
      teacher_dir: folder of the trained model.
    """

    course: DistillationSchedule
    train: Train
    teacher_dir: str

    def __post_init__(self) -> None:
        if not str(self.teacher_dir):
            raise ValueError("TEACHER_DIR is empty; name the folder of a trained model.")
        if _resolved(self.teacher_dir) == _resolved(self.train.model_dir):
            raise ValueError(
                f"TEACHER_DIR and MODEL_DIR are both {self.teacher_dir}; name another folder for "
                "the student."
            )

    @property
    def model_dir(self) -> str:
        """Folder of the student."""
        return self.train.model_dir

    def __call__(self) -> TrainState | None:
        """Trains; the last state of the student, or None where there was nothing left to do."""
        check_model_dir(self.model_dir)
        weights = Weights(model_dir=self.teacher_dir, step=self._agreed_teacher())
        console, began = progress.Console(), time.perf_counter()
        phases, state = self.course.phases(), None
        for number, phase in enumerate(phases, start=1):
            run = self._phase(phase, number, weights, last=number == len(phases))
            weights = Weights(model_dir=run.model_dir)
            if _trained_steps(run.model_dir) >= run.train_steps:
                continue
            console.say(f"phase {number} of {len(phases)}: {phase.name}")
            state = _limited(run, began)()
            if int(state.step) < run.train_steps:
                return state
        console.say(f"all {len(phases)} phases are done: the student is in {self.model_dir}")
        return state

    def _phase(
        self, phase: DistillationPhase, number: int, weights: Weights, *, last: bool
    ) -> Train:
        """The training run of one phase."""
        shared = self.train.trainer
        optimizer: Any = shared.optimizer
        if dataclasses.is_dataclass(rate := optimizer.learning_rate):
            rate = dataclasses.replace(rate, total_steps=phase.train_steps)  # type: ignore[misc]
            optimizer = dataclasses.replace(optimizer, learning_rate=rate)
        trainer = dataclasses.replace(shared, model=phase.model, optimizer=optimizer)
        encoder, size = self.train.text_encoder, self.train.dataset.batch_size
        spec = phase.model.batch_spec(size, encoder.length, encoder.dim)
        folder = epath.Path(self.model_dir)
        return dataclasses.replace(
            self.train,
            trainer=trainer,
            train_steps=phase.train_steps,
            seed=self.train.seed + number,  # new noise in every phase
            model_dir=str(folder if last else folder / "phases" / phase.name),
            initial=weights.initial,
            frozen=Teacher(weights=weights, trainer=trainer, batch_spec=spec),
        )

    def _agreed_teacher(self) -> int:
        """The step of the teacher that this student learns from; the first call decides it.

        Raises:
          FileNotFoundError: the teacher has no checkpoint.
          ValueError: MODEL_DIR was begun with another teacher or other phases.
        """
        record = epath.Path(self.model_dir).expanduser() / "distillation.json"
        mine: dict[str, Any] = {
            "teacher": _resolved(self.teacher_dir),
            "phases": {phase.name: phase.train_steps for phase in self.course.phases()},
        }
        if record.exists():
            found = json.loads(record.read_text())
            for what, value in mine.items():
                if found[what] != value:
                    raise ValueError(
                        f"{self.model_dir} was begun with the {what} {found[what]}, not {value}; "
                        f"name another MODEL_DIR (or edit {record}, if the teacher only moved)."
                    )
            return int(found["step"])
        with open_weights(self.teacher_dir) as checkpointer:
            step = checkpointer.latest_step()
        if step is None:
            raise FileNotFoundError(f"TEACHER_DIR {self.teacher_dir} has no checkpoint; train it.")
        if jax.process_index() == 0:
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps(mine | {"step": step}, indent=1) + "\n")
            partial.replace(record)
        return step


def _resolved(folder: str) -> str:
    path = epath.Path(folder).expanduser()
    return str(path) if "://" in str(path) else str(path.resolve())


def _trained_steps(model_dir: str) -> int:
    """The newest checkpoint; -1 where there is none."""
    if not (epath.Path(model_dir).expanduser() / "checkpoints").is_dir():
        return -1
    with Checkpointer(model_dir, read_only=True) as checkpointer:
        step = checkpointer.latest_step()
    return -1 if step is None else step


def _limited(run: Train, began: float) -> Train:
    """`run` with what is left of the time limit, which is one for all phases."""
    if run.time_limit_minutes is None:
        return run
    left = run.time_limit_minutes - (time.perf_counter() - began) / 60.0
    return dataclasses.replace(run, time_limit_minutes=max(left, 1e-9))
