"""A story to a film of any length, segment by segment, each going on from the one before.

A segment depends on (seed, its number, its prompts, weights, settings) and on the film's last
frames. Its key is key(seed) with its draws folded in (story_plan.py). The film grows on the disk as
segments finish, memory does not; one that was stopped goes on with the same command, and comes out
as if it had not been.

In a transition the model mixes its guided predictions for both prompts (diffusion/guidance.py),
which takes twice the time. [guess] Phenaki does not say how it passes from one prompt to the next.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen.data.content_hash import content_hash
from vidgen.data.video import stream
from vidgen.data.video.footage import FootageError
from vidgen.inference import per_stage
from vidgen.inference.per_stage import PerStage
from vidgen.inference.stages import Sampling, Stage
from vidgen.model import SampledModel
from vidgen.story import first_frames
from vidgen.story import segments as story_plan
from vidgen.story.film import ResumableVideo
from vidgen.story.film_progress import FilmProgress
from vidgen.story.script import FirstFrames, Story
from vidgen.story.segments import Segment
from vidgen.train.batches import encode_captions
from vidgen.types import Known, Params, TextEmbedding, TextMix

log = logging.getLogger(__name__)

CONTEXT_FRAMES = 5  # what Phenaki usually takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateStory:
    """The run mode of `vidgen generate --story`.

    Attributes:
      stage: what makes the clips; its model must keep known frames.
      narrate: slides the context along (story/sliding_window.py).
      story: what to tell.
      output: file to write; its suffix is the format.
      seed: of all scenes, whatever the story says; None leaves it what it says, or 0.
      context_frames: last frames of the film that a segment knows; the model takes some numbers
        only, and says which.
      first: a picture or a video that the film goes on from.
      sampling: what of the model's own sampling is replaced, and of the scenes'.
      checkpoint_step: which checkpoint; None is the last.
      restart: throw away an unfinished film of that name.
    """

    stage: Stage
    narrate: Callable[..., Any]
    story: Story
    output: str = "out.mp4"
    seed: int | None = None
    context_frames: int = CONTEXT_FRAMES
    first: FirstFrames | None = None
    sampling: Sampling = Sampling()
    checkpoint_step: int | PerStage | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be in 0 ... {2**32 - 1}.")
        # A story that does not fit, or a format, is told before anything is loaded.
        stream.check_streamable(self.output)
        stream.check_rate(self.output, self.model.shape.fps)
        for segment in self.segments:
            self._model_of(segment)

    @functools.cached_property
    def model(self) -> SampledModel:
        """The model with the sampling asked for."""
        return self.sampling.apply(self.stage.model)

    @functools.cached_property
    def segments(self) -> list[Segment]:
        """The parts that are made one after the other."""
        shape = self.model.shape
        given = 0 if self._beginning is None else len(self._beginning)
        return story_plan.plan(
            self.story,
            shape.frames,
            self.context_frames,
            self.model.patch_time,
            shape.fps,
            given_frames=given,
            seed=self.seed,
        )

    @functools.cached_property
    def _beginning(self) -> Float[np.ndarray, "k h w c"] | None:
        """The frames that the film goes on from."""
        first = self.first or self.story.first
        if first is None:
            return None
        try:
            return first_frames.read(
                first, self.model.shape, self.context_frames, self.model.patch_time
            )
        except FootageError as error:
            raise ValueError(f"the film cannot begin with {error}") from error

    def __call__(self) -> Path:
        """Makes the film, or the rest of it, and says where it is; returns its file."""
        path = self.write()
        print(path, flush=True)
        shape, frames = self.model.shape, self.segments[-1].end_frame
        log.info(
            "%d scene(s), %d frames of %dx%d at %g fps, %.2f s",
            *(len(self.story.scenes), frames, shape.height, shape.width),
            *(shape.fps, frames / shape.fps),
        )
        return path

    def write(self) -> Path:
        """Makes the film, or the rest of it; returns its file."""
        params = self.load()  # once: those that the film says it is made of
        with self.film(self.identity(self.stage.identity(params))) as film:
            self.fill(film, params)
            return film.finish()

    def load(self) -> Params:
        """The weights of the stage."""
        self.stage.check(self._step)
        return self.stage.load(self._step)

    @property
    def _step(self) -> int | None:
        return per_stage.value(self.checkpoint_step, self.model.name)

    def identity(self, made_by: Mapping[str, Any]) -> dict[str, Any]:
        """What the film depends on, made by the stage with that `Stage.identity`."""
        first = self.first or self.story.first
        where = {"folder": str(Path(self.stage.model_dir).resolve()), "step": self._step}
        return {
            "story": self.story.identity(),
            "model": where | dict(made_by),
            "settings": {
                "seed": self.seed,
                "context": self.context_frames,
                "first": first and dataclasses.asdict(first),
                "content of first": first and content_hash(first.path),
                "sampling": repr(self.sampling),
                "sampler": repr(self.model.sampler),
                "guidance": repr(self.model.guidance),
            },
        }

    def film(self, identity: Mapping[str, Any]) -> ResumableVideo:
        """The film as far as it is there."""
        shape = self.model.shape
        return ResumableVideo(
            self.output,
            fps=shape.fps,
            height=shape.height,
            width=shape.width,
            identity=identity,
            restart=self.restart,
        )

    def fill(self, film: ResumableVideo, params: Params) -> None:
        """Makes what `film` lacks of its frames, with these weights of the stage."""
        begin, state = film.resume()
        if begin == len(self.segments):
            return
        if begin:
            log.info("going on from segment %d of %d", begin + 1, len(self.segments))
        context = self._beginning if state is None else state["context"]
        self._make(film, params, begin, context)

    def _make(
        self, film: ResumableVideo, params: Params, begin: int, context: np.ndarray | None
    ) -> None:
        """All segments from number `begin` on."""
        with FilmProgress(self.segments, begin) as progress:

            def make(segment: Segment, known: Known) -> Any:
                progress.begin(segment)
                return self._model_of(segment).generate(
                    params,
                    self._text(segment.prompts),
                    None,
                    segment_key(segment)[None],
                    on_step=progress.step,
                    known=known,
                )

            for told in self.narrate(
                self.segments[begin:],
                make,
                shape=self.model.shape,
                context_frames=self.context_frames,
                context=context,
            ):
                film.append(told.segment.index, told.frames, {"context": told.context})
                progress.end(told.segment)

    def _model_of(self, segment: Segment) -> SampledModel:
        """The model with the sampling that the scene asks for, and the run, which wins."""
        if segment.guidance is None and segment.steps is None:
            return self.model
        guidance = None if segment.guidance is None else float(segment.guidance)
        scene = Sampling(guidance=guidance, steps=segment.steps)
        return self.sampling.apply(scene.apply(self.stage.model))

    def _text(self, prompts: Sequence[tuple[str, float]]) -> TextEmbedding | TextMix:
        """The text of a segment, of two prompts in a transition."""
        texts = [encode_captions([prompt], self.stage.text_encoder) for prompt, _ in prompts]
        if len(texts) == 1:
            return texts[0]
        (first, second), weight = texts, np.array([prompts[1][1]], np.float32)
        return TextMix(first=first, second=second, weight=jnp.asarray(weight))


def segment_key(segment: Segment) -> Key[Array, ""]:
    """The random key of a segment; see the module docstring."""
    return functools.reduce(jax.random.fold_in, segment.draws, jax.random.key(segment.seed))
