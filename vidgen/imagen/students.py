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

from vidgen import checks
from vidgen.diffusion import schedules
from vidgen.imagen.distillation import Distillation, GuidanceDistillation, ProgressiveDistillation
from vidgen.imagen.learned import Learned, check_weights, checked_range
from vidgen.imagen.stage import DiffusionStage

KINDS = ("ddim", "stochastic")


def student(
    *,
    stage: DiffusionStage,
    steps: int = 8,
    kind: str = "stochastic",
    weight_range: Sequence[float] | None = None,
    guidance_head: bool = False,
) -> DiffusionStage:
    """Make a student of a stage: guided by an input of the network, sampled in `steps` steps.

    Args:
      stage: the teacher.
      steps: number of sampling steps.
      kind: kind of the sampler, "ddim" or "stochastic".
      weight_range: guidance weights that it learns, and is sampled with; None is unknown.
      guidance_head: the weight also multiplies an output of its own (`VideoUNet.guidance_head`).
        runs/distill.gin says True. Configurations of students from before there was such an output
        do not mention it, and have to stay what they are.

    Returns:
      The stage of the student, without parameters; training starts from those of the teacher.

    Raises:
      ValueError: `stage` is a student already or self-conditioned, no student learns that sampler,
        or the stage's guidance is outside of `weight_range`.
    """
    if stage.guidance_input:
        raise ValueError(f"the stage {stage.name} is a distilled student; it cannot be a teacher.")
    if stage.self_conditioning:
        raise ValueError(
            f"the stage {stage.name} is self-conditioned, which no student learns; train a teacher "
            "with DiffusionStage.self_conditioning = 0."
        )
    if kind not in KINDS:
        raise ValueError(f"a student cannot learn the sampler {kind!r}; choose one of {KINDS}.")
    sampler = dataclasses.replace(stage.sampler, kind=kind, steps=steps, spacing="time")
    learned = Learned(
        weight_range=weight_range, steps=steps, sampler=kind, teacher_sampler=stage.sampler
    )
    network: Any = stage.network
    if guidance_head:
        network = network.clone(guidance_head=True)
    return dataclasses.replace(
        stage, network=network, guidance_input=True, sampler=sampler, learned=learned
    )


class StudentPhase(NamedTuple):
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
class StudentSchedule:
    """The phases that lead to a student.

    Attributes:
      student: made by `student`; its sampler says how many steps remain, and of which kind.
      start_steps: DDIM steps before the first halving: the student's, times a power of two.
      train_steps: updates of each halving, and of the phase for the stochastic sampler.
      guidance_train_steps: updates of the first phase; None is `train_steps`.
      weight_range: guidance weights that the student learns; None is what `student` says of them,
        or 0 to 4 where it says nothing.
      times: distribution of u in the first phase.
    """

    student: DiffusionStage
    train_steps: int
    start_steps: int = 64
    guidance_train_steps: int | None = None
    weight_range: Sequence[float] | None = None
    times: schedules.Times = schedules.UniformTimes()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_range", self._agreed_range())
        steps, ratio = self.student.sampler.steps, self.start_steps / self.student.sampler.steps
        if ratio < 1 or ratio != int(ratio) or int(ratio) & (int(ratio) - 1):
            raise ValueError(
                f"START_STEPS is {self.start_steps}; halving must lead to STUDENT_STEPS, {steps}: "
                f"take {steps * 4}, {steps * 8} or {steps * 16}."
            )
        checks.at_least(self, train_steps=1, guidance_train_steps=1)
        self.phases()
        check_weights(self.student.name, self.student.guidance, self._agreed_range())

    def _agreed_range(self) -> tuple[float, float]:
        """Return the one range that the schedule and its student name."""
        known = self.student.learned and self.student.learned.weight_range
        wanted = self.weight_range if self.weight_range is not None else known or (0.0, 4.0)
        agreed = checked_range(wanted)
        if known and agreed != known:
            raise ValueError(
                f"StudentSchedule.weight_range is {agreed}, and the student's is {known}: set "
                "both, by GUIDANCE_RANGE."
            )
        return agreed

    def phases(self) -> tuple[StudentPhase, ...]:
        """List guidance, the halvings, and for the stochastic sampler one more.

        Returns:
          The phases in their order, each with the model to train and its number of updates.
        """
        sampler, steps = self.student.sampler, self.start_steps
        common: dict[str, Any] = {"weight_range": self.weight_range}
        any_steps = self._sampled(steps, learned_steps=None)
        first = GuidanceDistillation(stage=any_steps, times=self.times, **common)
        models: list[tuple[str, Distillation]] = [("guidance", first)]
        while steps > sampler.steps:
            steps //= 2
            halved = ProgressiveDistillation(
                stage=self._sampled(steps, steps), steps=steps, **common
            )
            models.append((f"steps_{steps}", halved))
        if sampler.name == "stochastic":
            last = ProgressiveDistillation(
                stage=self.student, steps=steps, stochastic=True, **common
            )
            models.append((f"stochastic_{steps}", last))
        updates = [self.guidance_train_steps or self.train_steps]
        updates += [self.train_steps] * (len(models) - 1)
        named = zip(models, updates, strict=True)
        return tuple(
            StudentPhase(f"{i:02}_{name}", model, count)
            for i, ((name, model), count) in enumerate(named, start=1)
        )

    def _sampled(self, steps: int, learned_steps: int | None) -> DiffusionStage:
        """Return the student as it samples between two phases: by DDIM."""
        sampler = dataclasses.replace(self.student.sampler, kind="ddim", steps=steps)
        learned = dataclasses.replace(
            self.student.learned or Learned(), steps=learned_steps, sampler="ddim"
        )
        return dataclasses.replace(self.student, sampler=sampler, learned=learned)
