"""What a model does in an evaluation: it makes a clip for each clip of a data set.

    GenerateTask      from its caption alone: a text-to-video model, or a whole cascade
    PredictTask       from its first frames: video prediction
    RestoreTask       from a small version of it: a super-resolution stage
    ReconstructTask   from its tokens: a tokenizer

All have `task`, which is the name; `shape`, the size of a clip; `identity`, plain data that names
all that the clips depend on besides the data set; and `settings`, which are shown with the result.
A clip depends on (seed, its number, its caption, the true clip, weights, settings) alone, so any
process may make any of them, and re-running the same command resumes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vidgen import __version__
from vidgen.inference import per_stage
from vidgen.inference.generate import Generate, clip_key
from vidgen.inference.stages import Stage, for_text
from vidgen.model import SampledModel, TokenizerModel
from vidgen.train import frozen
from vidgen.train.batches import encode_captions
from vidgen.types import Known, Params, VideoShape

Video = Float[np.ndarray, "b t h w c"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateTask:
    """Makes clips from captions.

    Attributes:
      run: makes clips of prompts, with all stages.
    """

    run: Generate
    task: str = "generate"

    @property
    def shape(self) -> VideoShape:
        """The size of the last stage's clips."""
        return self.run.chain.shape

    @functools.cached_property
    def identity(self) -> tuple[object, ...]:
        """The weights of all stages, their sampling, and the seed."""
        stages = self.run.stages
        weights = [stage.identity(stage.load(self._step(stage.model.name))) for stage in stages]
        return weights, self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling and checkpoint of each stage, and the seed."""
        models = self.run.chain.stages
        sampling = {model.name: sampling_of(model) for model in models}
        steps = {model.name: self._step(model.name) for model in models}
        return {"sampling": sampling, "step": steps, "seed": self.run.seed}

    def _step(self, stage: str) -> int | None:
        return per_stage.value(self.run.checkpoint_step, stage)

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Make clips of the captions alone: clip n is sample n of its caption.

        Args:
          numbers: the numbers of the clips, which their random keys depend on.
          truth: the true clips, in [-1, 1].
          captions: their captions.

        Returns:
          One clip for each true one, about in [-1, 1].
        """
        run = dataclasses.replace(self.run, prompts=tuple(captions), samples=tuple(numbers))
        return np.stack([video for _, video in run.videos()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OneStage:
    """What prediction and restoration share.

    Attributes:
      stage: makes the clips.
      seed: the seed of the noise.
      step: which checkpoint is read; None: the last.
    """

    stage: Stage
    seed: int
    step: int | None = None

    @property
    def shape(self) -> VideoShape:
        """The size of the model's clips."""
        return self.stage.model.shape

    @functools.cached_property
    def identity(self) -> tuple[object, ...]:
        """Weights, sampling, and the other settings that are shown."""
        return self.stage.identity(self._params), self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, checkpoint and seed."""
        sampling = {self.stage.model.name: sampling_of(self.stage.model)}
        return {"sampling": sampling, "step": self.step, "seed": self.seed}

    @functools.cached_property
    def _params(self) -> Params:
        return self.stage.load(self.step)

    def _keys(self, captions: Sequence[str], numbers: Sequence[int]) -> Key[Array, "b"]:
        pairs = zip(captions, numbers, strict=True)
        return jnp.stack([clip_key(self.seed, caption, number) for caption, number in pairs])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictTask(_OneStage):
    """Makes clips that begin with the first frames of the true ones.

    Attributes:
      given: the number of frames that the model is given.
      text: whether it is given the caption, too.
    """

    given: int
    text: bool
    task: str = "predict"

    def __post_init__(self) -> None:
        if not 0 < self.given < self.shape.frames:
            raise ValueError(
                f"{self.given} frames are given to a model that makes {self.shape.frames}; give "
                "fewer, and one at the least."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, and what the model is given."""
        return super().settings | {"given": self.given, "text": self.text}

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Make clips whose first frames are those of the true clip; see `GenerateTask`."""
        words = list(captions) if self.text else [""] * len(captions)
        text = encode_captions(words, self.stage.text_encoder)
        mask = np.arange(self.shape.frames) < self.given
        known = Known(video=jnp.asarray(truth), mask=jnp.asarray(mask)[None, :, None, None, None])
        model, keys = for_text(self.stage.model, text), self._keys(words, numbers)
        return np.asarray(model.generate(self._params, text, None, keys, known=known), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestoreTask(_OneStage):
    """Makes clips with a super-resolution stage, from small versions of the true ones."""

    task: str = "restore"

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, and the size that the stage starts from."""
        return super().settings | {"from": str(self.stage.model.input_shape)}

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Make clips from small versions of the true ones, made as in training.

        See `GenerateTask`.
        """
        text = encode_captions(list(captions), self.stage.text_encoder)
        model = for_text(self.stage.model, text)
        low_res = model.degrade(jnp.asarray(truth))
        keys = self._keys(captions, numbers)
        return np.asarray(model.generate(self._params, text, low_res, keys), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructTask:
    """Encodes the true clips with a tokenizer, and decodes their tokens.

    Attributes:
      model: the tokenizer.
      model_dir: folder of its training run.
      step: which checkpoint is read; None: the last.
    """

    model: TokenizerModel
    model_dir: str
    step: int | None = None
    task: str = "reconstruct"

    @property
    def shape(self) -> VideoShape:
        """The size of the model's clips."""
        return self.model.shape

    @functools.cached_property
    def identity(self) -> tuple[object, ...]:
        """Weights and settings of the tokenizer."""
        return frozen.fingerprint(lambda: self._params), repr(self.model), __version__

    @property
    def settings(self) -> dict[str, Any]:
        """The checkpoint, tokens per clip, codes, and numbers of a clip per byte of its tokens."""
        tokens = int(np.prod(self.model.grid(*self.shape.thwc[:3])))
        bits = tokens * np.log2(self.model.codes)
        return {
            "step": self.step,
            "tokens": tokens,
            "codes": self.model.codes,
            "compression": round(8 * float(np.prod(self.shape.thwc)) / float(bits), 1),
        }

    @functools.cached_property
    def _params(self) -> Params:
        return frozen.restored(self.model, self.model_dir, self.step)

    @functools.cached_property
    def _programs(self) -> tuple[Callable[..., Array], Callable[..., Array]]:
        return jax.jit(self.model.encode), jax.jit(self.model.decode)

    def encode(self, video: Video) -> Int[np.ndarray, "b n"]:
        """Turn clips into tokens, with the number of codes in front.

        Args:
          video: clips in [-1, 1].

        Returns:
          The number of codes, then all tokens, of each clip.
        """
        tokens = np.asarray(self._programs[0](self._params, video))
        tokens = tokens.reshape(len(video), -1)
        return np.concatenate([np.full((len(video), 1), self.model.codes), tokens], axis=1)

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Encode the true clips, and decode their tokens; see `GenerateTask`."""
        del numbers, captions
        encode, decode = self._programs
        return np.asarray(decode(self._params, encode(self._params, truth)), np.float32)


EvalTask = GenerateTask | PredictTask | RestoreTask | ReconstructTask


def sampling_of(model: SampledModel) -> dict[str, Any]:
    """Return the settings of a model's sampler and guidance.

    Args:
      model: with the sampling of the run.

    Returns:
      Numbers, texts and None by names such as "sampler.steps"; other settings are left out.
    """
    return {
        f"{name}.{field.name}": value
        for name, part in (("sampler", model.sampler), ("guidance", model.guidance))
        if dataclasses.is_dataclass(part)
        for field in dataclasses.fields(part)
        if isinstance(value := getattr(part, field.name), (int, float, str, bool, type(None)))
    }
