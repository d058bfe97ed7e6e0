"""Distillation as a run: a trained stage's folder in, the folder of a student of few steps out.

    MODEL_DIR/phases/01_guidance/    a training run each, with checkpoints, metrics.jsonl, samples/
              phases/02_steps_32/
              ...
              checkpoints, metrics.jsonl     those of the last phase: what `vidgen generate` reads
              distillation.json              teacher and phases, so that nobody mixes two

Every phase is a `Train` of its own, so that resuming, sampling and metrics are those of training:
it begins with the weights of the phase before, which are also its frozen teacher, and its learning
rate falls to 0 within it. A phase that is finished is passed over, so re-running the same command
resumes, with the same numbers to the last bit. The losses are in `distillation.py`, the phases in
`students.py`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import jax
from etils import epath

from vidgen import paths
from vidgen.imagen.students import StudentPhase, StudentSchedule
from vidgen.model import Student
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.model_dir import check_model_dir
from vidgen.train.state import TrainState
from vidgen.train.throughput import say
from vidgen.train.train import Train
from vidgen.train.trainer import Trainer
from vidgen.train.warm_start import WarmStart
from vidgen.train.weights import open_weights
from vidgen.types import Batch, Frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """Loads the frozen parameters of a phase, for `Train.frozen`.

    Attributes:
      weights: the folder and the step of the teacher; its averaged weights are read, if any.
      trainer: that of the phase; the teacher lies on its mesh as the student does.
      batch_spec: ShapeDtypeStructs of a batch.
    """

    weights: WarmStart
    trainer: Trainer
    batch_spec: Batch

    def __call__(self) -> Frozen:
        """Read the teacher's parameters, laid out as the student's: {"teacher": parameters}."""
        model = self.trainer.model
        assert isinstance(model, Student)
        trainer = dataclasses.replace(self.trainer, model=model.teacher, ema_decay=None)
        with open_weights(self.weights.model_dir) as checkpointer:
            abstract = trainer.abstract_state(self.batch_spec).params
            return {"teacher": checkpointer.restore_params(abstract, self.weights.step)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill:
    """The training run of a student; calling it trains all phases that are not finished.

    Attributes:
      schedule: the phases.
      train: what they have in common: data, optimizer, mesh, how often to log and save. Its model
        is the student, its train_steps are not used.
      teacher_dir: folder of the trained model.
    """

    schedule: StudentSchedule
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
        """The folder in which the student is trained; its phases lie in phases/ there."""
        return self.train.model_dir

    def __call__(self) -> TrainState | None:
        """Train the phases; return the student's last state, or None if nothing was left to do.

        Raises:
          FileNotFoundError: the teacher has no checkpoint.
          ValueError: MODEL_DIR was begun with another teacher or other phases.
        """
        check_model_dir(self.model_dir)
        weights = WarmStart(model_dir=self.teacher_dir, step=self._agreed_teacher())
        began, state = time.perf_counter(), None
        phases = self.schedule.phases()
        for number, phase in enumerate(phases, start=1):
            run = self._phase(phase, number, weights, last=number == len(phases))
            weights = WarmStart(model_dir=run.model_dir)
            if _trained_steps(run.model_dir) >= run.train_steps:
                continue
            say(f"phase {number} of {len(phases)}: {phase.name}")
            if run.time_limit_minutes is not None:  # one limit for all phases
                left = run.time_limit_minutes - (time.perf_counter() - began) / 60.0
                run = dataclasses.replace(run, time_limit_minutes=max(left, 1e-9))
            state = run()
            if int(state.step) < run.train_steps:
                return state
        say(f"all {len(phases)} phases are done: the student is in {self.model_dir}")
        return state

    def _phase(self, phase: StudentPhase, number: int, weights: WarmStart, *, last: bool) -> Train:
        """Return the training run of one phase."""
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
            initial=weights,
            frozen=Teacher(weights=weights, trainer=trainer, batch_spec=spec),
        )

    def _agreed_teacher(self) -> int:
        """Return the step of the teacher that this student learns from.

        The first call decides it, and records it in MODEL_DIR/distillation.json.
        """
        path = epath.Path(self.model_dir).expanduser() / "distillation.json"
        ours: dict[str, Any] = {
            "teacher": _resolved(self.teacher_dir),
            "phases": {phase.name: phase.train_steps for phase in self.schedule.phases()},
        }
        if path.exists():
            record = json.loads(path.read_text())
            for what, value in ours.items():
                if record[what] != value:
                    raise ValueError(
                        f"{self.model_dir} was begun with the {what} {record[what]}, not {value}; "
                        f"name another MODEL_DIR (or edit {path}, if the teacher only moved)."
                    )
            return int(record["step"])
        with open_weights(self.teacher_dir) as checkpointer:
            step = checkpointer.latest_step()
        if step is None:
            raise FileNotFoundError(f"TEACHER_DIR {self.teacher_dir} has no checkpoint; train it.")
        if jax.process_index() == 0:
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(ours | {"step": step}, indent=1) + "\n")
            partial.replace(path)
        return step


def _resolved(folder: str) -> str:
    return folder if paths.is_remote(folder) else str(epath.Path(folder).expanduser().resolve())


def _trained_steps(model_dir: str) -> int:
    """Return the step of the newest checkpoint; -1 where there is none."""
    if not (epath.Path(model_dir).expanduser() / "checkpoints").is_dir():
        return -1
    with Checkpointer(model_dir, read_only=True) as checkpointer:
        step = checkpointer.latest_step()
    return -1 if step is None else step
