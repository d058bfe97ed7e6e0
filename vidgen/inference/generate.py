"""Prompts to video files, through one stage or a chain of them.

What a clip depends on is in `clips`. Every stage makes all clips, `batch_size` at a time, while the
weights of the next one are loaded; a last, smaller batch is filled up, so that one program is
compiled a stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen.data.video import encode as video_writer
from vidgen.imagen.cascade import Cascade
from vidgen.inference import per_stage
from vidgen.inference.clips import Clip, check_finite, check_folder, clip_key
from vidgen.inference.conditioning_inputs import Init, KnownFiles
from vidgen.inference.per_stage import PerStage
from vidgen.inference.preview import Look
from vidgen.inference.sampling_settings import Sampling, at_strength, check_negative, takes_negative
from vidgen.inference.stage_progress import StageProgress
from vidgen.inference.stages import Stage, for_text, tell_of_images
from vidgen.model import SampledModel
from vidgen.train.batches import encode_captions, is_empty
from vidgen.train.partitioning import Partitioner
from vidgen.types import Known, Params, TextEmbedding, TextEncoder

log = logging.getLogger(__name__)

BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """The `generate` run mode.

    Attributes:
      stages: what makes the clips, in the order in which they run.
      prompts: what to show, one clip (or `num_samples`) each. "" is video without text, as clips
        without a caption are in training.
      output: file to write; its suffix is the format. Several clips are numbered.
      seed: in [0, 2³²).
      num_samples: clips for each prompt.
      samples: the number of the sample of each prompt, one clip each; None: `num_samples` of all.
      batch_size: clips made at a time; fewer where there are fewer.
      sampling: what of the models' own sampling is replaced.
      checkpoint_step: which checkpoint; None is the last.
      init: the video that the first stage starts from, if it starts from one.
      known: content that every clip must have.
      negative: a prompt that guidance leads away from, of all clips; None is no text.
      strength: begin in the middle of the first stage's schedule, from `init`, with this share of
        its steps, in (0, 1); None is from noise.
      frames: how many the clips have that come out; None: what the last stage was trained for.
      size: height and width of these clips in pixels; None: likewise.
      fps: frames per second of the clips, of models that are told it; None: as they were trained.
      keep_stages: write the video of every stage.
      mesh: devices to use, and the layout over them; None is the first device alone.
      on_step: is called after every sampling step with a `preview.StepPreview`, and may raise
        `preview.StopGenerating`.
    """

    stages: Sequence[Stage]
    prompts: Sequence[str]
    output: str = "out.mp4"
    seed: int = 0
    num_samples: int = 1
    samples: tuple[int, ...] | None = None
    batch_size: int | PerStage = BATCH_SIZE
    sampling: Sampling = Sampling()
    checkpoint_step: int | PerStage | None = None
    init: Init | None = None
    known: KnownFiles | None = None
    negative: str | None = None
    strength: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    keep_stages: bool = False
    mesh: Partitioner | None = None
    on_step: Look | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError('no prompt to show: give one or more ("" is video without text).')
        sizes = [per_stage.value(self.batch_size, stage.model.name) for stage in self.stages]
        for name, value in [("num_samples", self.num_samples), *(("batch_size", n) for n in sizes)]:
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be 1 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be in 0 ... {2**32 - 1}.")
        video_writer.check_suffix(self.output)
        if Path(self.output).is_dir():
            raise ValueError(f"--output {self.output} is a folder; name a file in it.")
        if self.sampling.resample is not None and not self.known:
            raise ValueError(
                "--resample makes new content agree with known content, and there is none: give "
                "--inpaint, --first or --last."
            )
        if self.negative is not None and is_empty(self.negative):
            object.__setattr__(self, "negative", None)
        if self.negative is not None:
            check_negative(self.chain.stages)
        # What does not fit is told before anything is loaded.
        for model in self.chain.stages if self.keep_stages else self.chain.stages[-1:]:
            video_writer.check_rate(self.output, model.shape.fps)

    @functools.cached_property
    def chain(self) -> Cascade:
        """The cascade of the models, with the sampling and for the size asked for."""
        models = [self.sampling.apply(stage.model) for stage in self.stages]
        if self.strength is not None:
            models[0] = at_strength(models[0], self.strength)
        chain = Cascade(models)
        chain = chain if self.fps is None else chain.at_rate(self.fps)
        height, width = self.size or (None, None)
        wanted = {"frames": self.frames, "height": height, "width": width}
        if chain.input_shape is None and (self.init is None) != (self.strength is None):
            raise ValueError(
                "--strength says how far to change the video of --init=FILE, which is missing."
                if self.init is None
                else f"--init needs a stage that starts from a video: give --from=STAGE, since "
                f"{chain.names[0]} starts from text alone, or --strength=0.6 to change the video."
            )
        if chain.input_shape is not None and self.init is None:
            raise ValueError(
                f"stage {chain.names[0]} starts from a video: give --init=FILE, or begin with base."
            )
        if self.init is not None:
            return self.init.sized(chain, **wanted)
        return chain.sized(**wanted)

    def __call__(self) -> list[Path]:
        """Make and write all clips, and print where they are.

        Returns:
          Their files in the order of the prompts.
        """
        clips = self.clips()
        silent = self.init is not None or self.known  # a prompt was not asked for
        if not silent and any(is_empty(clip.prompt) for clip in clips):
            log.info("an empty prompt is video without text")
        check_folder(clips[0].path.parent)
        for stage in self.stages:
            stage.check(self._step_of(stage))
        last = self.chain.stages[-1]
        for model, clip, video in self.stage_videos():
            path = clip.path if model is last else clip.path_of(model.name)
            if model is not last and not self.keep_stages:
                continue
            replaced = path.exists()
            video_writer.write_video(path, video, model.shape.fps)
            if replaced:
                log.info("replaced %s", path)
            if model is last:
                print(path, flush=True)
        shape = last.shape
        log.info("%d clip(s) of %s, %.2f s", len(clips), shape.words, shape.seconds)
        return [clip.path for clip in clips]

    def clips(self) -> list[Clip]:
        """List the clips to make: all samples of the first prompt, then of the second, ...

        Returns:
          Prompt, number of the sample and file of each.
        """
        path = Path(self.output)
        wanted = [(prompt, i) for prompt in self.prompts for i in range(self.num_samples)]
        if self.samples is not None:
            wanted = list(zip(self.prompts, self.samples, strict=True))
        if len(wanted) == 1:
            return [Clip(*wanted[0], path)]
        digits = max(3, len(str(len(wanted) - 1)))
        numbered = [
            path.with_name(f"{path.stem}-{i:0{digits}}{path.suffix}") for i in range(len(wanted))
        ]
        return [Clip(prompt, i, name) for (prompt, i), name in zip(wanted, numbered, strict=True)]

    def videos(self) -> Iterator[tuple[Clip, Float[np.ndarray, "t h w c"]]]:
        """Make each of `clips`, with the frames of the last stage; nothing is written.

        Yields:
          A clip and its frames, about in [-1, 1].
        """
        for model, clip, video in self.stage_videos():
            if model is self.chain.stages[-1]:
                yield clip, video

    def stage_videos(self) -> Iterator[tuple[SampledModel, Clip, Float[np.ndarray, "t h w c"]]]:
        """Make the frames of every stage and clip, stage by stage; nothing is written.

        Yields:
          (model, clip, frames), frames about in [-1, 1].

        Raises:
          ValueError: a clip contains NaN or inf.
        """
        clips, chain = self.clips(), self.chain
        models = dict(zip(chain.names, chain.stages, strict=True))
        sizes = {name: self._batch_size(name, len(clips)) for name in chain.names}
        tell_of_images(self.stages, chain.stages)
        low_res, known = None, None
        if self.init is not None and chain.input_shape is not None:
            video = self.init.read(chain.input_shape)
            low_res = np.broadcast_to(video, (len(clips), *video.shape))
        if self.known:
            rates = {"coarse_fps": chain.stages[0].shape.fps, "array_fps": chain.shape.fps}
            known = functools.partial(self.known.at, **rates)
        prompts = [clip.prompt for clip in clips]
        bars = StageProgress(models, sizes, prompts, self.on_step)
        with contextlib.closing(bars) as progress:
            for name, start, videos in chain.generate(
                self._load,
                self._encoded(prompts),
                jnp.stack([clip_key(self.seed, clip.prompt, clip.sample) for clip in clips]),
                low_res=low_res,
                known=known,
                batch_size=sizes,
                sample=functools.partial(self._sample, progress),
            ):
                for clip, video in zip(clips[start:], videos, strict=False):
                    check_finite(name, f"the clip for {clip.prompt!r}", video)
                    yield models[name], clip, video

    def _batch_size(self, stage: str, clips: int) -> int:
        """Return the clips made at a time, a number that divides over the mesh."""
        size = min(per_stage.value(self.batch_size, stage) or BATCH_SIZE, clips)
        ways = 1 if self.mesh is None else self.mesh.batch_ways()
        return -(-size // ways) * ways

    def _step_of(self, stage: Stage) -> int | None:
        return per_stage.value(self.checkpoint_step, stage.model.name)

    def _load(self, name: str) -> Params:
        """Load the weights of a stage."""
        (stage,) = (stage for stage in self.stages if stage.model.name == name)
        return stage.load(self._step_of(stage), self.mesh)

    def _encoded(self, prompts: Sequence[str]) -> Callable[[str], TextEmbedding]:
        """Encode the prompts of all clips by the encoder of a stage; equal encoders run once.

        Each prompt is encoded alone, so that it cannot depend on the others.
        """
        seen: list[tuple[TextEncoder, TextEmbedding]] = []

        def encode(name: str) -> TextEmbedding:
            (encoder,) = (s.text_encoder for s in self.stages if s.model.name == name)
            for other, text in seen:
                if other == encoder:
                    return text
            rows = {prompt: encode_captions([prompt], encoder) for prompt in dict.fromkeys(prompts)}
            text = jax.tree.map(
                lambda *x: np.concatenate([np.asarray(a) for a in x]),
                *(rows[prompt] for prompt in prompts),
            )
            seen.append((encoder, text))
            return text

        return encode

    def _sample(
        self,
        progress: StageProgress,
        model: SampledModel,
        params: Params,
        text: TextEmbedding,
        low_res: Float[np.ndarray, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        known: Known | None,
    ) -> Float[np.ndarray, "b t h w c"]:
        """Sample one batch, on the mesh if there is one."""
        more = self._more(model, len(keys))
        with contextlib.nullcontext() if self.mesh is None else self.mesh.context():
            video = for_text(model, text, more.get("negative")).generate(
                params,
                jax.tree.map(self._placed, text),
                None if low_res is None else self._placed(low_res),
                self._placed(keys),
                on_step=progress.steps_of(model),
                known=None if known is None else jax.tree.map(self._placed, known),
                **{name: jax.tree.map(self._placed, value) for name, value in more.items()},
            )
            return np.asarray(video, np.float32)

    def _more(self, model: SampledModel, clips: int) -> dict[str, Any]:
        """Return the negative prompt and the video to begin with, of a model that takes them."""
        more: dict[str, Any] = {}
        if self.negative is not None and takes_negative(model):
            row = self._negative_of(model.name)
            more["negative"] = jax.tree.map(lambda x: np.repeat(x, clips, axis=0), row)
        if self.strength is not None and model is self.chain.stages[0]:
            video = self._init_video
            more["init"] = np.broadcast_to(video, (clips, *video.shape))
        return more

    @functools.cached_property
    def _negative_of(self) -> Callable[[str], TextEmbedding]:
        """Encodes the negative prompt by the encoder of a stage, once."""
        return self._encoded([self.negative or ""])

    @functools.cached_property
    def _init_video(self) -> Float[np.ndarray, "t h w c"]:
        """The video that the first stage begins with in the middle of its schedule."""
        assert self.init is not None
        return self.init.read(self.chain.stages[0].shape)

    def _placed(self, x: Array | np.ndarray) -> Array:
        """Put an array of a batch on the device, or lay it out over the mesh."""
        if self.mesh is None:
            # Committed to it, as the weights are: then all steps are one program.
            return jax.device_put(x, jax.local_devices()[0])
        return jax.device_put(x, self.mesh.sampling_sharding(x.shape))
