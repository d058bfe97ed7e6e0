"""Videos longer than the clips of a cascade, in the memory of one chunk (`--long`).

    base     chunk 0 makes T frames; chunk n goes on from the last K of the video so far
    tsr, ssr pass over the whole video, chunk by chunk, with frames that they go on from (`upscale`)

So a cascade tells a story as a transformer does: its base is the model that tells, and its other
stages are those that up-sample. A base that was trained on earlier frames
(imagen/earlier_frames.py) is shown the K frames; any other hears of them through noisy z alone
(diffusion/known.py), which `--reconstruction` helps.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence

from vidgen.imagen.cascade import Cascade, check_rate
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference.stages import Stage
from vidgen.story.script import Scene, Story
from vidgen.story.upscale import factors

log = logging.getLogger(__name__)


def split(stages: Sequence[Stage]) -> tuple[Stage, list[Stage]]:
    """Part the stage that tells a story from those that up-sample it, and check that they fit.

    Args:
      stages: those of --model, in the order in which they run.

    Returns:
      The first stage, and the others.

    Raises:
      ValueError: the first one up-samples too, or two neighbors do not fit.
    """
    first = stages[0].model
    if isinstance(first, DiffusionStage):
        chain = Cascade([stage.model for stage in stages])
        if chain.input_shape is not None:
            raise ValueError(
                f"a story begins with a model that makes video from text, and {first.name} "
                "up-samples one; name the folder of a cascade with its base."
            )
        if first.continues is None:
            log.warning(
                "%s was not trained on earlier frames (models/imagen/earlier_frames.gin): its "
                "chunks may not go on from one another; --reconstruction=W draws them together",
                first.name,
            )
    return stages[0], list(stages[1:])


def at_rate(stages: Sequence[Stage], fps: float) -> Stage:
    """Set the frame rate of the first stage so that the last stage's video has `fps`.

    Args:
      stages: the stages that the video goes through, the first of which makes it from text.
      fps: frames per second.

    Returns:
      The first stage, at that rate.

    Raises:
      ValueError: no stage has the frame rate as a condition, or it is not positive.
    """
    models = [stage.model for stage in stages]
    check_rate(models, fps)
    time = math.prod(factors(model)[0] for model in models[1:])
    shape = dataclasses.replace(models[0].shape, fps=fps / time)
    return dataclasses.replace(stages[0], model=dataclasses.replace(models[0], shape=shape))


def story(prompt: str, frames: int | None, stages: Sequence[Stage]) -> Story:
    """Make a story of one scene.

    Args:
      prompt: what it shows.
      frames: how many the video of the last stage has; None is one clip of it.
      stages: the stages that it goes through, the one that tells it first.

    Returns:
      The story, whose scene has frames of the first stage.

    Raises:
      ValueError: the stages cannot make that number; names the nearest that they can.
    """
    models = [stage.model for stage in stages]
    time = 1
    if len(models) > 1:
        chain = Cascade(models)
        time, _ = chain.factors
        frames = chain.sized(frames=frames).shape.frames
    elif frames is not None and frames < 1:
        raise ValueError(f"--frames is {frames}; it must be 1 or more.")
    return Story(
        [Scene(prompt, frames=(frames or models[0].shape.frames) // time)],
        fit="trim",
        source="--long",
    )
