"""Trained stages on disk, and what a run wants done otherwise than they were trained for.

runs/a/{config.gin, checkpoints}                one stage
runs/c/{base,tsr1,...}/{config.gin, checkpoints}  a cascade
runs/p/{cvivit,maskgit}/{config.gin, checkpoints}  Phenaki: a tokenizer and a transformer

What `vidgen export` writes, and the models that come with the package, lie likewise, with a weight
file in the place of checkpoints, here or in a store (vidgen/assets/model_folders.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, no_type_check

import numpy as np

from vidgen import __version__
from vidgen.assets import model_folders, zoo
from vidgen.config.gin_sessions import Sessions
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import stage_folders
from vidgen.model import SampledModel
from vidgen.train import frozen as trained
from vidgen.train.partitioning import Partitioner
from vidgen.train.weights import open_weights
from vidgen.types import Frozen, Params, TextEmbedding, TextEncoder

log = logging.getLogger(__name__)
T = TypeVar("T")


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
        """Check that there are weights to load, before anything long begins.

        Args:
          step: the step of the checkpoint; None is any.

        Raises:
          FileNotFoundError: there are none (of this step).
        """
        with open_weights(self.model_dir) as checkpointer:
            checkpointer.stored_params(step)

    def load(self, step: int | None = None, mesh: Partitioner | None = None) -> Params:
        """Load what the model generates with, checked against its shapes.

        Args:
          step: the step of the checkpoint; None is the newest.
          mesh: devices to lay the weights out over; None is the first device.

        Returns:
          The parameters that `Generator.generate` takes, frozen networks merged.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          CheckpointError: it holds another kind or size of model.
        """
        text = (self.text_encoder.length, self.text_encoder.dim)
        params = trained.restored(self.model, self.model_dir, step, mesh, text)
        frozen = None if self.frozen is None else trained.over(self.frozen, mesh)()
        return self.model.merge_params(params, frozen)

    def identity(self, params: Params) -> dict[str, Any]:
        """Collect what its clips depend on besides text, noise and sampling.

        Args:
          params: what `load` returned: folders and steps may come to hold other weights.

        Returns:
          Plain data that JSON can hold: hashes of weights and settings, the text encoder, the
          version.
        """
        encoder, settings = self.text_encoder, repr(self.model)
        return {
            "weights": trained.fingerprint(lambda: params),
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
            "text encoder": f"{encoder.name}, {encoder.length} tokens",
            "vidgen": __version__,
        }


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


def for_text(
    model: SampledModel, text: TextEmbedding, negative: TextEmbedding | None = None
) -> SampledModel:
    """Leave guidance out where it would compute the same thing twice.

    Where no prompt has a token, nor what guidance leads away from, both halves of guidance are the
    same, and one is enough.

    Args:
      model: with the sampling of the run.
      text: the encoded prompts, on the host.
      negative: what guidance leads away from, on the host; None is no text.

    Returns:
      The model as it samples these prompts.
    """
    some = np.any(text.mask) or (negative is not None and np.any(negative.mask))
    return model if some else model.without_guidance()


def find(model: str, first: str | None = None, last: str | None = None) -> tuple[Path, ...]:
    """List the training folders that are needed, in the order in which they run.

    Args:
      model: the folder of one stage, or of a cascade, also an exported one of a store, or a name of
        the zoo.
      first: name of the first stage to run; None is the first that is there.
      last: name of the last.

    Returns:
      The folders, one for each stage.

    Raises:
      FileNotFoundError: there is no trained model.
      ValueError: a stage that is asked for is not there, or a training run is in a store.
      OSError: the store cannot be read.
    """
    folder = model_folders.check_local("--model", model_folders.find(model))
    if (folder / "config.gin").is_file():
        return (folder,)
    here = stage_folders.names(folder)
    if not here:
        raise FileNotFoundError(
            f"--model={model}: there is no {folder / 'config.gin'}, nor one in a folder of a stage "
            f"({', '.join(stage_folders.PUBLISHED)}) in it; name a folder that vidgen train or "
            f"export wrote, or a model that comes with vidgen ({', '.join(zoo.names())})."
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
    """Check that the stages at the ends are those that the flags name.

    Args:
      stages: as they were loaded.
      first: value of --from; None names none.
      last: value of --until; None names none.

    Raises:
      ValueError: a folder holds another stage.
    """
    ends = (("from", first, stages[0]), ("until", last, stages[-1]))
    for flag, name, stage in ends:
        if name is not None and name != stage.model.name:
            raise ValueError(
                f"--{flag}={name}: {stage.model_dir} holds the stage {stage.model.name}."
            )


def single(stages: Sequence[Stage]) -> Stage:
    """Return the one model that tells a story.

    Args:
      stages: those that --model names.

    Returns:
      The only one.

    Raises:
      ValueError: there are several.
    """
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

    Returns:
      The object; its model knows whether it also trained on images.

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


def _check_learned(folder: Path, trained: DiffusionStage, changed: DiffusionStage) -> None:
    """Refuse settings of this run that would have a student believe it learned more."""
    before, after = (
        vars(model.learned) | {"schedule": model.schedule} for model in (trained, changed)
    )
    for name in [name for name in before if before[name] != after[name]]:
        raise ValueError(
            f"{folder} holds a distilled student whose {name} was {before[name]} in training; a "
            f"--gin flag or file makes it {after[name]}, which changes nothing of what the student "
            "has learned: leave it out (--guidance, --steps and --sampler say what can be asked)."
        )
