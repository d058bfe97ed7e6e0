"""What a configuration costs, before anything is allocated.

Shapes come from `jax.eval_shape`, the layout from the partitioner's rules, FLOPs from the jaxpr of
the loss and its gradient, and of a step of sampling. So any size can be planned on any machine, for
a mesh of devices that are not there. Per device and for a whole step,

    parameters + optimizer state + averaged parameters + gradients + batch

are exact; activations are not in this sum: they depend on the compiler. `--compile` compiles the
real training step and `--sampling` a real step of sampling, for the devices at hand or for a TPU
`--topology`, and reports what they need, activations included. The models of a cascade are checked:
each must take what the one before gives.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, cast

import jax

from vidgen.imagen import students
from vidgen.imagen.cascade import Cascade
from vidgen.imagen.stage import DiffusionStage
from vidgen.model import Model, SampledModel
from vidgen.plan import bound, clip_time, memory, programs, sharding, tables
from vidgen.train import chips, flops
from vidgen.train import frozen as trained
from vidgen.train.partitioning import Partitioner, unbox
from vidgen.train.state import named_leaves
from vidgen.train.trainer import Trainer
from vidgen.types import Batch, Params, TextEncoder

Report = dict[str, Any]
_LEVELS = 2  # names of a parameter's path that make its module


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan of one model or of a chain of them; calling it prints the plan.

    Attributes:
      trainers: one for each model to report; the model, mesh, optimizer and averaging are its.
      text_encoder: has the length and width of the text in a batch.
      batch_size: examples of a step, over all devices; one number, or one for each trainer.
      chained: whether the models are a cascade, where each takes what the one before makes.
      device_count: devices to plan for; None is what the mesh shape says, and where that leaves
        one size open, the devices at hand or the fewest that the mesh can have.
      compile: also compile the training step.
      sampling: also compile a step that samples a whole clip.
      student_steps: plan the sampling of students of so many steps, made of the models as
        runs/distill.gin makes them; None: of the models themselves.
      topology: TPUs to compile for, such as "v5p:2x2x1"; "" is the devices at hand.
      effort: of the compiler: a name of `programs.EFFORTS`; "" is its own.
      details: also print everything about each of several models, the work of training too.
      explain: print only why the parameters whose path contains this are sharded as they are; ""
        prints what the models cost.
      as_json: print one JSON object instead of tables.
    """

    trainers: Sequence[Trainer]
    text_encoder: TextEncoder
    batch_size: int | Sequence[int]
    chained: bool = False
    device_count: int | None = None
    compile: bool = False
    sampling: bool = False
    student_steps: int | None = None
    topology: str = ""
    effort: str = ""
    details: bool = False
    explain: str = ""
    as_json: bool = False

    def __post_init__(self) -> None:
        if not self.trainers:
            raise ValueError("Plan.trainers is empty; give at least one trainer.")
        sizes = [("batch_size", size) for size in self._batch_sizes()]
        for name, value in [*sizes, ("device_count", self.device_count)]:
            if value is not None and value < 1:
                raise ValueError(f"Plan.{name} is {value}; it must be >= 1.")
        if self.topology and not (self.compile or self.sampling):
            raise ValueError(
                f"--topology={self.topology} is what to compile for: add --sampling or --compile."
            )
        if self.effort not in ("", *programs.EFFORTS):
            raise ValueError(f"--effort={self.effort} is not one of {', '.join(programs.EFFORTS)}.")
        for model in (trainer.model for trainer in self.trainers):
            if self.sampling and not isinstance(model, SampledModel):
                kind = type(model).__name__
                raise ValueError(
                    f"a {kind} has no steps of sampling to compile; leave out --sampling."
                )
            if self.student_steps and (self.compile or not isinstance(model, DiffusionStage)):
                raise ValueError(
                    f"--student_steps={self.student_steps} is for the sampling of diffusion "
                    "stages, and no training is compiled with it: leave out --compile, or it."
                )
        if self.chained:  # an error where two neighbours do not fit
            Cascade([cast(SampledModel, trainer.model) for trainer in self.trainers])

    def _batch_sizes(self) -> list[int]:
        """Return the examples of a step of each trainer."""
        sizes = self.batch_size
        if isinstance(sizes, int):
            return [sizes] * len(self.trainers)
        if len(sizes) != len(self.trainers):
            raise ValueError(
                f"BATCH_SIZE has {len(sizes)} numbers for {len(self.trainers)} models; give one "
                "number, or one for each."
            )
        return list(sizes)

    @functools.cached_property
    def _devices(self) -> Sequence[Any] | None:
        """The devices of the topology; None: the devices at hand."""
        return programs.topology(self.topology) if self.topology else None

    def __call__(self) -> Report | None:
        """Print the report on standard output: tables, or with `as_json` one object.

        Returns:
          The report; None with `explain`.
        """
        if self.explain:
            print("\n\n".join(self.explanations()))
            return None
        # A student is trained otherwise than its stage (imagen/distillation.py).
        brief = self.student_steps is not None or len(self.trainers) > 1 and not self.details
        report = self.report(brief=brief)
        print(json.dumps(report) if self.as_json else tables.tables(report, self.details))
        return report

    def explanations(self) -> list[str]:
        """Return a paragraph for each parameter that `explain` names, of all models.

        Raises:
          NoSuchParameter: no model has one.
        """
        texts: list[str] = []
        missing: Exception | None = None
        for trainer, size in zip(self.trainers, self._batch_sizes(), strict=True):
            boxed = trainer.boxed_params(trainer.model.batch_spec(size, *self._text))
            count = _device_count(trainer.partitioner, self.device_count)
            try:
                texts += sharding.explain(trainer.partitioner, boxed, self.explain, count)
            except sharding.NoSuchParameter as error:
                missing = error
        if missing is not None and not texts:
            raise missing
        return texts

    def report(self, *, brief: bool = False) -> Report:
        """Return the report, with sizes in bytes and work in floating-point operations.

        Args:
          brief: leave out the work of training, which takes longest to count: it is None.

        Returns:
          `models`, a list of objects, `totals` over them, `chained`, and `text_encoder`.
        """
        sizes = self._batch_sizes()
        with programs.effort(self.effort):
            models = [
                self._model(trainer, size, brief)
                for trainer, size in zip(self.trainers, sizes, strict=True)
            ]
        sums = ("parameters", "published_parameters", "flops_per_clip")
        totals = {name: _sum([model[name] for model in models]) for name in sums}
        # Where a topology is planned for, it is on the devices of the first process.
        hosts = [device.process_index for device in self._devices or ()]
        count = self.device_count or (hosts.count(hosts[0]) if hosts else None)
        text = memory.frozen_text(self.text_encoder, count)
        report = {"models": models, "totals": totals, "chained": self.chained, "text_encoder": text}
        if self.chained and self.sampling:
            device = (self._devices or jax.devices())[0]
            report["clip"] = clip_time.of_cascade(models, text, chips.of(device.device_kind))
        return report

    def _model(self, trainer: Trainer, batch_size: int, brief: bool) -> Report:
        if self.student_steps is not None:
            of_few: Any = {"stage": trainer.model, "steps": self.student_steps}
            pupil = students.student(**of_few, guidance_head=True)
            trainer = dataclasses.replace(trainer, model=pupil)
        if self._devices is not None:
            elsewhere = programs.Elsewhere.of(trainer.partitioner, self._devices)
            trainer = dataclasses.replace(trainer, partitioner=elsewhere)
        model = trainer.model
        batch = model.batch_spec(batch_size, *self._text)
        boxed = trainer.boxed_params(batch)
        params = unbox(boxed)
        count = _device_count(trainer.partitioner, self.device_count)
        report = _about(model, params)
        report |= {
            "batch_size": batch_size,
            "mesh": trainer.partitioner.sizes(count),
            "devices": count,
        }
        work = ("flops_per_step", "flops_per_step_per_example", "flops_forward_per_example")
        report |= (
            dict.fromkeys(work) if brief else _training_flops(model, params, batch, self._text)
        )
        report |= self._sampled(model, params)
        report |= memory.bytes_per_device(trainer, boxed, batch, count)
        if self.compile:
            once = bound.with_remat(model, "none")
            frozen = trained.spec(model, self._text)
            useful = flops.loss_and_gradient(once, params, frozen, batch)
            report |= programs.training_step(trainer, batch, useful)
        if self.sampling:
            report["sampling"] = self._sampling(trainer, report)
        return report

    def _sampling(self, trainer: Trainer, report: Report) -> Report:
        """Compile a step that samples a clip, and bound its seconds."""
        sampling = programs.compiled_sampling_step(trainer, *self._text).report
        steps = report["sampling_steps"]
        chip = chips.of(trainer.partitioner.mesh.devices.flat[0].device_kind)
        work = report["flops_per_clip"] / steps * sampling["clips"] / report["devices"]
        most = bound.of(sampling, work, chip)
        return sampling | {"bound": most, "seconds_per_clip": clip_time.of_stage(most, steps)}

    @property
    def _text(self) -> tuple[int, int]:
        return self.text_encoder.length, self.text_encoder.dim

    def _sampled(self, model: Model, params: Params) -> Report:
        """Return the work for one clip; None where the model is not sampled in steps."""
        names = ("sampling_steps", "evaluations", "flops_per_evaluation", "flops_per_clip")
        if not isinstance(model, SampledModel):
            return dict.fromkeys(names)
        program, arguments = model.step_spec(params, 1, *self._text)
        steps, evaluations = model.sampler.steps, model.evaluations
        clip = steps * flops.count_jaxpr(program.trace(*arguments).jaxpr)
        return dict(zip(names, (steps, evaluations, clip / evaluations, clip), strict=True))


def _about(model: Model, params: Params) -> Report:
    """Return what a model is, whatever the mesh and the batch."""
    modules = count_by_module(params)
    before = model.input_shape
    return {
        "name": model.name,
        "parameters": sum(modules.values()),
        "published_parameters": model.published_parameters,
        "published_part": model.published_part,
        "input_shape": None if before is None else list(before.thwc),
        "output_shape": list(model.shape.thwc),
        "fps": model.shape.fps,
        "seconds": model.shape.frames / model.shape.fps,
        "operators": model.operators,
        "modules": modules,
    }


def _training_flops(model: Model, params: Params, batch: Batch, text: tuple[int, int]) -> Report:
    frozen, batch_size = trained.spec(model, text), jax.tree.leaves(batch)[0].shape[0]
    step = flops.loss_and_gradient(model, params, frozen, batch)
    return {
        "flops_per_step": step,
        "flops_per_step_per_example": step / batch_size,
        "flops_forward_per_example": flops.forward(model, params, frozen, batch) / batch_size,
    }


def _sum(values: Sequence[Any]) -> Any:
    """Return the sum, or None where one value is not known."""
    return None if None in values else sum(values)


def count_by_module(params: Params) -> dict[str, int]:
    """Count the parameters of each module, which is the first two names of a path.

    Args:
      params: arrays, or ShapeDtypeStructs.

    Returns:
      Parameters by "FIRST/SECOND", in the order of the tree.
    """
    counts: dict[str, int] = {}
    for path, leaf in named_leaves(params).items():
        names = path.removeprefix("params/").split("/")  # Linen's collection
        module = "/".join(names[:-1][:_LEVELS] or names)
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


def _device_count(partitioner: Partitioner, wanted: int | None) -> int:
    fixed = math.prod(size for size in partitioner.mesh_shape if size != -1)
    if wanted or partitioner.device_count:
        return wanted or partitioner.device_count or 1
    here = jax.device_count() if -1 in partitioner.mesh_shape else fixed
    return here if here % fixed == 0 else fixed
