"""From a model's folder, or from two sets of files, to what an evaluation asks.

The model's own config.gin says what it is, and which data it was trained on and was not; a further
--gin_file (a data layer, a protocol) may name other data.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.data.sources.folder import Source
from vidgen.evals.clips import SourceClips
from vidgen.evals.generated_clips import MadeClips
from vidgen.evals.metric_inputs import EvalData
from vidgen.evals.protocols import Protocol
from vidgen.evals.tasks import EvalTask, Generated, Predicted, Reconstructed, Restored
from vidgen.inference import per_stage
from vidgen.inference.generate import Generate
from vidgen.inference.per_stage import PerStage
from vidgen.inference.stages import Sampling, Stage, tell_of_images
from vidgen.model import Model, TokenizerModel
from vidgen.sprites.sprites import Sprites
from vidgen.train.weights import open_weights
from vidgen.types import TextEncoder, VideoShape

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalModel:
    """What a configuration of training says, as far as an evaluation wants to know.

    Attributes:
      model: what was trained.
      text_encoder: of its captions.
      source: the data it was trained on, or other data that a later file names.
      held_out: the loss on data that it was not trained on, where there is such.
      protocol: of the evaluation.
      stages: that are judged together, this one the last.
    """

    model: Model
    text_encoder: TextEncoder
    source: Any
    held_out: Any = None
    protocol: Protocol = Protocol()
    stages: int = 1

    @property
    def task(self) -> str:
        """What the protocol says, or what the model is for."""
        if self.protocol.task:
            return self.protocol.task
        if isinstance(self.model, TokenizerModel):
            return "reconstruct"
        if self.protocol.given:
            return "predict"
        whole = self.stages > 1 or self.model.input_shape is None
        return "generate" if whole else "restore"

    @property
    def _data(self) -> Any:
        return self.source if self.held_out is None else self.held_out.dataset.source

    @property
    def frames(self) -> int | None:
        """1 where the data is pictures; None: as many as the model makes."""
        return 1 if self._data.shape.frames == 1 else None

    def data(self, shape: VideoShape, protocol: Protocol) -> SourceClips:
        """True clips of this shape that the model was not trained on, where there are such."""
        source = self._data
        if not isinstance(source, Source):
            raise ValueError(
                f"the model's data is a {type(source).__name__}, which is read in order alone; "
                "give a --gin_file=data/... of clips that are read in any order."
            )
        if self.held_out is None:
            log.info("no part of this data is held out: the model may have been trained on it")
        changes: dict[str, Any] = {"shape": dataclasses.replace(shape, fps=source.shape.fps)}
        if isinstance(source, Sprites):
            changes["templates"] = 1  # captions that say the same are the same
        given: Any = source
        return SourceClips(
            source=dataclasses.replace(given, **changes), count=protocol.clips, seed=protocol.seed
        )


def maker(
    subject: EvalModel,
    protocol: Protocol,
    stages: Sequence[Stage],
    run: Generate | None,
    model_dir: str,
    sampling: Sampling,
    step: int | PerStage | None,
) -> EvalTask:
    """What makes the clips.

    Args:
      subject: of the last stage.
      protocol: what is asked.
      stages: all stages; none of a tokenizer.
      run: makes clips of captions with them; None where that is not the task.
      model_dir: folder of the last.
      sampling: what of the models' own is replaced.
      step: which checkpoint; None is the last.

    Raises:
      ValueError: the model does no such thing.
      FileNotFoundError: there is no such checkpoint.
    """
    own_step = per_stage.value(step, subject.model.name)
    if subject.task == "reconstruct":
        if not isinstance(subject.model, TokenizerModel):
            raise ValueError(f"{model_dir} holds no tokenizer; {protocol.name} reconstructs clips.")
        with open_weights(model_dir) as weights:
            weights.stored_params(own_step)
        return Reconstructed(model=subject.model, model_dir=model_dir, step=own_step)
    if not stages:
        raise ValueError(
            f"{model_dir} holds a tokenizer, which reconstructs clips; {protocol.name} is to "
            f"{subject.task} them."
        )
    for stage in stages:  # a checkpoint that is not there is told before anything is made
        stage.check(per_stage.value(step, stage.model.name))
    if subject.task == "generate" and run is not None:
        return Generated(run=run)
    if len(stages) > 1:
        raise ValueError(f"to {subject.task} takes one stage; name the folder of one as --model.")
    stage = dataclasses.replace(stages[0], model=sampling.apply(stages[0].model))
    if subject.task == "predict":
        known = {"given": protocol.given, "text": protocol.text}
        return Predicted(stage=stage, seed=protocol.seed, step=own_step, **known)
    if stage.model.input_shape is None:
        raise ValueError(f"{stage.model.name} starts from text alone; it restores nothing.")
    return Restored(
        stage=_of_pictures(stage) if subject.frames else stage, seed=protocol.seed, step=own_step
    )


def _of_pictures(stage: Stage) -> Stage:
    """A stage that makes pictures, as the data is."""
    model: Any = stage.model
    if model.conditioner.factors[0] > 1:
        raise ValueError(f"{model.name} puts frames between frames; pictures have none to restore.")
    shape = dataclasses.replace(model.shape, frames=1)
    single = dataclasses.replace(stage, model=dataclasses.replace(model, shape=shape))
    tell_of_images([stage], [single.model])
    return single


def question(
    subject: EvalModel, protocol: Protocol, making: EvalTask, title: str, folder: Path
) -> EvalData:
    """The clips that are made and true, and what is known of them."""
    real = subject.data(making.shape, protocol)
    made = MadeClips(
        maker=making, given=real, samples=protocol.samples, folder=folder / "clips", title=title
    )
    return EvalData(
        made=made,
        real=real,
        paired=making.task != "generate" and protocol.samples == 1,
        captions=bool(real.read(0)[1]),
        sprites=real.source if isinstance(real.source, Sprites) else None,
        given=protocol.given if making.task == "predict" else 0,
        tokenizer=making if isinstance(making, Reconstructed) else None,
    )
