"""Start from the weights of another run: fine-tuning, distillation.

    θ_p = the other run's θ_p   where it has a parameter p (its shape must be the same)
    θ_p = fresh                 where it has none, as for the input that a distilled student adds

Optimizer, step number and data start anew: this is another run, not its continuation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.state import named_leaves
from vidgen.train.weights import open_weights
from vidgen.types import Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Loads the weights of another run, for `Train.initial`.

    Attributes:
      model_dir: folder of that run, with checkpoints or a weight file; "" keeps fresh weights.
      averaged: take its averaged weights, where it kept an average.
      step: which of its checkpoints; None is the newest.
    """

    model_dir: str = ""
    averaged: bool = True
    step: int | None = None

    def __call__(self, fresh: Params) -> Params:
        """Return `fresh` with all parameters that the other run has, laid out over devices alike.

        Raises:
          FileNotFoundError: that folder holds no checkpoint.
          CheckpointError: a parameter has another shape there, or none has its name.
        """
        if not str(self.model_dir):
            return fresh
        try:
            with open_weights(self.model_dir) as checkpointer:
                wanted = named_leaves(fresh)
                stored = checkpointer.stored_params(self.step, averaged=self.averaged)
                self._check_shapes(wanted, named_leaves(stored))
                spec = _map_named(stored, lambda name, x: wanted.get(name, x))
                loaded = checkpointer.restore_params(spec, self.step, averaged=self.averaged)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no weights to start from: {error}") from error
        known = named_leaves(loaded)
        self._log([n for n in wanted if n not in known], [n for n in known if n not in wanted])
        return _map_named(fresh, lambda name, x: known.get(name, x))

    def _check_shapes(self, wanted: dict[str, Any], stored: dict[str, Any]) -> None:
        if not wanted.keys() & stored.keys():
            raise CheckpointError(
                f"{self.model_dir} holds the weights of another kind of model: it has no "
                f"parameter {next(iter(wanted))}, nor any other of this one."
            )
        for name, leaf in wanted.items():
            here = tuple(leaf.shape)
            there = tuple(stored[name].shape) if name in stored else here
            if here != there:
                raise CheckpointError(
                    f"cannot start from the weights of {self.model_dir}: {name} is {there} there "
                    f"and {here} here; use a model of the same size (its config.gin tells it)."
                )

    def _log(self, missing: Sequence[str], unused: Sequence[str]) -> None:
        if jax.process_index() != 0:
            return
        text = f"starting from the weights of {self.model_dir}"
        if missing:
            text += f"; not there, so fresh: {_listed(missing)}"
        if unused:
            text += f"; there, but not used: {_listed(unused)}"
        log.info(text)


def _map_named(tree: Params, function: Callable[[str, Any], Any]) -> Params:
    """Return `tree` with `function(path, leaf)` for each leaf."""
    leaves = [function(name, leaf) for name, leaf in named_leaves(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _listed(names: Sequence[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
