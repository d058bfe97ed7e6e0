"""A video of any length through super-resolution stages: Phenaki, then Imagen Video's cascade.

A stage makes clips of T frames from T/f frames (f > 1 in time, or more pixels). Of a longer video
it makes them chunk by chunk,

    chunk 0      frames 0 ... T
    chunk n      continues the last K frames of the video that comes out, which are known content
    key          fold_in(fold_in(key(seed), n), h),   h = SHA-256(stage's name)[:4]

K is a multiple of f; the last chunk is filled up with copies of the last frame and cut. So memory
is that of one chunk, a stage is one program, and there is no seam: a chunk sees what it continues.
Stages pass over the whole video one after the other. Each reads, from the disk and to the bit, what
the one before left there (`ResumableVideo`), as well as the frames that it continues, so that a
video that was stopped comes out as if it had not been. [guess] Phenaki names super-resolution as a
next step, and says no more of it.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from vidgen.data.video import stream, transforms
from vidgen.imagen.cascade import stage_keys
from vidgen.inference import per_stage
from vidgen.inference.clips import check_finite
from vidgen.inference.per_stage import PerStage
from vidgen.inference.sampling_settings import takes_negative
from vidgen.inference.stages import Stage
from vidgen.model import SampledModel
from vidgen.story.generate_story import GenerateStory, segment_key
from vidgen.story.progress_bar import SegmentLook, StoryProgress, shown_to
from vidgen.story.resumable_video import ResumableVideo, ResumeError
from vidgen.story.segments import Segment
from vidgen.story.sliding_window import known_beginning
from vidgen.train.batches import encode_captions
from vidgen.types import Params, TextEmbedding, VideoShape

log = logging.getLogger(__name__)

T = TypeVar("T")

OVERLAP = 0.25  # [guess] share of a clip that a chunk continues


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upscale:
    """The run mode of `vidgen generate --story --upscale`.

    Attributes:
      generate: makes the video that goes in. Its output is this run's, and its seed, sampling,
        checkpoints and `restart` hold here too.
      stages: the stages that the video goes through, in this order.
      overlap: share of a clip that a chunk continues from the chunk before, in [0, 1).
      keep_stages: whether to keep the video of every stage: out.maskgit.mp4, out.ssr1.mp4, ...
    """

    generate: GenerateStory
    stages: Sequence[Stage]
    overlap: float = OVERLAP
    keep_stages: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"Upscale.overlap is {self.overlap}; it must be in [0, 1).")
        _check_size(self.generate.model.shape, [stage.model for stage in self.stages])
        for one in self.passes:  # errors come before anything is loaded
            stream.check_rate(self.generate.output, one.upscaled.fps)

    @functools.cached_property
    def passes(self) -> list[Pass]:
        """One pass a stage, each over the video that comes out of the one before."""
        generate, passes = self.generate, []
        video = dataclasses.replace(generate.model.shape, frames=generate.segments[-1].end_frame)
        # A temperature for all stages is meant for the tokens.
        temperature = generate.sampling.temperature
        named = temperature.by_stage if isinstance(temperature, PerStage) else {}
        sampling = dataclasses.replace(generate.sampling, temperature=PerStage(None, named))
        for stage in self.stages:
            time, space = factors(stage.model)
            height, width = video.height * space, video.width * space
            rate = video.fps * time  # which the network may be told
            shape = dataclasses.replace(stage.model.shape, height=height, width=width, fps=rate)
            model = sampling.apply(stage.model)
            low_res_frames = shape.frames // time
            known = min(math.ceil(self.overlap * low_res_frames), low_res_frames - 1) * time
            one = Pass(
                stage=stage,
                model=dataclasses.replace(model, shape=shape),
                video=video,
                segments=_chunks(generate, video.frames * time, shape.frames, known),
                known=known,
                step=per_stage.value(generate.checkpoint_step, model.name),
            )
            passes.append(one)
            video = one.upscaled
        return passes

    def __call__(self) -> Path:
        """Make the video, or the rest of it, and print where it is.

        Returns:
          The path of the video.
        """
        path = self.write()
        print(path, flush=True)
        shape = self.passes[-1].upscaled
        log.info("%s, %.2f s", shape.words, shape.seconds)
        return path

    def write(self) -> Path:
        """Make the video, or the rest of it, and print nothing.

        Returns:
          The path of the video.

        Raises:
          ResumeError: an unfinished video of this name has another identity, or weights have
            changed.
        """
        output, names = Path(self.generate.output), [self.generate.model.name]
        names += [one.model.name for one in self.passes]
        paths = [output.with_name(f"{output.stem}.{name}{output.suffix}") for name in names[:-1]]
        generate = dataclasses.replace(self.generate, output=str(paths[0]))
        generate.stage.check(per_stage.value(generate.checkpoint_step, names[0]))
        for one in self.passes:
            one.stage.check(one.step)
        with contextlib.ExitStack() as stack:
            identities = {one.model.name: one.identity() for one in self.passes}
            params = generate.load()
            base_identity = generate.identity(generate.stage.identity(params))
            videos = [stack.enter_context(generate.open(base_identity))]
            for i, (one, path) in enumerate(zip(self.passes, [*paths[1:], output], strict=True)):
                stages = {name: identities[name] for name in names[1 : i + 2]}
                video = one.open(path, {"told": base_identity, "stages": stages}, generate.restart)
                videos.append(stack.enter_context(video))
            generate.fill(videos[0], params, names)
            del params  # one stage at a time is on the device
            for one, before, video in zip(self.passes, videos[:-1], videos[1:], strict=True):
                look = shown_to(generate.on_step, one.model, one.segments, names)
                one.fill(video, before, identities[one.model.name], look)
            path = videos[-1].finish()
            for video in videos[:-1]:
                video.finish() if self.keep_stages else video.discard()
        return path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """One stage's pass over a video.

    Attributes:
      stage: where its weights and its text encoder are.
      model: the stage's model, with the size and the sampling that were asked for.
      video: the video that goes in: its frames, height, width and rate.
      segments: the chunks, in frames of the video that comes out.
      known: number of frames that a chunk continues from the chunk before.
      step: which checkpoint; None is the last.
    """

    stage: Stage
    model: SampledModel
    video: VideoShape
    segments: Sequence[Segment]
    known: int
    step: int | None = None

    @property
    def upscaled(self) -> VideoShape:
        """The video that comes out."""
        time, _ = factors(self.model)
        return dataclasses.replace(self.model.shape, frames=self.video.frames * time)

    def identity(self, params: Params | None = None) -> dict[str, Any]:
        """Collect all that the pass depends on besides the video that goes in.

        Args:
          params: the loaded weights; None loads them for this.

        Returns:
          Plain data that JSON can hold; a video is continued only where it is the same.
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

    def open(self, path: Path, identity: Mapping[str, Any], restart: bool) -> ResumableVideo:
        """Open the video that comes out, as far as it is finished.

        Args:
          path: its file; the suffix is the format.
          identity: the identity of the video that goes in and of all stages up to this one.
          restart: remove an unfinished video of the same name.

        Returns:
          The video, for a `with` block.

        Raises:
          ResumeError: the unfinished video has another identity, or another process makes it.
        """
        return ResumableVideo(path, self.upscaled, identity=identity, restart=restart)

    def fill(
        self,
        video: ResumableVideo,
        before: ResumableVideo,
        identity: Mapping[str, Any],
        look: SegmentLook | None = None,
    ) -> None:
        """Make the chunks that a video lacks.

        Args:
          video: the one that comes out, as `open` returned it.
          before: the one that goes in, finished.
          identity: the identity of this stage, as `identity` returned it when the video was opened.
          look: is called after every sampling step; None is nobody.

        Raises:
          ResumeError: the weights are no longer those of `identity`, of which the video is made.
          ValueError: the output contains NaN or inf.
        """
        begin, _ = video.resume()
        if begin == len(self.segments):
            return
        name = self.model.name
        if begin:
            log.info("%s goes on from chunk %d of %d", name, begin + 1, len(self.segments))
        params, text = self.stage.load(self.step), functools.lru_cache(2)(self._text)
        if self.identity(params) != identity:
            raise ResumeError(
                f"the weights of {name} in {self.stage.model_dir} have changed since this video "
                f"was begun; choose the checkpoint with --step={name}=N, or begin anew with "
                "--restart."
            )
        with StoryProgress(self.segments, begin, name, look) as progress:
            for segment in self.segments[begin:]:
                progress.begin(segment)
                ((prompt, _),) = segment.prompts
                inputs = self._inputs(segment, video, before)
                if segment.negative is not None and takes_negative(self.model):
                    inputs["negative"] = text(segment.negative)
                clip = self.model.generate(params, text(prompt), **inputs, on_step=progress.step)
                frames = np.asarray(clip, np.float32)[0, segment.context :][: segment.frames]
                check_finite(name, "the output", frames)
                video.append(segment.index, frames)
                progress.end(segment)

    def _inputs(
        self, segment: Segment, video: ResumableVideo, before: ResumableVideo
    ) -> dict[str, Any]:
        """Read what a chunk is made from: arrays whose shapes are the same in all chunks."""
        shape, (time, _) = self.model.shape, factors(self.model)
        first = segment.first_frame - segment.context
        start, count = first // time, shape.frames // time
        low_res = before.read(start, start + count)
        low_res = np.concatenate([low_res, np.repeat(low_res[-1:], count - len(low_res), axis=0)])
        known = transforms.to_float(video.read(first, segment.first_frame))
        inputs = {
            "low_res": transforms.to_float(low_res)[None],
            "keys": stage_keys(segment_key(segment)[None], self.model.name),
            "known": known_beginning(shape, known),
        }
        return _on_device(inputs)

    def _text(self, prompt: str) -> TextEmbedding:
        return _on_device(encode_captions([prompt], self.stage.text_encoder))


def _chunks(generate: GenerateStory, frames: int, clip: int, known: int) -> list[Segment]:
    """Cut so many frames into chunks, each with the prompt of the scene in which it begins."""
    base_segments, story = generate.segments, generate.story
    seed = story.seed or 0 if generate.seed is None else generate.seed
    slower = frames // base_segments[-1].end_frame  # frames that come out for one that goes in
    ends = [0, *range(min(clip, frames), frames, clip - known), frames]
    begins = [segment.first_frame for segment in base_segments]
    scenes = [
        base_segments[bisect.bisect_right(begins, end // slower) - 1].scene for end in ends[:-1]
    ]
    scene_of = {segment.scene: segment for segment in base_segments}
    return [
        Segment(
            index=i,
            scene=scene,
            part=i - scenes.index(scene),
            parts=scenes.count(scene),
            prompts=((story.scenes[scene].prompt, 1.0),),
            seed=seed,
            draws=(i,),
            guidance=None,
            steps=None,
            context=known if i else 0,
            frames=ends[i + 1] - ends[i],
            first_frame=ends[i],
            negative=generate.negative_of(scene_of[scene]),
        )
        for i, scene in enumerate(scenes)
    ]


def factors(model: SampledModel) -> tuple[int, int]:
    """Return how many times as many frames, and pixels along a side, a stage makes.

    Args:
      model: a stage that makes video from video.

    Returns:
      The factors of time and of space.

    Raises:
      ValueError: it makes video from text alone.
    """
    before, after = model.input_shape, model.shape
    if before is None:
        raise ValueError(
            f"--upscale={model.name}: this model makes video from text alone; name stages that "
            "up-sample."
        )
    return after.frames // before.frames, after.height // before.height


def _check_size(video: VideoShape, models: Sequence[SampledModel]) -> None:
    """Raise ValueError, with the nearest size, where the networks cannot take such frames."""
    larger, multiple = 1, 1
    for model in models:
        larger *= factors(model)[1]
        multiple = math.lcm(multiple, model.stride // math.gcd(model.stride, larger))
    names = ", ".join(model.name for model in models)
    for side, value in (("height", video.height), ("width", video.width)):
        if value % multiple:
            lower = value // multiple * multiple
            near = " or ".join(str(n) for n in (lower, lower + multiple) if n)
            raise ValueError(
                f"--upscale: a video of {video.height}x{video.width} does not fit {names}: its "
                f"{side} must be a multiple of {multiple}, and the nearest is {near}."
            )


def _on_device(tree: T) -> T:
    """Put arrays on the device that the weights are on: all chunks then run the same program."""
    device = jax.local_devices()[0]
    return jax.tree.map(lambda x: jax.device_put(x, device), tree)
