"""What a training run does every so often besides training: sample clips, held-out loss."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from vidgen.data.video.encode import check_suffix, write_video
from vidgen.model import Generator, Model, TokenizerModel
from vidgen.train.batches import Dataset, encode_batch, encode_captions
from vidgen.train.metrics import Accumulator
from vidgen.train.trainer import Trainer
from vidgen.types import Frozen, Params, TextEncoder, VideoBatch


@runtime_checkable
class Sampler(Protocol):
    """Makes clips during training, to look at."""

    needs: ClassVar[type[Model]]  # what the model must be

    @property
    def every(self) -> int:
        """Steps between two samplings."""
        ...

    @property
    def suffix(self) -> str:
        """Kind of file that it writes, without the dot."""
        ...

    def __call__(
        self, step: int, trainer: Trainer, params: Params, encoder: TextEncoder, model_dir: Any
    ) -> Float[np.ndarray, "b t h w c"]:
        """Makes, writes, and returns the clips."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleVideos:
    """Writes clips of fixed prompts with fixed noise to MODEL_DIR/samples/step_N.SUFFIX.

    Attributes:
      prompts: one clip each.
      every: steps between two samplings; the last step is always sampled.
      suffix: kind of file that `write_video` knows: mp4, webm, gif, webp, png (a sheet), npy.
      seed: of the noise, the same at every step so that files compare.
    """

    needs: ClassVar[type[Model]] = Generator

    prompts: tuple[str, ...]
    every: int
    suffix: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise ValueError("SampleVideos.prompts is empty; give at least one prompt.")
        _check_counts(self, "every")
        check_suffix(f"samples.{self.suffix}")

    def __call__(
        self, step: int, trainer: Trainer, params: Params, encoder: TextEncoder, model_dir: Any
    ) -> Float[np.ndarray, "b t h w c"]:
        """Samples, writes, and returns the clips."""
        count = len(self.prompts)
        # Filled up so that the batch divides over the mesh; an example never sees its neighbors.
        ways = trainer.partitioner.batch_ways()
        index = np.arange(-(-count // ways) * ways) % count
        text = jax.tree.map(lambda x: np.asarray(x)[index], encode_captions(self.prompts, encoder))
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(self.seed)))(index)
        video = np.asarray(trainer.sample(params, text, keys), np.float32)[:count]
        _write(video, trainer, f"step_{step}.{self.suffix}", model_dir)
        return video


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleUpsampled:
    """Lets a super-resolution stage restore held-out clips that were made small.

    Writes MODEL_DIR/samples/step_N.SUFFIX with three clips for each example, one below the other:
    what the stage was given, what it made of it, and the truth.

    Attributes:
      dataset: the held-out data; its first batch is used.
      every: steps between two samplings; the last step is always sampled.
      count: examples, at most a batch.
      suffix: kind of file, as for `SampleVideos`.
      seed: of the noise.
    """

    needs: ClassVar[type[Model]] = Generator

    dataset: Dataset
    every: int
    count: int = 4
    suffix: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(self, "every", "count")
        check_suffix(f"samples.{self.suffix}")

    def __call__(
        self, step: int, trainer: Trainer, params: Params, encoder: TextEncoder, model_dir: Any
    ) -> Float[np.ndarray, "b t h w c"]:
        """Samples, writes, and returns the clips that were written."""
        model = trainer.model
        assert isinstance(model, Generator)
        batch = _first_batch(self.dataset, encoder)
        keys = jax.random.split(jax.random.key(self.seed), batch.video.shape[0])
        low = model.degrade(batch.video)
        made = np.asarray(trainer.sample(params, batch.text, keys, low), np.float32)
        given = np.asarray(_enlarged(np.asarray(low), made.shape), np.float32)
        rows = np.stack([given, made, batch.video], axis=1)[: self.count]
        video = rows.reshape(-1, *made.shape[1:])
        _write(video, trainer, f"step_{step}.{self.suffix}", model_dir)
        return video


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleReconstructions:
    """Lets a tokenizer encode and decode held-out clips.

    Writes MODEL_DIR/samples/step_N.SUFFIX with two clips for each example, one below the other:
    what came out, and the truth.

    Attributes:
      dataset: the held-out data; its first batch is used.
      every: steps between two samplings; the last step is always sampled.
      count: examples, at most a batch.
      suffix: kind of file, as for `SampleVideos`.
    """

    needs: ClassVar[type[Model]] = TokenizerModel

    dataset: Dataset
    every: int
    count: int = 4
    suffix: str = "png"

    def __post_init__(self) -> None:
        _check_counts(self, "every", "count")
        check_suffix(f"samples.{self.suffix}")

    def __call__(
        self, step: int, trainer: Trainer, params: Params, encoder: TextEncoder, model_dir: Any
    ) -> Float[np.ndarray, "b t h w c"]:
        """Encodes and decodes, writes, and returns the clips that were written."""
        truth = np.asarray(_first_batch(self.dataset, encoder).video)
        made = np.asarray(trainer.reconstruct(params, truth), np.float32)
        video = np.stack([made, truth], axis=1)[: self.count].reshape(-1, *made.shape[1:])
        _write(video, trainer, f"step_{step}.{self.suffix}", model_dir)
        return video


def _first_batch(dataset: Dataset, encoder: TextEncoder) -> VideoBatch:
    """The same batch every time."""
    iterator = dataset.iterator(process=(0, 1))
    batch = encode_batch(next(iterator), encoder)
    if hasattr(iterator, "close"):
        iterator.close()
    if not isinstance(batch, VideoBatch):
        raise ValueError("sample clips are made of videos, and their data set holds tokens.")
    return batch


def _enlarged(
    low: Float[np.ndarray, "b t0 h0 w0 c"], shape: tuple[int, ...]
) -> Float[np.ndarray, "b t h w c"]:
    """`low` in `shape` by repeating frames and pixels."""
    for axis in (1, 2, 3):
        low = np.repeat(low, shape[axis] // low.shape[axis], axis=axis)
    return low


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The loss on data that is not trained on: always the same batches and the same noise.

    Attributes:
      dataset: the held-out data.
      every: steps between two evaluations.
      batches: how many, from the start of the data.
      seed: of the noise.
    """

    dataset: Dataset
    every: int
    batches: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(self, "every", "batches")

    def __call__(
        self, trainer: Trainer, params: Params, frozen: Frozen, encoder: TextEncoder
    ) -> dict[str, float]:
        """Means over the batches, each name with "eval_" before it."""
        iterator = self.dataset.iterator(process=trainer.partitioner.batch_part())
        total = Accumulator()
        for i in range(self.batches):
            raw = next(iterator, None)
            if raw is None:
                break
            batch = trainer.partitioner.to_global(encode_batch(raw, encoder))
            key = jax.random.fold_in(jax.random.key(self.seed), i)
            total.add(trainer.eval_step(params, frozen, batch, key))
        if hasattr(iterator, "close"):
            iterator.close()
        return {f"eval_{name}": value for name, value in total.result().items()}


def _check_counts(settings: Any, *names: str) -> None:
    """Raises ValueError unless these fields are 1 or more."""
    for name in names:
        if getattr(settings, name) < 1:
            owner = type(settings).__name__
            raise ValueError(f"{owner}.{name} is {getattr(settings, name)}; it must be >= 1.")


def _write(
    video: Float[np.ndarray, "b t h w c"], trainer: Trainer, name: str, model_dir: epath.PathLike
) -> None:
    """MODEL_DIR/samples/NAME, by the first process."""
    if jax.process_index() != 0:
        return
    folder = epath.Path(model_dir) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / name, video, trainer.model.shape.fps)
