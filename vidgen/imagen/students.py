"""From a trained stage to a student of few steps: what it is, and the phases in which it learns.

    64 steps, two evaluations each ─ guidance ─ 64 ─ 32 ─ 16 ─ 8 ─ stochastic ─ 8 steps, one each

Each phase begins with the weights of the one before, which are its frozen teacher too. Imagen Video
takes all seven stages to 8 steps and samples them with the N-step stochastic sampler;
50,000 updates a halving are those of progressive distillation, it prints none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from vidgen.diffusion import schedules
from vidgen.imagen.distillation import Distillation, GuidanceDistillation, ProgressiveDistillation
from vidgen.imagen.stage import DiffusionStage

KINDS = ("ddim", "stochastic")


def student(
    *,
    stage: DiffusionStage,
    steps: int = 8,
    kind: str = "stochastic",
    guidance_head: bool = False,
) -> DiffusionStage:
    """`stage` as a student: the guidance weight is an input, and `steps` of sampler `kind` suffice.

    Args:
      stage: the teacher.
      steps: sampling steps.
      kind: "ddim" or "stochastic".
      guidance_head: the weight also multiplies an output of its own (`VideoUNet.guidance_head`).
        runs/distill.gin says True. Configurations of students from before there was such an output
        do not mention it, and have to stay what they are.

    Raises:
      ValueError: `stage` is a student already, or no student learns that sampler.
    """
    if stage.guidance_input:
        raise ValueError(f"the stage {stage.name} is a distilled student; it cannot be a teacher.")
    if kind not in KINDS:
        raise ValueError(f"a student cannot learn the sampler {kind!r}; choose one of {KINDS}.")
    sampler = dataclasses.replace(stage.sampler, kind=kind, steps=steps, spacing="time")
    network: Any = stage.network
    if guidance_head:
        network = network.clone(guidance_head=True)
    return dataclasses.replace(stage, network=network, guidance_input=True, sampler=sampler)


class Phase(NamedTuple):
    """One training run among several.

    Attributes:
      name: also that of its folder.
      model: what is trained.
      train_steps: updates.
    """

    name: str
    model: Distillation
    train_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """The phases that lead to a student.

    Attributes:
      student: made by `student`; its sampler says how many steps remain, and of which kind.
      start_steps: DDIM steps before the first halving: the student's, times a power of two.
      train_steps: updates of each halving, and of the phase for the stochastic sampler.
      guidance_train_steps: updates of the first phase; None is `train_steps`.
      weight_range: guidance weights that the student learns.
      times: distribution of u in the first phase.
    """

    student: DiffusionStage
    train_steps: int
    start_steps: int = 64
    guidance_train_steps: int | None = None
    weight_range: Sequence[float] = (0.0, 4.0)
    times: schedules.TimeSampler = schedules.UniformTimes()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_range", tuple(map(float, self.weight_range)))
        steps, ratio = self.student.sampler.steps, self.start_steps / self.student.sampler.steps
        if ratio < 1 or ratio != int(ratio) or int(ratio) & (int(ratio) - 1):
            raise ValueError(
                f"START_STEPS is {self.start_steps}; halving must lead to STUDENT_STEPS, {steps}: "
                f"take {steps * 4}, {steps * 8} or {steps * 16}."
            )
        for name in ("train_steps", "guidance_train_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"Course.{name} is {value}; it must be >= 1.")
        self.phases()
        low, high = self.weight_range
        spec = self.student.guidance
        for weight in (spec.weight, spec.low):
            if weight is not None and not low <= weight <= high:
                raise ValueError(
                    f"the stage {self.student.name} samples with guidance {weight}, which is not "
                    f"in GUIDANCE_RANGE, {low} to {high}: widen it."
                )

    def phases(self) -> tuple[Phase, ...]:
        """Guidance, the halvings, and for the stochastic sampler one more."""
        sampler, steps = self.student.sampler, self.start_steps
        common: dict[str, Any] = {"weight_range": self.weight_range}
        first = GuidanceDistillation(stage=self._sampled(steps), times=self.times, **common)
        found: list[tuple[str, Distillation]] = [("guidance", first)]
        while steps > sampler.steps:
            steps //= 2
            halved = ProgressiveDistillation(stage=self._sampled(steps), steps=steps, **common)
            found.append((f"steps_{steps}", halved))
        if sampler.kind == "stochastic":
            last = ProgressiveDistillation(
                stage=self.student, steps=steps, stochastic=True, **common
            )
            found.append((f"stochastic_{steps}", last))
        updates = [self.guidance_train_steps or self.train_steps]
        updates += [self.train_steps] * (len(found) - 1)
        named = zip(found, updates, strict=True)
        return tuple(
            Phase(f"{i:02}_{name}", model, count)
            for i, ((name, model), count) in enumerate(named, start=1)
        )

    def _sampled(self, steps: int) -> DiffusionStage:
        """The student as it samples between two phases: by DDIM."""
        sampler = dataclasses.replace(self.student.sampler, kind="ddim", steps=steps)
        return dataclasses.replace(self.student, sampler=sampler)
