"""Trained networks that stay in memory from call to call: stages, and a tokenizer by itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidgen.inference.stage_folders import Trained
from vidgen.inference.stages import Stage
from vidgen.model import TokenizerModel
from vidgen.train import frozen
from vidgen.train.partitioning import Partitioner
from vidgen.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptStage(Stage):
    """A stage whose weights are loaded once for all calls of one step and mesh.

    Attributes:
      kept: what was loaded last, and for which step and mesh; empty before. A stage that is made of
        this one by `dataclasses.replace` has the same.
    """

    kept: list[tuple[Any, Params]] = dataclasses.field(
        default_factory=list, compare=False, repr=False
    )

    @classmethod
    def of(cls, stage: Stage) -> KeptStage:
        """Return a stage as one that keeps its weights.

        Args:
          stage: a stage whose fields are copied.

        Returns:
          The same stage, with no weights in memory yet.
        """
        return cls(**{f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)})

    def load(self, step: int | None = None, mesh: Partitioner | None = None) -> Params:
        """Load what the model generates with, or return what was loaded last; see `Stage.load`."""
        for wanted, params in self.kept:
            if wanted == (step, mesh):
                return params
        self.kept.clear()  # not two in memory while the next is read
        params = super().load(step, mesh)
        self.kept.append(((step, mesh), params))
        return params


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its weights.

    Attributes:
      model: its settings.
      load: loads the weights.
    """

    model: TokenizerModel
    load: Callable[[], Params]

    @classmethod
    def of(cls, trained: Trained) -> Tokenizer:
        """Return the tokenizer that a training run has left.

        Args:
          trained: the run.

        Returns:
          A tokenizer whose weights are read when it is first used.

        Raises:
          ValueError: it left another kind of model.
        """
        model = trained.model
        if not isinstance(model, TokenizerModel):
            kind = type(model).__name__
            raise ValueError(f"{trained.model_dir} holds a {kind}, which is no tokenizer.")
        return cls(model, functools.partial(frozen.restored, model, trained.model_dir))

    @functools.cached_property
    def _params(self) -> Params:
        return self.load()

    @functools.cached_property
    def _programs(self) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
        return jax.jit(self.model.encode), jax.jit(self.model.decode)

    def encode(self, video: Float[np.ndarray, "b t h w c"]) -> Int[np.ndarray, "b gt gh gw"]:
        """Turn clips into tokens.

        Args:
          video: clips in [-1, 1].

        Returns:
          Tokens from 0 to `model.codes` - 1.

        Raises:
          ValueError: the clips do not fit its patches.
        """
        self.model.grid(*video.shape[1:4])
        return np.asarray(self._programs[0](self._params, jnp.asarray(video)))

    def reconstruct(self, video: Float[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b t h w c"]:
        """Encode clips, and decode their tokens.

        Args:
          video: clips in [-1, 1].

        Returns:
          Clips of the same size, about in [-1, 1].

        Raises:
          ValueError: the clips do not fit its patches.
        """
        decoded = self._programs[1](self._params, jnp.asarray(self.encode(video)))
        return np.asarray(decoded, np.float32)
