"""What a run wants of sampling that is otherwise than a model was trained for, stage by stage."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

from vidgen.diffusion.samplers import Ancestral, Heun
from vidgen.imagen.learned import check_no_negative
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import per_stage
from vidgen.inference.per_stage import PerStage
from vidgen.model import SampledModel

log = logging.getLogger(__name__)

# By the field of `Sampling`: the part of a model, and the setting of that part. (The two guidance
# weights are one field.)
_SETTINGS = {
    "steps": ("sampler", "steps"),
    "sampler": ("sampler", "kind"),
    "gamma": ("sampler", "gamma"),
    "churn": ("sampler", "churn"),
    "resample": ("sampler", "resample"),
    "resample_jump": ("sampler", "resample_jump"),
    "temperature": ("sampler", "temperature"),
    "threshold": ("guidance", "threshold"),
    "guidance_rescale": ("guidance", "rescale"),
    "guidance_interval": ("guidance", "interval"),
    "guidance_parallel": ("guidance", "parallel"),
    "guidance_norm": ("guidance", "norm"),
    "guidance_momentum": ("guidance", "momentum"),
    "reconstruction": ("guidance", "reconstruction"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What of a stage's own sampling is replaced; None leaves it.

    Attributes:
      steps: sampling steps.
      sampler: kind of sampler.
      gamma: noise of the ancestral sampler.
      churn: noise of Heun's sampler, over all steps.
      resample: how many times runs of steps are made where content is known.
      resample_jump: steps of such a run.
      temperature: the temperature of a masked transformer: randomness in which tokens are kept.
      guidance: constant weight w, guided = (1 + w) cond - w uncond; or (high, low) to alternate,
        where a low of None is constant as well.
      guidance_rescale: how far the spread of guided predictions is brought back, 0 to 1.
      guidance_interval: (low, high), the noise levels with guidance.
      guidance_parallel: how much is left of guidance along the prediction, 0 to 1.
      guidance_norm: the largest root mean square of what guidance of weight 1 changes.
      guidance_momentum: how much of guidance goes on from evaluation to evaluation, -1 to 1.
      threshold: none, static or dynamic.
      reconstruction: weight with which new content is drawn to agree with known content.
    """

    steps: int | PerStage | None = None
    sampler: str | PerStage | None = None
    gamma: float | PerStage | None = None
    churn: float | PerStage | None = None
    resample: int | PerStage | None = None
    resample_jump: int | PerStage | None = None
    temperature: float | PerStage | None = None
    guidance: float | tuple[float, float | None] | PerStage | None = None
    threshold: str | PerStage | None = None
    guidance_rescale: float | PerStage | None = None
    guidance_interval: tuple[float, float] | PerStage | None = None
    guidance_parallel: float | PerStage | None = None
    guidance_norm: float | PerStage | None = None
    guidance_momentum: float | PerStage | None = None
    reconstruction: float | PerStage | None = None

    def apply(self, model: SampledModel) -> SampledModel:
        """Replace the sampling of a model.

        Args:
          model: a trained model; its name decides which value of a `PerStage` counts.

        Returns:
          A copy of it with these settings. A setting that has no effect on its sampler is warned
          of.

        Raises:
          ValueError: a value is out of its range, or this kind of model has no such setting.
        """
        wanted = {
            field.name: per_stage.value(getattr(self, field.name), model.name)
            for field in dataclasses.fields(self)
        }
        weight = wanted.pop("guidance")
        settings: dict[str, dict[str, Any]] = {"sampler": {}, "guidance": {}}
        for name, value in wanted.items():
            part, setting = _SETTINGS[name]
            if value is not None:
                settings[part][setting] = (name, value)
        if weight is not None:
            high, low = weight if isinstance(weight, tuple) else (weight, None)
            settings["guidance"]["weight"] = ("guidance", high)
            settings["guidance"]["low"] = ("guidance", low)  # None makes it constant
        changed = dataclasses.replace(
            model,
            **{
                part: _replaced(model.name, getattr(model, part), values)
                for part, values in settings.items()
            },
        )
        if isinstance(changed, DiffusionStage):
            _tell_of_no_effect(changed, wanted, weight is not None)
        return changed


def at_strength(model: SampledModel, strength: float) -> SampledModel:
    """Make the first stage of a run begin in the middle of its schedule.

    Args:
      model: the first stage, which starts from text alone.
      strength: share of its steps that are made, between 0 and 1: little keeps the video, much
        changes it.

    Returns:
      A copy of it whose sampler has this strength.

    Raises:
      ValueError: it starts from a smaller video, or has no noise levels, or the strength is out of
        its range.
    """
    if not 0 < strength < 1:
        raise ValueError(
            f"--strength is {strength}; it must be between 0 and 1: little keeps the video of "
            "--init, much changes it."
        )
    if model.input_shape is not None:
        raise ValueError(
            f"--strength is for a stage that starts from text alone; {model.name} makes its video "
            "from --init: leave it out."
        )
    started = {"strength": ("strength", strength)}
    return dataclasses.replace(model, sampler=_replaced(model.name, model.sampler, started))


def takes_negative(model: SampledModel) -> bool:
    """Whether guidance of this model leads away from a prompt.

    Args:
      model: with the sampling of the run.

    Returns:
      False where there is no guidance, and for a distilled student, which has learned its own.
    """
    is_student = isinstance(model, DiffusionStage) and model.guidance_input
    return not (model.guidance.is_unguided or is_student)


def check_negative(models: Sequence[SampledModel]) -> None:
    """Check that a negative prompt changes the clips of a model.

    Args:
      models: those that run.

    Raises:
      ValueError: none of them takes it.
    """
    if any(map(takes_negative, models)):
        return
    for model in models:
        if isinstance(model, DiffusionStage) and model.guidance_input:
            check_no_negative(model.name, "negative")
    names = ", ".join(model.name for model in models)
    raise ValueError(
        f"--negative says what guidance leads away from, and {names} samples without guidance: "
        "give --guidance=W."
    )


def _tell_of_no_effect(model: DiffusionStage, wanted: dict[str, Any], guided: bool) -> None:
    """Warn of settings that change nothing of this stage."""
    for flag, sampler in (("gamma", Ancestral), ("churn", Heun)):
        if wanted[flag] is not None and model.sampler.name != sampler.name:
            _warn_once(
                "--%s has no effect on %s, whose sampler is %s, not %s",
                *(flag, model.name, model.sampler.name, sampler.name),
            )
    if guided and model.learned is not None and model.learned.weight_range is None:
        _warn_once(
            "%s is a distilled student whose configuration does not say which guidance weights it "
            "has learned; others than those have no known effect (students.student.weight_range)",
            model.name,
        )


@functools.cache
def _warn_once(*message: str) -> None:
    """Warn once a process."""
    log.warning(*message)


def _replaced(stage: str, part: Any, settings: dict[str, tuple[str, Any]]) -> Any:
    """Replace values of a dataclass, by (flag, value), in fields that it must have."""
    if not settings:
        return part
    fields = {field.name for field in dataclasses.fields(part)}
    for name, (flag, _) in settings.items():
        if name not in fields:
            raise ValueError(f"--{flag}: {stage} is a kind of model that has no such setting.")
    return dataclasses.replace(part, **{name: value for name, (_, value) in settings.items()})
