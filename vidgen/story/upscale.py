"""A film through stages of a cascade: Phenaki followed by Imagen Video's super-resolution.

A stage makes clips of T frames from T/f frames (f > 1 in time, or more pixels). Of a film of any
length it makes them chunk by chunk,

    chunk 0      frames 0 ... T
    chunk n      goes on from the last K frames of the film that comes out, which are known content
    key          fold_in(fold_in(key(seed), n), h),   h = SHA-256(stage's name)[:4]

K a multiple of f; the last chunk is filled up with copies of the last frame and cut. So memory is
that of one chunk, there is one program a stage, and no seam: what a chunk continues, it has seen.
Stages pass over the whole film one after the other. Each reads, from the disk and to the bit, what
the one before left there (`ResumableVideo`), as well as the frames that it goes on from, so that a
film that was stopped comes out as if it had not been. [guess] Phenaki names super-resolution as a
way on, and says no more of it.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from vidgen.data.video import stream, transforms
from vidgen.inference import per_stage
from vidgen.inference.per_stage import PerStage
from vidgen.inference.stages import Stage
from vidgen.model import SampledModel
from vidgen.story.film import ResumableVideo, ResumeError
from vidgen.story.film_progress import FilmProgress
from vidgen.story.segments import Segment
from vidgen.story.tell import GenerateStory, segment_key
from vidgen.train.batches import encode_captions
from vidgen.types import Known, Params, TextEmbedding, VideoShape

log = logging.getLogger(__name__)

OVERLAP = 0.25  # [guess] of a clip, the share that a chunk knows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upscale:
    """The run mode of `vidgen generate --story --upscale`.

    Attributes:
      tell: makes the film. Its output is this one's, and its seed, sampling, checkpoints and
        `restart` hold here too.
      stages: that the film goes through, in this order.
      overlap: share of a clip that a chunk knows from the chunk before, in [0, 1).
      keep_stages: leave the film of every stage: film.maskgit.mp4, film.ssr1.mp4, ...
    """

    tell: GenerateStory
    stages: Sequence[Stage]
    overlap: float = OVERLAP
    keep_stages: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"Upscale.overlap is {self.overlap}; it must be in [0, 1).")
        _check_size(self.tell.model.shape, [stage.model for stage in self.stages])
        for one in self.passes:  # what does not fit is told before anything is loaded
            stream.check_rate(self.tell.output, one.made.fps)

    @functools.cached_property
    def passes(self) -> list[Pass]:
        """One a stage, each for the film that the one before makes."""
        tell, found = self.tell, []
        film = dataclasses.replace(tell.model.shape, frames=tell.segments[-1].end_frame)
        sampling = tell.sampling
        temperature = sampling.temperature
        # One temperature for all is for the tokens.
        named = temperature.by_stage if isinstance(temperature, PerStage) else {}
        sampling = dataclasses.replace(sampling, temperature=PerStage(None, named))
        for stage in self.stages:
            time, space = _factors(stage.model)
            height, width = film.height * space, film.width * space
            shape = dataclasses.replace(stage.model.shape, height=height, width=width)
            model = dataclasses.replace(sampling.apply(stage.model), shape=shape)
            given = shape.frames // time
            known = min(math.ceil(self.overlap * given), given - 1) * time
            segments = _segments(tell, film.frames * time, shape.frames, known)
            step = per_stage.value(tell.checkpoint_step, model.name)
            found.append(
                Pass(stage=stage, model=model, film=film, segments=segments, known=known, step=step)
            )
            film = found[-1].made
        return found

    def __call__(self) -> Path:
        """Makes the film, or the rest of it; returns its file."""
        output, names = Path(self.tell.output), [self.tell.model.name]
        names += [one.model.name for one in self.passes]
        paths = [output.with_name(f"{output.stem}.{name}{output.suffix}") for name in names[:-1]]
        tell = dataclasses.replace(self.tell, output=str(paths[0]))
        for stage, step in [(tell.stage, self._step), *((p.stage, p.step) for p in self.passes)]:
            stage.check(step)
        with contextlib.ExitStack() as stack:
            identities = {one.model.name: one.identity() for one in self.passes}
            params = tell.load()
            told = tell.identity(tell.stage.identity(params))
            films = [stack.enter_context(tell.film(told))]
            for i, (one, path) in enumerate(zip(self.passes, [*paths[1:], output], strict=True)):
                known = {name: identities[name] for name in names[1 : i + 2]}
                film = one.film_at(path, {"told": told, "stages": known}, tell.restart)
                films.append(stack.enter_context(film))
            tell.fill(films[0], params)
            del params  # one stage at a time is on the device
            for one, before, film in zip(self.passes, films[:-1], films[1:], strict=True):
                one.fill(film, before, identities[one.model.name])
            path = films[-1].finish()
            for film in films[:-1]:
                film.finish() if self.keep_stages else film.discard()
        print(path, flush=True)
        made = self.passes[-1].made
        log.info(
            "%d frames of %dx%d at %g fps, %.2f s",
            *(made.frames, made.height, made.width, made.fps, made.frames / made.fps),
        )
        return path

    @property
    def _step(self) -> int | None:
        return per_stage.value(self.tell.checkpoint_step, self.tell.model.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """The way of a film through one stage.

    Attributes:
      stage: where its weights and its text encoder are.
      model: what samples: the stage's model, with the size and the sampling asked for.
      film: the film that goes in: its frames, height, width and rate.
      segments: the chunks, in frames of the film that comes out.
      known: frames that a chunk knows from the chunk before.
      step: which checkpoint; None is the last.
    """

    stage: Stage
    model: SampledModel
    film: VideoShape
    segments: Sequence[Segment]
    known: int
    step: int | None = None

    @property
    def made(self) -> VideoShape:
        """The film that comes out."""
        time, _ = _factors(self.model)
        frames, fps = self.film.frames * time, self.film.fps * time
        return dataclasses.replace(self.model.shape, frames=frames, fps=fps)

    def identity(self, params: Params | None = None) -> dict[str, Any]:
        """What the pass depends on besides the film that goes in.

        Args:
          params: the weights; None reads them, and lets go of them.
        """
        loaded = self.stage.load(self.step) if params is None else params
        return self.stage.identity(loaded) | {
            "folder": str(Path(self.stage.model_dir).resolve()),
            "step": self.step,
            "frames": self.model.shape.frames,
            "known": self.known,
            "sampler": repr(self.model.sampler),
            "guidance": repr(self.model.guidance),
        }

    def film_at(self, path: Path, identity: dict[str, Any], restart: bool) -> ResumableVideo:
        """The film that comes out, as far as it is there."""
        made = self.made
        return ResumableVideo(
            path,
            fps=made.fps,
            height=made.height,
            width=made.width,
            identity=identity,
            restart=restart,
        )

    def fill(
        self, film: ResumableVideo, before: ResumableVideo, identity: Mapping[str, Any]
    ) -> None:
        """Makes what `film` lacks of its frames from those of `before`.

        Raises:
          ResumeError: the weights are no longer those of `identity`, of which the film is made.
        """
        begin, _ = film.resume()
        if begin == len(self.segments):
            return
        name = self.model.name
        if begin:
            log.info("%s goes on from chunk %d of %d", name, begin + 1, len(self.segments))
        params, text = self.stage.load(self.step), functools.lru_cache(1)(self._text)
        if self.identity(params) != identity:
            raise ResumeError(
                f"the weights of {name} in {self.stage.model_dir} have changed since this film was "
                f"begun; choose the checkpoint with --step={name}=N, or begin anew with --restart."
            )
        with FilmProgress(list(self.segments), begin, name) as progress:
            for segment in self.segments[begin:]:
                progress.begin(segment)
                ((prompt, _),) = segment.prompts
                clip = self._clip(segment, film, before)
                video = self.model.generate(params, text(prompt), **clip, on_step=progress.step)
                video = np.asarray(video, np.float32)[0, segment.context :][: segment.frames]
                _check_finite(name, video)
                film.append(segment.index, video)
                progress.end(segment)

    def _clip(
        self, segment: Segment, film: ResumableVideo, before: ResumableVideo
    ) -> dict[str, Any]:
        """What the stage starts from in a chunk: arrays of the same shapes in all of them."""
        shape, (time, _) = self.model.shape, _factors(self.model)
        first = segment.first_frame - segment.context
        start, count = first // time, shape.frames // time
        low = before.read(start, start + count)
        low = np.concatenate([low, np.repeat(low[-1:], count - len(low), axis=0)])
        video = np.zeros((1, *shape.thwc), np.float32)
        mask = np.zeros((1, shape.frames, 1, 1, 1), bool)
        video[0, : segment.context] = transforms.to_float(film.read(first, segment.first_frame))
        mask[0, : segment.context] = True
        key = stage_key(segment_key(segment), self.model.name)
        known = Known(video=_placed(video), mask=_placed(mask))
        return {
            "low_res": _placed(transforms.to_float(low)[None]),
            "keys": _placed(key[None]),
            "known": known,
        }

    def _text(self, prompt: str) -> TextEmbedding:
        return jax.tree.map(_placed, encode_captions([prompt], self.stage.text_encoder))


def stage_key(key: Key[Array, ""], stage: str) -> Key[Array, ""]:
    """The key of a stage; see the module docstring."""
    number = int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little")
    return jax.random.fold_in(key, np.uint32(number))


def _segments(tell: GenerateStory, frames: int, clip: int, known: int) -> list[Segment]:
    """The chunks of a film of `frames` frames, each with the text of the scene it begins in."""
    told = tell.segments
    seed = tell.story.seed or 0 if tell.seed is None else tell.seed
    slower = frames // told[-1].end_frame  # frames for one that was told
    ends = [0, *range(min(clip, frames), frames, clip - known), frames]
    scenes = [
        told[bisect.bisect_right(told, first // slower, key=_first_frame) - 1].scene
        for first in ends[:-1]
    ]
    return [
        Segment(
            index=i,
            scene=scenes[i],
            part=i - bisect.bisect_left(scenes, scenes[i]),
            parts=bisect.bisect_right(scenes, scenes[i]) - bisect.bisect_left(scenes, scenes[i]),
            prompts=((tell.story.scenes[scenes[i]].prompt, 1.0),),
            seed=seed,
            draws=(i,),
            guidance=None,
            steps=None,
            context=known if i else 0,
            frames=ends[i + 1] - ends[i],
            first_frame=ends[i],
        )
        for i in range(len(scenes))
    ]


def _first_frame(segment: Segment) -> int:
    return segment.first_frame


def _factors(model: SampledModel) -> tuple[int, int]:
    """How much more a stage makes: (frames, pixels along a side)."""
    before, made = model.input_shape, model.shape
    if before is None:
        raise ValueError(
            f"--upscale: {model.name} makes video from text alone; it has no use for a film."
        )
    return made.frames // before.frames, made.height // before.height


def _check_size(film: VideoShape, models: Sequence[SampledModel]) -> None:
    """Raises ValueError, with the nearest size, where the networks cannot take such frames."""
    larger, multiple = 1, 1
    for model in models:
        larger *= _factors(model)[1]
        multiple = math.lcm(multiple, model.stride // math.gcd(model.stride, larger))
    names = ", ".join(model.name for model in models)
    for what, value in (("height", film.height), ("width", film.width)):
        if value % multiple:
            lower = value // multiple * multiple
            near = " or ".join(str(n) for n in (lower, lower + multiple) if n)
            raise ValueError(
                f"--upscale: a film of {film.height}x{film.width} does not fit {names}: its {what} "
                f"must be a multiple of {multiple}, and the nearest is {near}."
            )


def _check_finite(stage: str, video: np.ndarray) -> None:
    if not np.isfinite(video).all():
        raise ValueError(
            f"stage {stage} makes values that are no numbers: the weights in this checkpoint are "
            f"broken; use an earlier one (--step={stage}=N)."
        )


def _placed(x: Any) -> Array:
    """On the device that the weights are on: then all steps of all chunks are one program."""
    return jax.device_put(x, jax.local_devices()[0])
