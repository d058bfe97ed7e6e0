"""From a trained model's folder to the task and the data of its evaluation.

The model's own config.gin says what it is, which data it was trained on, and which it was not; a
further --gin_file (a data layer, a protocol) may name other data.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import Source, Stream
from vidgen.evals.clips import SourceClips
from vidgen.evals.generated_clips import GeneratedClips
from vidgen.evals.metrics import EvalData, MetricInputs
from vidgen.evals.protocols import Protocol
from vidgen.evals.tasks import EvalTask, GenerateTask, PredictTask, ReconstructTask, RestoreTask
from vidgen.inference import per_stage
from vidgen.inference.generate import Generate
from vidgen.inference.per_stage import PerStage
from vidgen.inference.sampling_settings import Sampling
from vidgen.inference.stages import Stage, tell_of_images
from vidgen.model import Model, TokenizerModel
from vidgen.train.callbacks import HeldOutLoss
from vidgen.train.weights import open_weights
from vidgen.types import TextEncoder, VideoShape

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalModel:
    """What an evaluation reads of a training's configuration.

    Attributes:
      model: the trained model.
      text_encoder: the encoder of its captions.
      source: the data it was trained on, or other data that a later file names.
      held_out: the loss on data that it was not trained on, where there is such.
      protocol: the protocol of the evaluation.
      stages: the number of stages that are judged together; this model is the last.
    """

    model: Model
    text_encoder: TextEncoder
    source: Source | Stream
    held_out: HeldOutLoss | None = None
    protocol: Protocol = Protocol()
    stages: int = 1

    @property
    def task(self) -> str:
        """The task that the protocol names, or the one that the model is for."""
        if self.protocol.task:
            return self.protocol.task
        if isinstance(self.model, TokenizerModel):
            return "reconstruct"
        if self.protocol.given:
            return "predict"
        from_text = self.stages > 1 or self.model.input_shape is None
        return "generate" if from_text else "restore"

    @property
    def frames(self) -> int | None:
        """1 where the data is pictures; None: as many as the model makes."""
        return 1 if self._data.shape.frames == 1 else None

    @property
    def _data(self) -> Source | Stream:
        held_out = self.held_out and self.held_out.dataset
        return held_out.source if isinstance(held_out, Pipeline) else self.source

    def real_clips(self, shape: VideoShape) -> SourceClips:
        """Return true clips that the model was not trained on, if there are such.

        Args:
          shape: the shape of the clips; their rate is that of the data.

        Returns:
          As many clips as the protocol says, in an order drawn from its seed.

        Raises:
          ValueError: the data can only be read in order.
        """
        source = self._data
        if not isinstance(source, Source):
            raise ValueError(
                f"the model's data is a {type(source).__name__}, which is read in order alone; "
                "give a --gin_file=data/... of clips that are read in any order."
            )
        if self.held_out is None:
            log.info("no part of this data is held out: the model may have been trained on it")
        source = source.for_evaluation(dataclasses.replace(shape, fps=source.shape.fps))
        return SourceClips(source=source, count=self.protocol.clips, seed=self.protocol.seed)


def choose_task(
    model: EvalModel,
    stages: Sequence[Stage],
    run: Generate | None,
    model_dir: str,
    sampling: Sampling,
    step: int | PerStage | None,
) -> EvalTask:
    """Return the task of the evaluation.

    Args:
      model: the last stage.
      stages: all stages; none of a tokenizer.
      run: makes clips of captions with them; None where that is not the task.
      model_dir: folder of the last stage.
      sampling: what of the models' own sampling is replaced.
      step: which checkpoint is read; None: the last.

    Returns:
      The task that the protocol names, or the one that the model is for.

    Raises:
      ValueError: the model cannot do the task of the protocol.
      FileNotFoundError: there is no such checkpoint.
    """
    protocol = model.protocol
    own_step = per_stage.value(step, model.model.name)
    if model.task == "reconstruct":
        if not isinstance(model.model, TokenizerModel):
            raise ValueError(f"{model_dir} holds no tokenizer; {protocol.name} reconstructs clips.")
        with open_weights(model_dir) as weights:
            weights.stored_params(own_step)
        return ReconstructTask(model=model.model, model_dir=model_dir, step=own_step)
    if not stages:
        raise ValueError(
            f"{model_dir} holds a tokenizer, which reconstructs clips; {protocol.name} is to "
            f"{model.task} them."
        )
    for stage in stages:  # a missing checkpoint is an error before anything is made
        stage.check(per_stage.value(step, stage.model.name))
    if model.task == "generate" and run is not None:
        return GenerateTask(run=run)
    if len(stages) > 1:
        raise ValueError(f"to {model.task} takes one stage; name the folder of one as --model.")
    stage = dataclasses.replace(stages[0], model=sampling.apply(stages[0].model))
    if model.task == "predict":
        known = {"given": protocol.given, "text": protocol.text}
        return PredictTask(stage=stage, seed=protocol.seed, step=own_step, **known)
    if stage.model.input_shape is None:
        raise ValueError(f"{stage.model.name} starts from text alone; it restores nothing.")
    stage = _for_pictures(stage) if model.frames else stage
    return RestoreTask(stage=stage, seed=protocol.seed, step=own_step)


def _for_pictures(stage: Stage) -> Stage:
    """Return the stage with clips of one frame."""
    model: Any = stage.model
    if model.conditioner.factors[0] > 1:
        raise ValueError(f"{model.name} puts frames between frames; pictures have none to restore.")
    shape = dataclasses.replace(model.shape, frames=1)
    single = dataclasses.replace(stage, model=dataclasses.replace(model, shape=shape))
    tell_of_images([stage], [single.model])
    return single


def model_data(
    model: EvalModel, task: EvalTask, inputs: MetricInputs, name: str, folder: Path
) -> EvalData:
    """Return the clips that a model makes, beside the true ones.

    Args:
      model: the model of the last stage.
      task: makes the clips.
      inputs: what the user brings.
      name: describes the clips in reports.
      folder: where the clips are kept.

    Returns:
      Both sets of clips; none is made yet.

    Raises:
      ValueError: the data can only be read in order, or has other sizes than the model.
    """
    real, protocol = model.real_clips(task.shape), model.protocol
    return EvalData(
        generated=GeneratedClips(
            task=task, real=real, samples=protocol.samples, folder=folder / "clips", name=name
        ),
        real=real,
        paired=task.task != "generate" and protocol.samples == 1,
        captioned=bool(real.read(0)[1]),
        source=real.source,
        given=protocol.given if task.task == "predict" else 0,
        tokenizer=task if isinstance(task, ReconstructTask) else None,
        inputs=inputs,
    )
