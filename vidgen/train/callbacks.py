"""What a training run does every so often besides training: sample clips, held-out loss."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from vidgen.data.source import Dataset
from vidgen.data.video.encode import check_suffix, write_video
from vidgen.model import Generator, Model, TokenizerModel
from vidgen.train.batches import encode_batch, encode_captions
from vidgen.train.metrics import Accumulator
from vidgen.train.trainer import Trainer
from vidgen.types import Frozen, Params, TextEncoder, VideoBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleWriter:
    """Writes clips that the model makes to MODEL_DIR/samples/step_N.SUFFIX during training.

    Attributes:
      every: steps between two samplings; the last step is always sampled.
      suffix: kind of file that `write_video` knows: mp4, webm, gif, webp, png (a sheet), npy.
    """

    needs: ClassVar[type[Model]] = Generator  # what the model must be

    every: int
    suffix: str = "png"

    def __post_init__(self) -> None:
        _check_counts(self, "every")
        check_suffix(f"samples.{self.suffix}")

    def clips(
        self, trainer: Trainer, params: Params, encoder: TextEncoder
    ) -> Float[np.ndarray, "b t h w c"]:
        """Make the clips to write; subclasses say of what.

        Args:
          trainer: has the model, and compiles its sampling.
          params: those of the whole model, frozen parts merged (`Model.merge_params`).
          encoder: encodes prompts.

        Returns:
          Clips in [-1, 1]; b is the subclass's to choose.
        """
        raise NotImplementedError

    def __call__(
        self,
        step: int,
        trainer: Trainer,
        params: Params,
        encoder: TextEncoder,
        model_dir: epath.PathLike,
    ) -> Float[np.ndarray, "b t h w c"]:
        """Make the clips of a step, write them from the first process, and return them."""
        video = self.clips(trainer, params, encoder)
        if jax.process_index() == 0:
            folder = epath.Path(model_dir) / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"step_{step}.{self.suffix}", video, trainer.model.shape.fps)
        return video


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleVideos(SampleWriter):
    """Clips of fixed prompts, from the same noise at every step, so that files compare.

    Attributes:
      prompts: one clip each.
      seed: the seed of the noise.
    """

    prompts: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise ValueError("SampleVideos.prompts is empty; give at least one prompt.")

    def clips(
        self, trainer: Trainer, params: Params, encoder: TextEncoder
    ) -> Float[np.ndarray, "b t h w c"]:
        """Make one clip for each prompt; see `SampleWriter.clips`."""
        count = len(self.prompts)
        # Filled up so that the batch divides over the mesh; an example never sees its neighbors.
        ways = trainer.partitioner.batch_ways()
        index = np.arange(-(-count // ways) * ways) % count
        text = jax.tree.map(lambda x: np.asarray(x)[index], encode_captions(self.prompts, encoder))
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(self.seed)))(index)
        return np.asarray(trainer.sample(params, text, keys), np.float32)[:count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfHeldOutClips(SampleWriter):
    """Clips that a model makes out of held-out ones, with several rows for each example.

    Attributes:
      dataset: the held-out data; its first batch is used.
      count: examples, at most a batch.
    """

    dataset: Dataset
    count: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "count")

    def _batch(self, encoder: TextEncoder) -> VideoBatch:
        """Return the first batch of the held-out data."""
        with contextlib.closing(self.dataset.iterator()) as iterator:
            batch = encode_batch(next(iterator), encoder)
        if not isinstance(batch, VideoBatch):
            raise ValueError("sample clips are made of videos, but the data set holds tokens.")
        return batch

    def _rows(self, *videos: Float[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "n t h w c"]:
        """Return the first `count` examples, those of all `videos` one below the other."""
        rows = np.stack(videos, axis=1)[: self.count]
        return rows.reshape(-1, *videos[0].shape[1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleUpsampled(_OfHeldOutClips):
    """Held-out clips that a super-resolution stage restores after they were made small.

    Three rows for each example: the input of the stage, its output, and the true clip. `dataset` is
    the held-out data, whose first batch is used, and `count` the number of examples.

    Attributes:
      seed: the seed of the noise.
    """

    seed: int = 0

    def clips(
        self, trainer: Trainer, params: Params, encoder: TextEncoder
    ) -> Float[np.ndarray, "b t h w c"]:
        """Make input, output and true clip of each example, below each other.

        See `SampleWriter.clips`.
        """
        model = trainer.model
        assert isinstance(model, Generator)
        batch = self._batch(encoder)
        keys = jax.random.split(jax.random.key(self.seed), batch.video.shape[0])
        low = model.degrade(jnp.asarray(batch.video))
        output = np.asarray(trainer.sample(params, batch.text, keys, low), np.float32)
        # In the size of the output, by repeating frames and pixels.
        enlarged = np.asarray(low)
        for axis in (1, 2, 3):
            enlarged = np.repeat(enlarged, output.shape[axis] // enlarged.shape[axis], axis=axis)
        return self._rows(np.asarray(enlarged, np.float32), output, np.asarray(batch.video))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleReconstructions(_OfHeldOutClips):
    """Held-out clips that a tokenizer encodes and decodes.

    Two rows for each example: the reconstruction, and the true clip. `dataset` is the held-out
    data, whose first batch is used, and `count` the number of examples.
    """

    needs: ClassVar[type[Model]] = TokenizerModel

    def clips(
        self, trainer: Trainer, params: Params, encoder: TextEncoder
    ) -> Float[np.ndarray, "b t h w c"]:
        """Make the reconstruction and the true clip of each example; see `SampleWriter.clips`."""
        truth = np.asarray(self._batch(encoder).video)
        output = np.asarray(trainer.reconstruct(params, truth), np.float32)
        return self._rows(output, truth)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The loss on data that is not trained on: always the same batches and the same noise.

    Attributes:
      dataset: the held-out data.
      every: steps between two evaluations.
      batches: batches from the start of the data.
      seed: the seed of the noise.
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
        """Return the means of all metrics over the batches, each name with "eval_" before it."""
        total = Accumulator()
        part = trainer.partitioner.batch_part()
        with contextlib.closing(self.dataset.iterator(process=part)) as iterator:
            for i, raw in zip(range(self.batches), iterator, strict=False):
                batch = trainer.partitioner.to_global(encode_batch(raw, encoder))
                key = jax.random.fold_in(jax.random.key(self.seed), i)
                total.add(trainer.eval_step(params, frozen, batch, key))
        return {f"eval_{name}": value for name, value in total.result().items()}


def _check_counts(settings: SampleWriter | HeldOutLoss, *names: str) -> None:
    """Raise ValueError unless the named fields are 1 or more."""
    for name in names:
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"{type(settings).__name__}.{name} is {value}; it must be >= 1.")
