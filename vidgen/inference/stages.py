"""Trained stages on disk, and what a run wants done otherwise than they were trained for.

runs/a/{config.gin, checkpoints}                one stage
runs/c/{base,tsr1,...}/{config.gin, checkpoints}  a cascade
runs/p/{cvivit,maskgit}/{config.gin, checkpoints}  Phenaki: a tokenizer and a transformer

What `vidgen export` writes, and the models that come with the package, lie likewise, with a weight
file in the place of checkpoints, here or in a store (vidgen/assets/model_folders.py).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, no_type_check

import numpy as np

from vidgen import __version__
from vidgen.assets import model_folders, zoo
from vidgen.config.gin_sessions import Sessions
from vidgen.diffusion.samplers import Ancestral
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import per_stage
from vidgen.inference.per_stage import PerStage
from vidgen.model import SampledModel
from vidgen.train import frozen as trained
from vidgen.train.partitioning import Partitioner
from vidgen.train.weights import open_weights
from vidgen.types import STAGES, Frozen, Params, TextEmbedding, TextEncoder

log = logging.getLogger(__name__)
T = TypeVar("T")

MODELS = ("maskgit", *STAGES)  # that make video, in the order in which they may follow each other


@no_type_check  # gin may name any model here: the check below says it in words
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A trained model.

    Attributes:
      model: what makes the clips.
      text_encoder: the one that it was trained with.
      model_dir: folder of the training run; the averaged weights are read from its checkpoints, or
        from its weight file.
      frozen: loads trained networks that the model reads beside its own weights, if there are any.
    """

    model: SampledModel
    text_encoder: TextEncoder
    model_dir: str
    frozen: Callable[[], Frozen] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, SampledModel):
            kind = type(self.model).__name__
            raise ValueError(f"--model={self.model_dir} holds a {kind}, which makes no video.")

    def check(self, step: int | None = None) -> None:
        """Raise FileNotFoundError unless there are weights (of this step)."""
        with open_weights(self.model_dir) as checkpointer:
            checkpointer.stored_params(step)

    def load(self, step: int | None = None, mesh: Partitioner | None = None) -> Params:
        """Load what the model generates with, checked against its shapes, over the mesh."""
        text = (self.text_encoder.length, self.text_encoder.dim)
        params = trained.restored(self.model, self.model_dir, step, mesh, text)
        frozen = None if self.frozen is None else trained.over(self.frozen, mesh)()
        return self.model.merge_params(params, frozen)

    def identity(self, params: Params) -> dict[str, Any]:
        """Return what its clips depend on besides text, noise and sampling, as plain data.

        Args:
          params: what `load` gave: folders and steps may come to hold other weights.
        """
        encoder, settings = self.text_encoder, repr(self.model)
        return {
            "weights": trained.fingerprint(lambda: params),
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
            "text encoder": f"{encoder.name}, {encoder.length} tokens",
            "vidgen": __version__,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What of a stage's own sampling is replaced; None leaves it.

    Attributes:
      steps: sampling steps.
      sampler: kind of sampler.
      gamma: noise of the ancestral sampler.
      temperature: of a masked transformer: randomness in which tokens are kept.
      guidance: constant weight w, guided = (1 + w) cond - w uncond; or (high, low) to alternate,
        where a low of None is constant as well.
      threshold: none, static or dynamic.
      reconstruction: weight with which new content is drawn to agree with known content.
    """

    steps: int | PerStage | None = None
    sampler: str | PerStage | None = None
    gamma: float | PerStage | None = None
    temperature: float | PerStage | None = None
    guidance: float | tuple[float, float | None] | PerStage | None = None
    threshold: str | PerStage | None = None
    reconstruction: float | PerStage | None = None

    def apply(self, model: SampledModel) -> SampledModel:
        """Replace the sampling of a model.

        Raises:
          ValueError: a value is out of its range, or this kind of model has no such setting.
        """
        asked = {
            field.name: per_stage.value(getattr(self, field.name), model.name)
            for field in dataclasses.fields(self)
        }
        weight = asked["guidance"]
        pair = weight if isinstance(weight, tuple) else (weight, None)
        parts: dict[str, dict[str, Any]] = {
            "sampler": {n: asked[n] for n in ("steps", "gamma", "temperature")},
            "guidance": {n: asked[n] for n in ("threshold", "reconstruction")},
        }
        parts["sampler"]["kind"], parts["guidance"]["weight"] = asked["sampler"], pair[0]
        settings = {
            name: {n: v for n, v in values.items() if v is not None}
            for name, values in parts.items()
        }
        if "weight" in settings["guidance"]:
            settings["guidance"]["low"] = pair[1]  # None makes it constant
        changed = dataclasses.replace(
            model,
            sampler=_replaced(model.name, model.sampler, settings["sampler"]),
            guidance=_replaced(model.name, model.guidance, settings["guidance"]),
        )
        if isinstance(changed, DiffusionStage):
            kind = changed.sampler.name
            if asked["gamma"] is not None and kind != Ancestral.name:
                _tell_of_gamma(model.name, kind)
            learned = changed.learned
            if pair[0] is not None and learned is not None and learned.weight_range is None:
                _tell_of_range(model.name)
        return changed


@functools.cache
def _tell_of_gamma(stage: str, kind: str) -> None:
    """Warn once a process."""
    log.warning("--gamma has no effect on %s, whose sampler is %s, not ancestral", stage, kind)


@functools.cache
def _tell_of_range(stage: str) -> None:
    """Warn once a process."""
    log.warning(
        "%s is a distilled student whose configuration does not say which guidance weights it has "
        "learned; others than those have no known effect (students.student.weight_range)",
        stage,
    )


def tell_of_images(stages: Sequence[Stage], models: Sequence[SampledModel]) -> None:
    """Warn of models that are to make one frame, and were trained on clips alone.

    Args:
      stages: as they were trained.
      models: those that sample, of the size asked for.
    """
    for stage, model in zip(stages, models, strict=True):
        if model.shape.frames == 1 and model.lacks_single_frames:
            log.warning(
                "%s was trained on clips of %d frames and on no images: it has not learned to make "
                "one frame by itself (data/joint_*.gin)",
                *(model.name, stage.model.shape.frames),
            )


def for_text(model: SampledModel, text: TextEmbedding) -> SampledModel:
    """Return the model as it samples these prompts, which are on the host.

    Where none of them has a token, both halves of guidance are the same, and one is enough.
    """
    return model if np.any(text.mask) else model.without_guidance()


def _replaced(stage: str, part: Any, settings: dict[str, Any]) -> Any:
    """Replace values of a dataclass in fields that it must have."""
    if not settings:
        return part
    for name in settings.keys() - {field.name for field in dataclasses.fields(part)}:
        flag = {"kind": "sampler", "weight": "guidance", "low": "guidance"}.get(name, name)
        raise ValueError(f"--{flag}: {stage} is a kind of model that has no such setting.")
    return dataclasses.replace(part, **settings)


def find(model: str, first: str | None = None, last: str | None = None) -> tuple[Path, ...]:
    """List the training folders that are needed, in the order in which they run.

    Args:
      model: the folder of one stage, or of a cascade, also an exported one of a store, or a name of
        the zoo.
      first: name of the first stage to run; None is the first that is there.
      last: name of the last.

    Raises:
      FileNotFoundError: there is no trained model.
      ValueError: a stage that is asked for is not there, or a training run is in a store.
      OSError: the store cannot be read.
    """
    folder = model_folders.check_local("--model", model_folders.find(model))
    if (folder / "config.gin").is_file():
        return (folder,)
    here = [name for name in MODELS if (folder / name / "config.gin").is_file()]
    if not here:
        raise FileNotFoundError(
            f"--model={model}: there is no {folder / 'config.gin'}, nor one in a folder of a stage "
            f"({', '.join(MODELS)}) in it; name a folder that vidgen train or export wrote, or a "
            f"model that comes with vidgen ({', '.join(zoo.names())})."
        )
    for flag, name in (("from", first), ("until", last)):
        if name is not None and name not in here:
            raise ValueError(
                f"--{flag}={name}: there is no such stage in {folder}; it has {', '.join(here)}."
            )
    start = 0 if first is None else here.index(first)
    stop = len(here) if last is None else here.index(last) + 1
    if stop <= start:
        raise ValueError(f"--until={last} comes before --from={first}; swap them.")
    return tuple(folder / name for name in here[start:stop])


def check_names(stages: Sequence[Stage], first: str | None, last: str | None) -> None:
    """Raise ValueError where `first` and `last` do not name the stages at the ends."""
    ends = (("from", first, stages[0]), ("until", last, stages[-1]))
    for flag, name, stage in ends:
        if name is not None and name != stage.model.name:
            raise ValueError(
                f"--{flag}={name}: {stage.model_dir} holds the stage {stage.model.name}."
            )


def single(stages: Sequence[Stage]) -> Stage:
    """Return the one stage; a ValueError where there are several."""
    if len(stages) > 1:
        names = ", ".join(stage.model.name for stage in stages)
        raise ValueError(f"a story is told by one model, and --model has {names}; name a folder.")
    return stages[0]


def build_trained(sessions: Sessions, cls: type[T], folder: Path) -> T:
    """Build a `Stage`, or another object with a `model`, from what training left in a folder.

    Args:
      sessions: with the files and flags of this run.
      cls: its class.
      folder: the MODEL_DIR of the training.

    Raises:
      ValueError: a flag makes a distilled student believe that it has learned more than it has.
    """
    built: Any = sessions.build_trained(cls, folder)
    model = built.model
    if not isinstance(model, DiffusionStage):
        return built
    if model.learned and cls is Stage and sessions.has_changes:
        unchanged: Any = sessions.build_unchanged(cls, folder)
        _check_learned(folder, unchanged.model, model)
    # Packs of images were among the examples that it trained on.
    if any(sessions.trained_values(folder, "DATASET", "images.Joint.image_rate")):
        built = dataclasses.replace(built, model=dataclasses.replace(model, joint=True))
    return built


def _check_learned(folder: Path, trained: DiffusionStage, asked: DiffusionStage) -> None:
    """Refuse settings of this run that would have a student believe it learned more."""
    before, after = (
        vars(model.learned) | {"schedule": model.schedule} for model in (trained, asked)
    )
    for name in [name for name in before if before[name] != after[name]]:
        raise ValueError(
            f"{folder} holds a distilled student whose {name} was {before[name]} in training; a "
            f"--gin flag or file makes it {after[name]}, which changes nothing of what the student "
            "has learned: leave it out (--guidance, --steps and --sampler say what can be asked)."
        )
