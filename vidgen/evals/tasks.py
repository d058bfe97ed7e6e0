"""What an evaluation judges: how a trained model makes a clip for each clip of a data set.

    Generated       from its caption alone: a text-to-video model, or a whole cascade
    Predicted       from its first frames: video prediction
    Restored        from a small version of it: a super-resolution stage
    Reconstructed   from its tokens: a tokenizer

Each clip depends on (seed, its number, its caption, the true clip, weights, settings) alone, so any
process may make any of them, and one that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen import __version__
from vidgen.inference import per_stage
from vidgen.inference.generate import Generate, clip_key
from vidgen.inference.stages import Stage, for_text
from vidgen.model import SampledModel
from vidgen.train import frozen
from vidgen.train.batches import encode_captions
from vidgen.types import Known, Params, VideoShape

Video = Float[np.ndarray, "b t h w c"]


@runtime_checkable
class EvalTask(Protocol):
    """Makes clips for given ones."""

    @property
    def task(self) -> str:
        """What it does: "generate", "predict", "restore" or "reconstruct"."""
        ...

    @property
    def shape(self) -> VideoShape:
        """Of a clip that it makes."""
        ...

    @property
    def identity(self) -> Any:
        """What the clips depend on besides the given ones."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What of that is shown with the result."""
        ...

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """One clip for each."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """Clips of captions.

    Attributes:
      run: makes clips of prompts, with all stages.
    """

    run: Generate
    task: str = "generate"

    @property
    def shape(self) -> VideoShape:
        """Of the last stage."""
        return self.run.chain.shape

    @functools.cached_property
    def identity(self) -> Any:
        """What all stages are, their sampling, and the seed."""
        stages = self.run.stages
        weights = [stage.identity(stage.load(self._step(stage.model))) for stage in stages]
        return weights, self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling and checkpoint of each stage."""
        models = self.run.chain.stages
        shown = {m.name: sampling_of(m) for m in models}
        steps = {m.name: self._step(m) for m in models}
        return {"sampling": shown, "step": steps, "seed": self.run.seed}

    def _step(self, model: Any) -> int | None:
        return per_stage.value(self.run.checkpoint_step, model.name)

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Clip n is sample n of its caption."""
        run = dataclasses.replace(self.run, prompts=tuple(captions), samples=tuple(numbers))
        return np.stack([video for _, video in run.videos()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ByOneStage:
    """What a prediction and a restoration share.

    Attributes:
      stage: makes the clips.
      seed: of the noise.
      step: which checkpoint; None is the last.
    """

    stage: Stage
    seed: int
    step: int | None = None

    @property
    def shape(self) -> VideoShape:
        """Of the model."""
        return self.stage.model.shape

    @functools.cached_property
    def identity(self) -> Any:
        """Weights, sampling, and what else is shown."""
        return self.stage.identity(self._params), self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, checkpoint and seed."""
        shown = {self.stage.model.name: sampling_of(self.stage.model)}
        return {"sampling": shown, "step": self.step, "seed": self.seed}

    @functools.cached_property
    def _params(self) -> Params:
        return self.stage.load(self.step)

    def _keys(self, captions: Sequence[str], numbers: Sequence[int]) -> Key[Array, "b"]:
        pairs = zip(captions, numbers, strict=True)
        return jnp.stack([clip_key(self.seed, caption, number) for caption, number in pairs])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted(_ByOneStage):
    """Clips that begin with the first frames of the true one.

    Attributes:
      given: how many frames the stage knows.
      text: whether it is told the caption, too.
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
        """Sampling, and what it is given."""
        return super().settings | {"given": self.given, "text": self.text}

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Frames that are given come out as they are."""
        words = list(captions) if self.text else [""] * len(captions)
        text = encode_captions(words, self.stage.text_encoder)
        mask = np.arange(self.shape.frames) < self.given
        known = Known(video=jnp.asarray(truth), mask=jnp.asarray(mask)[None, :, None, None, None])
        generate = for_text(self.stage.model, text).generate
        keys = self._keys(words, numbers)
        return np.asarray(generate(self._params, text, None, keys, known=known), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored(_ByOneStage):
    """Clips that a super-resolution stage makes of the true ones, made small."""

    task: str = "restore"

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, and what it starts from."""
        return super().settings | {"from": str(self.stage.model.input_shape)}

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """What the stage makes of them."""
        text = encode_captions(list(captions), self.stage.text_encoder)
        model = for_text(self.stage.model, text)
        low = model.degrade(jnp.asarray(truth))
        keys = self._keys(captions, numbers)
        return np.asarray(model.generate(self._params, text, low, keys), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """Clips encoded and decoded by a tokenizer.

    Attributes:
      model: the tokenizer.
      model_dir: folder of its training run.
      step: which checkpoint; None is the last.
    """

    model: Any
    model_dir: str
    step: int | None = None
    task: str = "reconstruct"

    @property
    def shape(self) -> VideoShape:
        """Of the model."""
        return self.model.shape

    @functools.cached_property
    def identity(self) -> Any:
        """Weights and settings of the tokenizer."""
        return frozen.fingerprint(lambda: self._params), repr(self.model), __version__

    @property
    def settings(self) -> dict[str, Any]:
        """Tokens of a clip, its numbers for each of them, and the codebook."""
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
    def _programs(self) -> Any:
        return jax.jit(self.model.encode), jax.jit(self.model.decode)

    def encode(self, video: Video) -> np.ndarray:
        """The number of codes, then the tokens of each clip: "b 1+n"."""
        tokens = np.asarray(self._programs[0](self._params, jnp.asarray(video)))
        tokens = tokens.reshape(len(video), -1)
        return np.concatenate([np.full((len(video), 1), self.model.codes), tokens], axis=1)

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """There and back."""
        del numbers, captions
        encode, decode = self._programs
        video = jnp.asarray(truth)
        return np.asarray(decode(self._params, encode(self._params, video)), np.float32)


def sampling_of(model: SampledModel) -> dict[str, Any]:
    """The sampler and the guidance of a model, as plain values."""
    parts = {"sampler": model.sampler, "guidance": model.guidance}
    return {
        f"{name}.{field.name}": value
        for name, part in parts.items()
        if dataclasses.is_dataclass(part)
        for field in dataclasses.fields(part)
        if isinstance(value := getattr(part, field.name), (int, float, str, bool, type(None)))
    }
