"""A trained model as an object: clips, films, up-sampling, reconstruction and metrics of it.

Its keywords are flags of the command, which says what they mean, and its results are the command's.
Weights are read at the first call and stay in memory as long as the object does.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidgen.cli import (
    evaluate_command,
    evaluate_flags,
    generate_command,
    generate_flags,
    keywords,
    startup,
)
from vidgen.config.gin_sessions import Sessions
from vidgen.data.video import transforms
from vidgen.data.video.footage import open_footage
from vidgen.display.generated import Clip, Clips, Film
from vidgen.display.sheets import SceneRow
from vidgen.imagen.conditioning import Upsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import stages, upscale_stages
from vidgen.inference.generate import Generate
from vidgen.inference.loaded import Tokenizer
from vidgen.inference.preview import Look
from vidgen.inference.stages import Stage
from vidgen.model import TokenizerModel
from vidgen.story.upscale import Upscale
from vidgen.types import TextEmbedding

Video = Clip | np.ndarray | str | os.PathLike  # frames "t h w c", float in [-1, 1] or uint8; a file
# Flags that say where things lie, which a call says itself.
_NOT_HERE = frozenset(
    ("model", "until", "first_stage", "prompts_file", "output", "keep_stages", "restart")
)
_FILES = ("init", "first", "last", "inpaint", "mask")
_OF_STORIES = frozenset(("context", "long", "story", "upscale", "upscale_model"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a loaded model comes from: what `vidgen.load` was called with.

    Attributes:
      model: folder or name.
      first: the first stage.
      until: the last.
      gin_files: as --gin_file.
      bindings: NAME=VALUE, as --gin.NAME=VALUE.
    """

    model: str
    first: str | None
    until: str | None
    gin_files: list[str]
    bindings: list[str]


class LoadedModel:
    """Trained stages that run one after the other, and keep their weights in memory; see `load`."""

    def __init__(
        self, source: Origin, trained: Sequence[Stage], sessions: Sessions, tokenizer: Any = None
    ) -> None:
        """Keep what `load` builds: stages as `vidgen generate` has them, or a tokenizer alone."""
        self._source, self._stages, self._sessions = source, tuple(trained), sessions
        self._tokenizer: Tokenizer | None = tokenizer

    def __repr__(self) -> str:
        return f"LoadedModel({self._source.model!r}: {' -> '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in the order in which they run."""
        if not self._stages and self._tokenizer is not None:
            return (self._tokenizer.model.name,)
        return tuple(stage.model.name for stage in self._stages)

    def generate(
        self,
        prompts: str | Sequence[str] = (),
        *,
        long: bool = False,
        on_step: Look | None = None,
        **flags: Any,
    ) -> Clips:
        """Make clips of these prompts; nothing is written.

        Args:
          prompts: one, or several; there may be none where a flag names a video or frames to begin
            with, such as init.
          long: make one video of any number of `frames`, chunk by chunk, as --long.
          on_step: is called after every sampling step with a `StepPreview`
            (vidgen/inference/preview.py), and may end the call by raising `StopGenerating`.
          **flags: of `vidgen generate`, such as seed=1 or steps=32. init, first, last, inpaint and
            mask also take clips and frames "t h w c", float in [-1, 1] or uint8, and a mask may be
            bool, "h w" or "t h w", True where a part is generated anew.

        Returns:
          The clips of every stage, "b t h w c" in [-1, 1], with their prompts and frame rates.

        Raises:
          ValueError: an unknown flag, or a value that does not fit.
        """
        if not long:
            return self._generated(self._makers(), prompts, on_step, flags)
        film = self._film({**flags, "prompts": _listed(prompts), "long": True}, on_step)
        last, videos = self.names[-1], film.video[None]
        return Clips(prompts=(film.prompt,), stages={last: videos}, rates={last: film.fps})

    def upscale(
        self,
        video: Video,
        prompts: str | Sequence[str] = (),
        *,
        first: str | None = None,
        until: str | None = None,
        on_step: Look | None = None,
        **flags: Any,
    ) -> Clips:
        """Send a video through the super-resolution stages, as --from=STAGE --init=FILE.

        Args:
          video: a file, a clip, or frames "t h w c", float in [-1, 1] or uint8.
          prompts: what the video shows; none is video without text.
          first: the first of these stages; None: the first that starts from a video.
          until: the last; None: the last that the model has.
          on_step: as in `generate`.
          **flags: of `vidgen generate`, such as init_size="own", which keeps the video's own size.

        Returns:
          The clips of every stage that ran, as `generate` returns them.

        Raises:
          ValueError: there is no such stage, an unknown flag, or a value that does not fit.
        """
        wanted = [stage for stage in self._makers() if stage.model.input_shape is not None]
        names = [stage.model.name for stage in wanted]
        if not names:
            raise ValueError(f"{', '.join(self.names)}: no stage that starts from a video.")
        for name in (first, until):
            if name is not None and name not in names:
                raise ValueError(f"no stage {name!r} up-samples here; choose {', '.join(names)}.")
        begin = 0 if first is None else names.index(first)
        end = len(names) if until is None else names.index(until) + 1
        if end <= begin:
            raise ValueError(f"until={until!r} comes before first={first!r}; swap them.")
        return self._generated(wanted[begin:end], prompts, on_step, flags | {"init": video})

    def compare(
        self, prompt: str, flag: str, values: Sequence[Any], **flags: Any
    ) -> dict[str, Float[np.ndarray, "t h w c"]]:
        """Make a clip for each value of one flag, all from the same noise.

        Args:
          prompt: the prompt of all clips.
          flag: the flag that is varied, such as "guidance".
          values: its values, one a clip.
          **flags: of `vidgen generate`, the same for all clips.

        Returns:
          The last stage's clips in [-1, 1] by "flag value", such as "guidance 2".

        Raises:
          ValueError: an unknown flag, or a value that does not fit.
        """
        return {
            f"{flag} {value}": self.generate(prompt, **{flag: value}, **flags).video[0]
            for value in values
        }

    def story(self, story: str | os.PathLike, *, on_step: Look | None = None, **flags: Any) -> Film:
        """Make a film of a story, by the first stage, which the others up-sample.

        Args:
          story: a file, or "scene one. then scene two.".
          on_step: as in `generate`.
          **flags: of `vidgen generate --story`.

        Returns:
          The film "t h w c" in [-1, 1], and from which frame to which each scene goes.

        Raises:
          ValueError: an unknown flag, a story that does not fit, or a model that tells none.
        """
        return self._film(flags | {"story": os.fspath(story)}, on_step)

    def _film(self, wanted: Mapping[str, Any], on_step: Look | None) -> Film:
        """Make the video of a --story or of --long, as the command does, and read it."""
        with tempfile.TemporaryDirectory() as folder:
            wanted = _frames_as_files(wanted, Path(folder))
            parsed = keywords.as_flags(generate_flags.add, wanted, _NOT_HERE)
            parsed.output, parsed.on_step = os.path.join(folder, "film.npy"), on_step
            fields = generate_flags.story_settings(parsed)
            later = upscale_stages.find(parsed.upscale, self._source.model, parsed.upscale_model)
            raising = [stages.build_trained(self._sessions, Stage, folder) for folder in later]
            upscale_stages.check_names(raising, later, parsed.upscale)
            trained = self._makers()[:1] if raising else self._makers()
            made = generate_command.story_run(parsed, self._sessions, trained, raising, fields)
            self._sessions.check_bindings()
            video = transforms.to_float(np.load(made.write()))
        run = made.generate if isinstance(made, Upscale) else made
        begins = [part.first_frame for part in run.segments if part.part == 0]
        slower = len(video) // run.segments[-1].end_frame
        ends = [*begins[1:], run.segments[-1].end_frame]
        scenes = zip((scene.prompt for scene in run.story.scenes), begins, ends, strict=True)
        return Film(
            video=video,
            fps=float(run.model.shape.fps * slower),
            prompt=". then ".join(scene.prompt for scene in run.story.scenes),
            scenes=tuple(
                SceneRow(text, begin * slower, end * slower) for text, begin, end in scenes
            ),
        )

    def reconstruct(self, video: Video) -> Clip:
        """Encode a video with the model's tokenizer, and decode its tokens.

        Args:
          video: a clip, or frames "t h w c" of 1 + k patches, float in [-1, 1] or uint8; of a file,
            as many frames as the model has, cropped and resized.

        Returns:
          The decoded clip in [-1, 1], at the frame rate of the model.

        Raises:
          ValueError: the model has no tokenizer, or the video does not fit its patches.
        """
        tokenizer = self._encoder()
        shape = tokenizer.model.shape
        if isinstance(video, (str, os.PathLike)):
            frames = open_footage(video).at_rate(shape.fps).read(shape)
        else:
            frames = _as_float(video)
        (decoded,) = tokenizer.reconstruct(frames[None])
        prompt = video.prompt if isinstance(video, Clip) else ""
        return Clip(video=decoded, fps=float(shape.fps), prompt=prompt)

    def tokens(self, film: Clip | np.ndarray) -> Int[np.ndarray, "gt gh gw"]:
        """Encode a clip with the model's tokenizer.

        Args:
          film: a clip, or frames "t h w c" of 1 + k patches, float in [-1, 1] or uint8.

        Returns:
          The codes, 0 ... codes - 1.

        Raises:
          ValueError: the model has no tokenizer, or the film does not fit its patches.
        """
        return self._encoder().encode(_as_float(film)[None])[0]

    def augmented(
        self, video: Float[np.ndarray, "b t h w c"], *, logsnr: float | None = None, seed: int = 0
    ) -> Float[np.ndarray, "b t2 h2 w2 c"]:
        """Noise and up-sample small videos, as they enter the network of the first stage.

        Args:
          video: clips as the stage before makes them, in [-1, 1].
          logsnr: level of the noise; None is the stage's own.
          seed: seed of the noise.

        Returns:
          Clips of the size that the stage makes; noise goes beyond [-1, 1].

        Raises:
          ValueError: the stage starts from text alone.
        """
        stage = self._makers()[0].model
        conditioner = stage.conditioner if isinstance(stage, DiffusionStage) else None
        if not isinstance(conditioner, Upsample):
            raise ValueError(f"{stage.name} starts from text alone; load a later stage.")
        if logsnr is not None:
            level = dataclasses.replace(conditioner.augmentation, sampling_logsnr=logsnr)
            conditioner = dataclasses.replace(conditioner, augmentation=level)
        count = len(video)
        nothing = TextEmbedding(tokens=jnp.zeros((count, 1, 1)), mask=jnp.zeros((count, 1), bool))
        keys = jax.random.split(jax.random.key(seed), count)
        return np.asarray(conditioner.for_sampling(jnp.asarray(video), nothing, keys).low_res)

    def evaluate(self, **flags: Any) -> dict[str, Any] | None:
        """Compute metrics of the model, and print them; see `vidgen.evaluate`.

        Args:
          **flags: of `vidgen evaluate`, but those that say which model.

        Returns:
          The result, as the command writes it to --output.

        Raises:
          ValueError: an unknown flag, a value that does not fit, or a model that was loaded from a
            later stage on and has several.
        """
        source, folders = self._source, [Path(stage.model_dir) for stage in self._stages]
        if source.first is not None and len(folders) != 1:
            raise ValueError(
                f"an evaluation of several stages begins at the first, not at {source.first}: "
                "load the model without first=, or one stage of it."
            )
        where = {"model": source.model, "until": source.until}
        where = {"model": str(folders[0])} if source.first is not None else where
        return evaluated(flags | where, source.gin_files, source.bindings)

    def _makers(self) -> tuple[Stage, ...]:
        """Return the stages that make video; a tokenizer alone has none, a ValueError."""
        if not self._stages:
            raise ValueError(
                f"{self._source.model} is a tokenizer, which makes no video from text."
            )
        return self._stages

    def _generated(
        self,
        trained: Sequence[Stage],
        prompts: str | Sequence[str],
        on_step: Look | None,
        flags: Mapping[str, Any],
    ) -> Clips:
        wanted = {**flags, "prompts": _listed(prompts)}
        clips: dict[str, list[np.ndarray]] = {}
        with tempfile.TemporaryDirectory() as folder:
            wanted = _frames_as_files(wanted, Path(folder))
            parsed = keywords.as_flags(generate_flags.add, wanted, _NOT_HERE | _OF_STORIES)
            parsed.on_step = on_step
            fields = generate_flags.settings(parsed)
            run = self._sessions.build(Generate, stages=list(trained), **fields)
            self._sessions.check_bindings()
            for model, _, video in run.stage_videos():
                clips.setdefault(model.name, []).append(video)
        return Clips(
            prompts=tuple(clip.prompt for clip in run.clips()),
            stages={name: np.stack(videos) for name, videos in clips.items()},
            rates={model.name: model.shape.fps for model in run.chain.stages},
        )

    def _encoder(self) -> Tokenizer:
        """Return the tokenizer, by itself or of the stage that reads it."""
        for stage in self._stages if self._tokenizer is None else ():
            model = stage.model.frozen_networks.get("tokenizer")
            if isinstance(model, TokenizerModel):
                self._tokenizer = Tokenizer(model, lambda stage=stage: stage.load()["tokenizer"])
        if self._tokenizer is None:
            raise ValueError(f"{', '.join(self.names)}: no model with a tokenizer; Phenaki's has.")
        return self._tokenizer


def evaluated(
    flags: Mapping[str, Any], gin_files: Sequence[str], bindings: Sequence[str]
) -> dict[str, Any] | None:
    """Run `vidgen evaluate`.

    Args:
      flags: by name, "inputs" among them.
      gin_files: as the command's --gin_file.
      bindings: NAME=VALUE, as its --gin.NAME=VALUE.

    Returns:
      The result, as the command writes it to --output; None where results are only compared.

    Raises:
      ValueError: an unknown flag, or a value that does not fit.
    """
    startup.setup_process()
    parsed = keywords.as_flags(evaluate_flags.add, flags)
    parsed.gin_file, parsed.bindings, parsed.dry_run = list(gin_files), list(bindings), False
    return evaluate_command.run(parsed)


def _listed(prompts: str | Sequence[str]) -> list[str]:
    return [prompts] if isinstance(prompts, str) else list(prompts)


def _as_float(video: Any) -> Float[np.ndarray, "t h w c"]:
    """Bring the frames of a clip or an array, also of one in 8 bits, to float32 in [-1, 1]."""
    frames = np.asarray(video)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"a video of shape {frames.shape}; expected (frames, height, width, 3).")
    return transforms.to_float(frames) if frames.dtype == np.uint8 else frames.astype(np.float32)


def _frames_as_files(flags: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replace frames among the flags by the names of files in a folder, which hold them."""
    files = dict(flags)
    for name in _FILES:
        frames: Any = files.get(name)
        if np.ndim(frames) == 0:  # None or a name; the flag refuses a number
            continue
        if name == "mask" and np.asarray(frames).dtype == bool:  # white where True
            white = np.repeat(np.where(frames, np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)
            frames = white[None] if white.ndim == 3 else white
        files[name] = str(folder / f"{name}.npy")
        np.save(files[name], _as_float(frames))
    return files
