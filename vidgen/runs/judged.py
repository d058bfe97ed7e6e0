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
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vidgen.runs import trained
from vidgen.runs.feed import encode_captions
from vidgen.runs.generate import Generate, clip_key
from vidgen.runs.stages import Stage
from vidgen.types import Known, Params, VideoShape, null_text

Video = Float[np.ndarray, "b t h w c"]


@runtime_checkable
class Maker(Protocol):
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
        """Weights and sampling of all stages, and the seed."""
        stages = [weights_of(stage.model_dir) for stage in self.run.stages]
        return stages, self.settings, [repr(stage.text_encoder) for stage in self.run.stages]

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling of each stage."""
        shown = {m.name: sampling_of(m) for m in self.run.chain.stages}
        return {"sampling": shown, "seed": self.run.seed}

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Clip n is sample n of its caption."""
        run = dataclasses.replace(self.run, prompts=tuple(captions), samples=tuple(numbers))
        return np.stack([video for _, video in run.videos()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """Clips that begin with the first frames of the true one.

    Attributes:
      stage: makes them.
      given: how many frames it knows.
      text: whether it is told the caption, too.
      seed: of the noise.
    """

    stage: Stage
    given: int
    text: bool
    seed: int
    task: str = "predict"

    def __post_init__(self) -> None:
        if not 0 < self.given < self.shape.frames:
            raise ValueError(
                f"{self.given} frames are given to a model that makes {self.shape.frames}; give "
                "fewer, and one at the least."
            )

    @property
    def shape(self) -> VideoShape:
        """Of the model."""
        return self.stage.model.shape

    @functools.cached_property
    def identity(self) -> Any:
        """Weights and sampling, and what it is given."""
        return weights_of(self.stage.model_dir), self.settings, repr(self.stage.text_encoder)

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, and what it is given."""
        shown = {self.stage.model.name: sampling_of(self.stage.model)}
        return {"sampling": shown, "given": self.given, "text": self.text, "seed": self.seed}

    @functools.cached_property
    def _params(self) -> Params:
        return self.stage.load()

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """Frames that are given come out as they are."""
        words = list(captions) if self.text else [""] * len(captions)
        text = encode_captions(words, self.stage.text_encoder)
        text = text if self.text else null_text(text)
        mask = np.arange(self.shape.frames) < self.given
        known = Known(video=jnp.asarray(truth), mask=jnp.asarray(mask)[None, :, None, None, None])
        keys = jnp.stack(
            [clip_key(self.seed, word, n) for word, n in zip(words, numbers, strict=True)]
        )
        generate = self.stage.model.generate
        return np.asarray(generate(self._params, text, None, keys, known=known), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """Clips that a super-resolution stage makes of the true ones, made small.

    Attributes:
      stage: the stage.
      seed: of the noise.
    """

    stage: Stage
    seed: int
    task: str = "restore"

    @property
    def shape(self) -> VideoShape:
        """Of the model."""
        return self.stage.model.shape

    @functools.cached_property
    def identity(self) -> Any:
        """Weights and sampling."""
        return weights_of(self.stage.model_dir), self.settings, repr(self.stage.text_encoder)

    @property
    def settings(self) -> dict[str, Any]:
        """Sampling, and what it starts from."""
        start, model = self.stage.model.input_shape, self.stage.model
        return {"sampling": {model.name: sampling_of(model)}, "from": str(start), "seed": self.seed}

    @functools.cached_property
    def _params(self) -> Params:
        return self.stage.load()

    def __call__(self, numbers: Sequence[int], truth: Video, captions: Sequence[str]) -> Video:
        """What the stage makes of them."""
        model = self.stage.model
        text = encode_captions(list(captions), self.stage.text_encoder)
        keys = [clip_key(self.seed, word, n) for word, n in zip(captions, numbers, strict=True)]
        low = model.conditioner.degrade(jnp.asarray(truth))
        return np.asarray(model.generate(self._params, text, low, jnp.stack(keys)), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """Clips encoded and decoded by a tokenizer.

    Attributes:
      model: the tokenizer.
      model_dir: folder of its training run.
    """

    model: Any
    model_dir: str
    task: str = "reconstruct"

    @property
    def shape(self) -> VideoShape:
        """Of the model."""
        return self.model.shape

    @functools.cached_property
    def identity(self) -> Any:
        """The weights."""
        return weights_of(self.model_dir)

    @property
    def settings(self) -> dict[str, Any]:
        """Tokens of a clip, its numbers for each of them, and the codebook."""
        tokens = int(np.prod(self.model.grid(*self.shape.thwc[:3])))
        bits = tokens * np.log2(self.model.codes)
        return {
            "tokens": tokens,
            "codes": self.model.codes,
            "compression": round(8 * float(np.prod(self.shape.thwc)) / float(bits), 1),
        }

    @functools.cached_property
    def _params(self) -> Params:
        return trained.restored(self.model, self.model_dir)

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


def weights_of(model_dir: str) -> list[tuple[str, int, int]]:
    """What tells the weights in a folder apart: names, sizes and times of its files."""
    root = Path(model_dir).expanduser()
    files = sorted(p for p in root.rglob("*") if p.is_file() and _is_weights(p.relative_to(root)))
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _is_weights(path: Path) -> bool:
    return path.parts[0] == "checkpoints" or path.suffix == ".safetensors"


def sampling_of(model: Any) -> dict[str, Any]:
    """The sampler and the guidance of a model, as plain values."""
    parts = {"sampler": model.sampler, "guidance": getattr(model, "guidance", None)}
    return {
        f"{name}.{field.name}": value
        for name, part in parts.items()
        if dataclasses.is_dataclass(part)
        for field in dataclasses.fields(part)
        if isinstance(value := getattr(part, field.name), (int, float, str, bool, type(None)))
    }
