"""What a distilled student has learned, and so what it can be asked for.

    guidance       weights in the range from which training drew them
    ddim, N        jumps  i/N -> (i-1)/N:  N steps of DDIM
    stochastic, N  jumps  i/N -> (i-2)/N:  N steps of the sampler that goes down by two and back up
                   by one; where N is even N/2 steps of DDIM, too: every second of these jumps

A student's x̂ at the level t stands for the two predictions of its teacher on the way from t to s,
with shares that depend on t and s (imagen/distillation.py). For a jump to another level it is
neither a prediction of the data nor a step: fewer steps, also where their number divides N, make
longer jumps than were learned, and more steps begin at levels that were never seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """The guidance weights and sampling steps that a student has learned.

    Attributes:
      weight_range: guidance weights, (low, high), both included; None is unknown.
      steps: N; None where it has learned every level and no jump: any number of any sampler.
      sampler: kind of the N steps, "ddim" or "stochastic".
      teacher_sampler: how the stage was sampled before it was distilled, which no student is.
    """

    weight_range: Sequence[float] | None = None
    steps: int | None = None
    sampler: str = "ddim"
    teacher_sampler: SamplerSpec | None = None

    def __post_init__(self) -> None:
        if self.weight_range is not None:
            object.__setattr__(self, "weight_range", checked_range(self.weight_range))

    @property
    def ladders(self) -> tuple[tuple[str, int], ...]:
        """The (sampler, steps) that were learned, those of training first; () where any will do."""
        if self.steps is None:
            return ()
        ladder = (self.sampler, self.steps)
        halved = self.sampler == "stochastic" and self.steps % 2 == 0
        return (ladder, ("ddim", self.steps // 2)) if halved else (ladder,)

    @property
    def least_weight(self) -> float:
        """The guidance weight that is nearest to none."""
        return 0.0 if self.weight_range is None else self.weight_range[0]

    def check(self, stage: str, guidance: GuidanceSpec, sampler: SamplerSpec) -> None:
        """Check that a student is sampled as it has learned.

        Args:
          stage: name of the stage, for the message.
          guidance: the weights that it is to be sampled with.
          sampler: the steps.

        Raises:
          ValueError: a weight, the number or kind of the steps, or their spacing was not learned;
            says what was.
        """
        if self.weight_range is not None:
            check_weights(stage, guidance, self.weight_range)
        if not self.ladders:
            return
        if (sampler.name, sampler.steps) not in self.ladders:
            choices = " or ".join(f"{steps} steps of {kind}" for kind, steps in self.ladders)
            raise ValueError(
                f"the stage {stage} is a distilled student, which has learned {choices}, not "
                f"{sampler.steps} steps of {sampler.name}: leave out --steps and --sampler for it "
                f"(--steps={stage}={self.steps} names it alone), or take the model that it was "
                "distilled from, which takes any."
            )
        if sampler.spacing != "time":
            raise ValueError(
                f"the stage {stage} is a distilled student, whose steps are even in time, not in "
                f"{sampler.spacing}: leave its spacing as it is."
            )


def check_weights(stage: str, guidance: GuidanceSpec, weight_range: Sequence[float]) -> None:
    """Check that a stage samples with guidance weights that its student learns.

    Args:
      stage: name of the stage, for the message.
      guidance: the weights, high and low.
      weight_range: (low, high) that the student learns, both included.

    Raises:
      ValueError: a weight is outside of it.
    """
    low, high = weight_range
    for weight in (guidance.weight, guidance.low):
        if weight is not None and not low <= weight <= high:
            raise ValueError(
                f"the stage {stage} samples with guidance {weight}, which is not in "
                f"GUIDANCE_RANGE, {low:g} to {high:g}, the weights that a distilled student "
                f"learns: take one of these (--guidance={stage}=W names the stage alone), or the "
                "model that it was distilled from, which takes any; to distill with it, widen it."
            )


def checked_range(weight_range: Sequence[float]) -> tuple[float, float]:
    """Check a range of guidance weights.

    Args:
      weight_range: (low, high), numbers or what `float` reads.

    Returns:
      The two as floats.

    Raises:
      ValueError: where there are not two, or not 0 <= low <= high.
    """
    ends = tuple(map(float, weight_range))
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1]:
        raise ValueError(
            f"the range of guidance weights is {ends}; it must be (low, high) "
            "with 0 <= low <= high."
        )
    return ends[0], ends[1]


def check_student(stage: str, guidance: GuidanceSpec, least: float) -> None:
    """Check that guidance takes no more than a weight, all that a student has as an input.

    Args:
      stage: name of the stage, for the message.
      guidance: how it is to be sampled.
      least: the weight that is nearest to none, of those that it has learned.

    Raises:
      ValueError: guidance is rescaled, projected or bounded; or it has an interval, and no weight
        of 0 was learned for outside of it.
    """
    for flag in guidance.rule_flags:
        raise ValueError(
            f"--{flag}: the stage {stage} is a distilled student, whose guidance is an input of "
            "its network and no difference of two predictions; take the model that it was "
            "distilled from."
        )
    if guidance.interval is not None and least > 0:
        raise ValueError(
            f"--guidance_interval: the stage {stage} is a distilled student, which has learned no "
            f"weight below {least:g} to take outside of the interval; take the model that it was "
            "distilled from."
        )


def check_no_negative(stage: str, negative: object) -> None:
    """Check that a student is not to be guided away from a prompt.

    Args:
      stage: name of the stage, for the message.
      negative: the negative prompts, or None.

    Raises:
      ValueError: there are any.
    """
    if negative is not None:
        raise ValueError(
            f"--negative: the stage {stage} is a distilled student, which has learned to guide "
            "away from no text only; take the model that it was distilled from."
        )
