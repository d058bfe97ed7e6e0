"""The folders of a cascade's stages, in the order in which they run.

The models of the papers have their order. A stage of another name belongs to the cascade as well:
its saved configuration says its name and the clips that it makes, and as every stage of a cascade
makes more pixels than the one before, that says where it stands. Nothing else is to be registered.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterable
from pathlib import Path

from vidgen.assets import model_folders
from vidgen.config.gin_files import GinError
from vidgen.config.gin_sessions import Sessions
from vidgen.model import Model, SampledModel
from vidgen.types import STAGES

log = logging.getLogger(__name__)

# Those of the papers that make video, in the order in which they may follow each other.
PUBLISHED = ("maskgit", *STAGES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run has left, whatever its model can do.

    Attributes:
      model: the trained model.
      model_dir: folder of the training run.
    """

    model: Model
    model_dir: str


def names(folder: Path) -> tuple[str, ...]:
    """List the models of a folder that make video.

    Args:
      folder: of a cascade, with a folder for each of its stages.

    Returns:
      Their names, which are those of their folders, in the order in which they run.
    """
    here = {path.parent.name for path in folder.glob("*/config.gin")}
    published = [name for name in PUBLISHED if name in here]
    others = {
        name: stage for name in sorted(here - {*published}) if (stage := _stage(folder / name))
    }
    if not others:
        return tuple(published)
    models = others | {name: _model(folder / name) for name in published}
    return tuple(sorted(models, key=lambda name: math.prod(models[name].shape.thwc[:3])))


def of_models(models: Iterable[str]) -> frozenset[str]:
    """Collect the stages of models.

    Args:
      models: what --model takes: folders of one stage or of a cascade, addresses, names of the zoo.

    Returns:
      The names of their stages; none where there is no such model.
    """
    folders = [Path(model_folders.find(model)) for model in models]
    alone = [_model(folder).name for folder in folders if (folder / "config.gin").is_file()]
    return frozenset(itertools.chain(alone, *map(names, folders)))


def starts_from_video(folder: Path) -> bool:
    """Whether what training left in a folder is a stage that changes a video.

    Args:
      folder: the MODEL_DIR of the training.

    Returns:
      True for super-resolution in space or time; False where video is made from text alone.
    """
    model = _model(folder)
    return isinstance(model, SampledModel) and model.input_shape is not None


def _model(folder: Path) -> Model:
    return Sessions(["runs/generate.gin"], [], []).build_trained(Trained, folder).model


def _stage(folder: Path) -> Model | None:
    """Return the stage of its own name in a folder; None: a tokenizer, or an older training."""
    try:
        model = _model(folder)
    except GinError as error:
        log.warning("%s is no stage of the cascade: %s", folder, error)
        return None
    return model if isinstance(model, SampledModel) and model.name == folder.name else None
