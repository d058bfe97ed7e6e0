"""A story to a video of any length, segment by segment (Phenaki, sections 2.2 and 3.3).

A segment depends on its seed, number, prompts, weights and settings, and on the last frames of the
video so far. Its key is key(seed) with the segment's draws folded in (`Segment.draws`). The video
grows on the disk as segments finish, memory does not; one that was stopped goes on with the same
command, and comes out as if it had not been stopped.

In a transition the model mixes its guided predictions for both prompts (diffusion/guidance.py),
which takes twice the time. [guess] Phenaki does not say how it passes from one prompt to the next.
Text states are not mixed, since a layer norm over each state undoes the weight: with 0.01 of a
second prompt `phenaki_demo` lay .38 nats from the first (guidance 2, all masked), and with mixed
predictions .0000, then .04, .31, 2.28 and 15.62 at weights of 1/4, 1/2, 3/4 and 1.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
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
from vidgen.inference.preview import Look
from vidgen.inference.sampling_settings import Sampling, check_negative
from vidgen.inference.stages import Stage
from vidgen.model import SampledModel
from vidgen.story.first_frames import read_first_frames
from vidgen.story.progress_bar import StoryProgress, shown_to
from vidgen.story.resumable_video import ResumableVideo
from vidgen.story.script import FirstFrames, Story
from vidgen.story.segments import Segment, plan
from vidgen.story.sliding_window import generate_segments
from vidgen.train.batches import encode_captions, is_empty
from vidgen.types import Known, Params, TextEmbedding, TextMix

log = logging.getLogger(__name__)

CONTEXT_FRAMES = 5  # what Phenaki usually takes (section 2.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateStory:
    """The run mode of `vidgen generate --story`.

    Attributes:
      stage: the trained model that makes the clips; it must keep known frames.
      story: the scenes.
      output: file to write; its suffix is the format.
      seed: seed of all scenes, whatever the story says; None leaves it to the story, or is 0.
      context_frames: last frames of the video that a segment continues; the model takes 1 + a
        multiple of its patch. None: as many as the model was trained to go on from, or 5.
      first: a picture or a video that the story continues, in place of `story.first`.
      negative: a prompt that guidance leads away from in all scenes, whatever the story says.
      sampling: settings that replace the model's own and the scenes'.
      checkpoint_step: which checkpoint; None is the last.
      restart: remove an unfinished video of the same name.
      on_step: is called after every sampling step with a `preview.StepPreview`, and may raise
        `preview.StopGenerating`: the film then goes on from its last whole segment.
    """

    stage: Stage
    story: Story
    output: str = "out.mp4"
    seed: int | None = None
    context_frames: int | None = None
    first: FirstFrames | None = None
    negative: str | None = None
    sampling: Sampling = Sampling()
    checkpoint_step: int | PerStage | None = None
    restart: bool = False
    on_step: Look | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be in 0 ... {2**32 - 1}.")
        # Errors in the story or the format come before anything is loaded.
        learned = self.model.continues
        if learned is not None and self.context > learned:
            raise ValueError(
                f"the context is {self.context} frames, and {self.model.name} was trained to go on "
                f"from at most {learned}; give --context={learned} or less."
            )
        stream.check_streamable(self.output)
        stream.check_rate(self.output, self.model.shape.fps)
        for segment in self.segments:
            model = self._model_of(segment)
            if self.negative_of(segment) is not None:
                check_negative([model])

    @functools.cached_property
    def model(self) -> SampledModel:
        """The model with the sampling of this run."""
        return self.sampling.apply(self.stage.model)

    @property
    def context(self) -> int:
        """The number of frames that a segment continues."""
        if self.context_frames is not None:
            return self.context_frames
        return self.model.continues or CONTEXT_FRAMES

    @functools.cached_property
    def segments(self) -> list[Segment]:
        """The segments of the story, in the order in which they are made."""
        return plan(
            self.story,
            self.model.shape.frames,
            self.context,
            self.model.patch_time,
            self.model.shape.fps,
            given_frames=0 if self._beginning is None else len(self._beginning),
            seed=self.seed,
        )

    @functools.cached_property
    def _beginning(self) -> Float[np.ndarray, "k h w c"] | None:
        """The frames that the story continues."""
        first = self.first or self.story.first
        if first is None:
            return None
        try:
            return read_first_frames(first, self.model.shape, self.context, self.model.patch_time)
        except FootageError as error:
            raise ValueError(f"the video cannot begin with {error}") from error

    def __call__(self) -> Path:
        """Make the video, or the rest of it, and print where it is.

        Returns:
          The path of the video.
        """
        path = self.write()
        print(path, flush=True)
        shape = dataclasses.replace(self.model.shape, frames=self.segments[-1].end_frame)
        log.info("%d scene(s), %s, %.2f s", len(self.story.scenes), shape.words, shape.seconds)
        return path

    def write(self) -> Path:
        """Make the video, or the rest of it, and print nothing.

        Returns:
          The path of the video.

        Raises:
          ResumeError: the unfinished video of this name has another identity.
        """
        params = self.load()  # once: the identity is that of these weights
        with self.open(self.identity(self.stage.identity(params))) as video:
            self.fill(video, params)
            return video.finish()

    def load(self) -> Params:
        """Load the weights of the stage.

        Returns:
          The parameters that the model generates with.

        Raises:
          FileNotFoundError: there is no such checkpoint.
        """
        self.stage.check(self._step)
        return self.stage.load(self._step)

    @property
    def _step(self) -> int | None:
        return per_stage.value(self.checkpoint_step, self.model.name)

    def identity(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """Collect all that the video depends on.

        Args:
          stage: what `Stage.identity` says of the loaded weights.

        Returns:
          Plain data that JSON can hold; a video is continued only where it is the same.
        """
        first = self.first or self.story.first
        where = {"folder": str(Path(self.stage.model_dir).resolve()), "step": self._step}
        return {
            "story": self.story.identity(),
            "model": where | dict(stage),
            "settings": {
                "seed": self.seed,
                "negative": self.negative,
                "context": self.context,
                "first": first and dataclasses.asdict(first),
                "content of first": first and content_hash(first.path),
                "sampling": repr(self.sampling),
                "sampler": repr(self.model.sampler),
                "guidance": repr(self.model.guidance),
            },
        }

    def open(self, identity: Mapping[str, Any]) -> ResumableVideo:
        """Open the video of this identity, as far as it is finished.

        Args:
          identity: as `identity` returns it.

        Returns:
          The video, for a `with` block.

        Raises:
          ResumeError: the unfinished video of this name has another identity, or another process
            makes it.
        """
        return ResumableVideo(
            self.output, self.model.shape, identity=identity, restart=self.restart
        )

    def fill(
        self, video: ResumableVideo, params: Params, stages: Sequence[str] | None = None
    ) -> None:
        """Make the segments that a video lacks.

        Args:
          video: what `open` returned.
          params: the weights of the stage.
          stages: names of those that the video passes through, this one first; None is this alone.
        """
        begin, context = video.resume()
        if begin == len(self.segments):
            return
        if begin:
            log.info("going on from segment %d of %d", begin + 1, len(self.segments))
        look = shown_to(self.on_step, self.model, self.segments, stages or (self.model.name,))
        with StoryProgress(self.segments, begin, look=look) as progress:

            def make_clip(segment: Segment, known: Known) -> Float[Array, "1 t h w c"]:
                progress.begin(segment)
                return self._model_of(segment).generate(
                    params,
                    self._text(segment.prompts),
                    None,
                    segment_key(segment)[None],
                    on_step=progress.step,
                    known=known,
                    **self._away(segment),
                )

            for new in generate_segments(
                self.segments[begin:],
                make_clip,
                shape=self.model.shape,
                context_frames=self.context,
                context=context if begin else self._beginning,
            ):
                video.append(new.segment.index, new.frames, new.context)
                progress.end(new.segment)

    def _model_of(self, segment: Segment) -> SampledModel:
        """Return the model with the sampling of the segment's scene, and of the run, which wins."""
        if segment.guidance is None and segment.steps is None:
            return self.model
        guidance = None if segment.guidance is None else float(segment.guidance)
        scene = Sampling(guidance=guidance, steps=segment.steps)
        return self.sampling.apply(scene.apply(self.stage.model))

    def negative_of(self, segment: Segment) -> str | None:
        """Return the prompt that guidance leads away from in a segment.

        Args:
          segment: a segment of this story.

        Returns:
          The run's prompt, or else the scene's; None where there is none or it has no word.
        """
        negative = segment.negative if self.negative is None else self.negative
        return None if negative is None or is_empty(negative) else negative

    def _away(self, segment: Segment) -> dict[str, Any]:
        negative = self.negative_of(segment)
        if negative is None:
            return {}
        return {"negative": encode_captions([negative], self.stage.text_encoder)}

    def _text(self, prompts: Sequence[tuple[str, float]]) -> TextEmbedding | TextMix:
        """Encode the text of a segment, of two prompts in a transition."""
        texts = [encode_captions([prompt], self.stage.text_encoder) for prompt, _ in prompts]
        if len(texts) == 1:
            return texts[0]
        (first, second), weight = texts, np.array([prompts[1][1]], np.float32)
        return TextMix(first=first, second=second, weight=jnp.asarray(weight))


def segment_key(segment: Segment) -> Key[Array, ""]:
    """Derive the random key of a segment (see the module's docstring).

    Args:
      segment: its seed and its draws.

    Returns:
      The key of its noise.
    """
    return functools.reduce(jax.random.fold_in, segment.draws, jax.random.key(segment.seed))
