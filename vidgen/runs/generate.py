"""Prompts to video files.

A clip depends on (seed, prompt, number of the sample, model, settings) and on nothing else: its key

    key = fold_in(fold_in(fold_in(key(seed), h₀), h₁), sample),   h₀ h₁ = SHA-256(prompt)[:8]

is the same alone or among others, and samplers draw noise for each example by itself. Clips are
made `batch_size` at a time; a last, smaller batch is filled up, so that one program is compiled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from vidgen.data import video_writer
from vidgen.runs.feed import TextEncoder
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.partitioning import unbox
from vidgen.types import Params, TextEmbedding, VideoShape

log = logging.getLogger(__name__)


@runtime_checkable
class Generator(Protocol):
    """A model that makes video from text: what a diffusion stage offers."""

    @property
    def shape(self) -> VideoShape:
        """Size of one clip."""
        ...

    @property
    def sampler(self) -> Any:
        """A dataclass with `kind` and `steps`."""
        ...

    @property
    def guidance(self) -> Any:
        """A dataclass with `weight` and `low`."""
        ...

    def init(self, key: Key[Array, ""], batch: Any) -> Params:
        """Fresh parameters, boxed."""
        ...

    def batch_spec(self, batch_size: int, text_length: int, text_dim: int) -> Any:
        """Shapes of a training batch."""
        ...

    def generate(
        self,
        params: Params,
        text: TextEmbedding,
        low_res: Any,
        keys: Key[Array, "b"],
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """One clip for each row of `text` and key, in [-1, 1]; tells of (step, steps) done."""
        ...


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to make: its prompt, the number of the sample, and its file."""

    prompt: str
    sample: int
    path: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """The `generate` run mode.

    Attributes:
      model: what makes the clips.
      text_encoder: the one that the model was trained with.
      model_dir: folder of the training run; the averaged weights are read from its checkpoints.
      prompts: what to show, one clip (or `num_samples`) each.
      output: file to write; its suffix is the format. Several clips are numbered.
      seed: in [0, 2³²).
      num_samples: clips for each prompt.
      batch_size: clips made at a time; fewer where there are fewer.
      steps: sampling steps; None takes the model's own.
      sampler: kind of sampler; None takes the model's own.
      guidance: constant guidance weight w, guided = (1 + w) cond − w uncond; None takes the
        model's own, which need not be constant.
      checkpoint_step: which checkpoint; None is the last.
    """

    model: Generator
    text_encoder: TextEncoder
    model_dir: str
    prompts: Sequence[str]
    output: str = "out.mp4"
    seed: int = 0
    num_samples: int = 1
    batch_size: int = 8
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    checkpoint_step: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("no prompt to show: give one or more, none of them empty.")
        for name, value in (("num_samples", self.num_samples), ("batch_size", self.batch_size)):
            if value < 1:
                raise ValueError(f"--{name} is {value}; it must be 1 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}; it must be in 0 ... {2**32 - 1}.")
        video_writer.check_suffix(self.output)
        if Path(self.output).is_dir():
            raise ValueError(f"--output {self.output} is a folder; name a file in it.")
        object.__setattr__(self, "model", self._overridden())

    def _overridden(self) -> Generator:
        """The model with the sampler and guidance asked for."""
        given = {"kind": self.sampler, "steps": self.steps}
        sampler = {name: value for name, value in given.items() if value is not None}
        model: Any = self.model
        if sampler:
            model = dataclasses.replace(
                model, sampler=dataclasses.replace(model.sampler, **sampler)
            )
        if self.guidance is not None:
            guidance = dataclasses.replace(model.guidance, weight=self.guidance, low=None)
            model = dataclasses.replace(model, guidance=guidance)
        return model

    def __call__(self) -> list[Path]:
        """Make and write all clips; returns their files in the order of the prompts."""
        clips = self.clips()
        _check_folder(clips[0].path.parent)
        for clip, video in self.videos():
            if not np.isfinite(video).all():
                raise ValueError(
                    f"the clip for {clip.prompt!r} holds values that are no numbers: the weights "
                    "in this checkpoint are broken; use an earlier one (--step)."
                )
            replaced = clip.path.exists()
            video_writer.write_video(clip.path, video, self.model.shape.fps)
            if replaced:
                log.info("replaced %s", clip.path)
            print(clip.path, flush=True)
        return [clip.path for clip in clips]

    def clips(self) -> list[Clip]:
        """What will be made: all samples of the first prompt, then of the second, ..."""
        path = Path(self.output)
        wanted = [(prompt, i) for prompt in self.prompts for i in range(self.num_samples)]
        if len(wanted) == 1:
            return [Clip(*wanted[0], path)]
        digits = max(3, len(str(len(wanted) - 1)))
        numbered = [
            path.with_name(f"{path.stem}-{i:0{digits}}{path.suffix}") for i in range(len(wanted))
        ]
        return [Clip(prompt, i, name) for (prompt, i), name in zip(wanted, numbered, strict=True)]

    def _load(self) -> Params:
        """The averaged weights, checked against the model's own shapes."""
        with Checkpointer(self.model_dir, read_only=True) as checkpointer:
            spec = self.model.batch_spec(1, self.text_encoder.length, self.text_encoder.dim)
            boxed = jax.eval_shape(self.model.init, jax.random.key(0), spec)
            return checkpointer.restore_params(unbox(boxed), self.checkpoint_step)

    def videos(self) -> Iterator[tuple[Clip, Float[np.ndarray, "t h w c"]]]:
        """Each clip of `clips` with its frames, batch by batch; nothing is written."""
        params, clips = self._load(), self.clips()
        size = min(self.batch_size, len(clips))
        frames, steps = self.model.shape.frames, self.model.sampler.steps
        starts = range(0, len(clips), size)
        with tqdm(total=len(starts) * steps, unit="step", disable=None) as bar:

            def on_step(done: int, total: int) -> None:
                del done, total
                bar.update(1)

            for start in starts:
                bar.set_description(f"{start * frames}/{len(clips) * frames} frames")
                group = list(clips[start : start + size])
                filled = group + [group[-1]] * (size - len(group))
                text = self.text_encoder([clip.prompt for clip in filled])
                videos = self.model.generate(
                    params,
                    jax.tree.map(jnp.asarray, text),
                    None,
                    jnp.stack([clip_key(self.seed, c.prompt, c.sample) for c in filled]),
                    on_step=on_step,
                )
                # What fills up the last batch has no clip to go with.
                yield from zip(group, np.asarray(videos, np.float32), strict=False)


def _check_folder(folder: Path) -> None:
    """Make the folder and try to write there, before anything long begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write there ({error.strerror}); choose another --output", folder
        ) from error


def clip_key(seed: int, prompt: str, sample: int) -> Key[Array, ""]:
    """The random key of one clip; see the module docstring."""
    digest = hashlib.sha256(prompt.encode()).digest()
    key = jax.random.key(seed)
    for part in (digest[:4], digest[4:8]):
        key = jax.random.fold_in(key, np.uint32(int.from_bytes(part, "little")))
    return jax.random.fold_in(key, sample)


def read_prompts(given: Sequence[str], file: str | None) -> tuple[str, ...]:
    """The prompts given, then those of a file with one a line; blank lines do not count.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no prompt or is no text, or there is no prompt at all.
    """
    prompts = [prompt.strip() for prompt in given]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--prompts_file {file} is no UTF-8 text ({error.reason}).") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"--prompts_file {file} holds no prompt; write one a line.")
        prompts += found
    if not prompts:
        raise ValueError('no prompt given: vidgen generate "what to show" ..., or --prompts_file.')
    return tuple(prompts)
