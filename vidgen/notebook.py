"""The commands as Python calls, for notebooks: the same flags, the same runs, arrays in return.

    model = notebook.load("imagen_demo", until="ssr1")
    made = model.generate("a tiger moving right on a green background", seed=1, guidance=2)
    made.video                                        # "b t h w c" in [-1, 1]
    film = notebook.load("phenaki_demo").tell("story.yaml", seed=7)
    notebook.train(["experiments/imagen_base_tiny.gin"], MODEL_DIR="runs/a", TRAIN_STEPS=100)
    notebook.evaluate(model="runs/a", clips=16)

Keywords are flags of the command, which says what they mean (`vidgen generate --help`); what a flag
says in text, such as "64,base=256", is text here too. A clip is the one that the command makes with
the same flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidgen.cli import evaluate_command, evaluate_flags, generate_flags, main, startup
from vidgen.config.gin_sessions import Sessions
from vidgen.data.video import encode as video_writer
from vidgen.data.video import transforms
from vidgen.display.sheets import SceneRow
from vidgen.imagen.conditioning import Upsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import stages
from vidgen.inference.generate import Generate
from vidgen.inference.stages import Stage
from vidgen.model import TokenizerModel
from vidgen.story.generate_story import GenerateStory
from vidgen.types import TextEmbedding

# Flags that say where things lie, which a call says itself.
_NOT_HERE = frozenset(
    ("model", "until", "first_stage", "prompts_file", "output", "keep_stages", "restart")
) | {"upscale", "upscale_model"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """What `Model.generate` made.

    Attributes:
      prompts: one a clip.
      stages: videos "b t h w c" by the stage that made them, in about [-1, 1].
      rates: frames per second, by stage.
    """

    prompts: tuple[str, ...]
    stages: Mapping[str, Float[np.ndarray, "b _t _h _w c"]]
    rates: Mapping[str, float]

    @property
    def video(self) -> Float[np.ndarray, "b t h w c"]:
        """The clips of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def fps(self) -> float:
        """Frames per second of the last stage."""
        return list(self.rates.values())[-1]

    def each_stage(self, number: int = 0) -> dict[str, Float[np.ndarray, "t h w c"]]:
        """One clip as every stage made it."""
        return {name: videos[number] for name, videos in self.stages.items()}

    def save(self, path: str | os.PathLike, stage: str | None = None) -> Path:
        """Writes the clips of a stage, None: the last; the suffix is the format (.mp4, .npy, ...).

        Raises:
          ValueError: there is no such stage, or no such format.
          OSError: the file cannot be written.
        """
        name = list(self.stages)[-1] if stage is None else stage
        if name not in self.stages:
            raise ValueError(f"there is no stage {name!r}; choose from {', '.join(self.stages)}.")
        videos = self.stages[name]
        video_writer.write_video(path, videos if len(videos) > 1 else videos[0], self.rates[name])
        return Path(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Film:
    """What `Model.tell` made.

    Attributes:
      video: all frames, in [-1, 1].
      fps: frames per second.
      scenes: prompts, and the frames that were made for each.
    """

    video: Float[np.ndarray, "t h w c"]
    fps: float
    scenes: tuple[SceneRow, ...]


class Model:
    """Trained stages that run one after the other; see `load`."""

    def __init__(self, trained: Sequence[Stage], sessions: Sessions) -> None:
        """Takes them as `vidgen generate` builds them."""
        self._stages, self._sessions = tuple(trained), sessions

    @property
    def names(self) -> tuple[str, ...]:
        """The stages, in order."""
        return tuple(stage.model.name for stage in self._stages)

    def generate(self, prompts: str | Sequence[str] = (), **flags: Any) -> Clips:
        """Clips of these prompts, by flags of `vidgen generate`; nothing is written.

        Raises:
          ValueError: an unknown flag, or a value that does not fit.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        parsed = _flags(generate_flags.add, flags | {"prompts": asked}, _NOT_HERE)
        given = generate_flags.settings(parsed)
        run = self._sessions.build(Generate, stages=list(self._stages), **given)
        self._sessions.check_bindings()
        made: dict[str, list[np.ndarray]] = {}
        for model, _, video in run.stage_videos():
            made.setdefault(model.name, []).append(video)
        return Clips(
            prompts=tuple(clip.prompt for clip in run.clips()),
            stages={name: np.stack(videos) for name, videos in made.items()},
            rates={model.name: model.shape.fps for model in run.chain.stages},
        )

    def compare(
        self, prompt: str, flag: str, values: Sequence[Any], **flags: Any
    ) -> dict[str, Float[np.ndarray, "t h w c"]]:
        """A clip for each value of one flag, all from the same noise, by "flag value"."""
        return {
            f"{flag} {value}": self.generate(prompt, **{flag: value}, **flags).video[0]
            for value in values
        }

    def tell(self, story: str, **flags: Any) -> Film:
        """A film of a story, a file or "scene one. then scene two.", by flags of the command.

        Raises:
          ValueError: an unknown flag, a story that does not fit, or a model that tells none.
        """
        with tempfile.TemporaryDirectory() as folder:
            parsed = _flags(generate_flags.add, flags | {"story": story}, _NOT_HERE)
            parsed.output = os.path.join(folder, "film.npy")
            given = generate_flags.story_settings(parsed)
            run = self._sessions.build(GenerateStory, stage=stages.single(self._stages), **given)
            self._sessions.check_bindings()
            video = transforms.to_float(np.load(run.write()))
        begins = [part.first_frame for part in run.segments if part.part == 0]
        ends = [*begins[1:], run.segments[-1].end_frame]
        told = zip((scene.prompt for scene in run.story.scenes), begins, ends, strict=True)
        return Film(
            video=video,
            fps=float(run.model.shape.fps),
            scenes=tuple(SceneRow(prompt, begin, end) for prompt, begin, end in told),
        )

    def tokens(self, film: Float[np.ndarray, "t h w c"]) -> Int[np.ndarray, "gt gh gw"]:
        """The codes that Phenaki's tokenizer gives a clip, or a film of 1 + k patches of frames.

        Raises:
          ValueError: the model has no tokenizer, or the film does not fit its patches.
        """
        for stage in self._stages:
            tokenizer = stage.model.frozen_networks.get("tokenizer")
            if isinstance(tokenizer, TokenizerModel):
                params, video = stage.load()["tokenizer"], jnp.asarray(film)[None]
                return np.asarray(jax.jit(tokenizer.encode)(params, video))[0]
        raise ValueError(f"{', '.join(self.names)}: no model with a tokenizer; Phenaki's has.")

    def told(
        self, video: Float[np.ndarray, "b t h w c"], *, logsnr: float | None = None, seed: int = 0
    ) -> Float[np.ndarray, "b t2 h2 w2 c"]:
        """What the first stage is told of a small video: noised and up-sampled, in its own size.

        Args:
          video: what the stage before made.
          logsnr: level of the noise; None is the stage's own.
          seed: of the noise.

        Raises:
          ValueError: the stage starts from text alone.
        """
        stage = self._stages[0].model
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


def load(
    model: str,
    *,
    first: str | None = None,
    until: str | None = None,
    gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (),
) -> Model:
    """A trained model.

    Args:
      model: a folder that training wrote, or the name of a model that comes with the package.
      first: the first stage of a cascade to run; a later one than the base starts from `init`.
      until: the last.
      gin_files: as the command's --gin_file.
      bindings: as its --gin.NAME=VALUE, without "--gin.".

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: there is no such stage.
    """
    startup.setup_process()
    sessions = Sessions(["runs/generate.gin"], list(gin_files), list(bindings))
    folders = stages.find(model, first, until)
    trained = [stages.build_trained(sessions, Stage, folder) for folder in folders]
    stages.check_names(trained, first, until)
    return Model(trained, sessions)


def train(gin_files: Sequence[str], **bindings: Any) -> Path:
    """Trains by `vidgen train`, or goes on; returns MODEL_DIR.

    Args:
      gin_files: an experiment, and what is to change it, later ones winning.
      bindings: macros (MODEL_DIR="runs/a", TRAIN_STEPS=100) or, as **{"Trainer.ema_decay": 0.99},
        parameters.

    Raises:
      ValueError: MODEL_DIR is missing, or what training says is wrong.
    """
    if "MODEL_DIR" not in bindings:
        raise ValueError('train needs MODEL_DIR="...", the folder to train in.')
    files = [f"--gin_file={file}" for file in gin_files]
    main.call(["train", *files, *(f"--gin.{k}={v!r}" for k, v in bindings.items())])
    return Path(bindings["MODEL_DIR"])


def evaluate(*inputs: str, **flags: Any) -> dict[str, Any] | None:
    """What `vidgen evaluate` finds, and prints; None where results are only compared.

    Args:
      inputs: two folders of clips, results, ...; none where there is a `model`.
      flags: of the command.

    Raises:
      ValueError: an unknown flag, or a value that does not fit.
    """
    startup.setup_process()
    parsed = _flags(evaluate_flags.add, flags | {"inputs": list(inputs)})
    parsed.gin_file, parsed.bindings, parsed.dry_run = [], [], False
    return evaluate_command.run(parsed)


def _flags(
    add: Callable[[argparse.ArgumentParser], None],
    given: Mapping[str, Any],
    not_here: frozenset[str] = frozenset(),
) -> argparse.Namespace:
    """The flags that a command line would give.

    Args:
      add: adds them to a parser.
      given: those that are not at their default; a number stands for its text.
      not_here: those that a call has no use for.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    found = vars(parser.parse_args([]))
    known = sorted(found.keys() - not_here)
    for name in given:
        if name not in known:
            raise ValueError(f"there is no flag {name!r} here; choose from {', '.join(known)}.")
    numbers = {action.dest for action in parser._actions if action.type is not None}
    return argparse.Namespace(
        **found | {name: _said(value, name in numbers) for name, value in given.items()}
    )


def _said(value: Any, is_number: bool) -> Any:
    """A value as its flag gives it: most flags are text, also where they are to be read as 64."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if plain and not is_number else value
