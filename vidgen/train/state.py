"""The state of a training, and the averaged weights in it.

Averaged weights θ̄ (EMA) follow the weights θ with a warm-up, so that a short run is not an average
over its own random start:

    d(n) = min(decay, (1 + n) / (10 + n)),    θ̄ ← d(n) θ̄ + (1 − d(n)) θ

with n the number of updates made before this one. d reaches 0.9999 after about 90,000 updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Float, Int

from vidgen.types import Params


@no_type_check
class TrainState(PyTreeNode):
    """All that a checkpoint must hold to go on exactly; randomness is a function of `step`."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema: Params | None = None
    power_ema: Mapping[str, Params] | None = None  # by their lengths (`power_ema.py`)

    def inference_params(self) -> Params:
        """Return the averaged weights where they are kept, otherwise the weights."""
        return self.params if self.ema is None else self.ema


def ema_decay_at(count: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Return d(n) of the module docstring, the decay with its warm-up.

    Args:
      count: n, updates made so far.
      decay: its limit, in [0, 1).

    Returns:
      A decay from 0.1 to `decay`.
    """
    n = jnp.asarray(count, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1.0 + n) / (10.0 + n))


def ema_update(ema: Params, params: Params, count: Int[Array, ""], decay: float) -> Params:
    """Move averaged weights after one more update.

    Args:
      ema: θ̄ before it.
      params: θ after it.
      count: updates made before it.
      decay: the limit of the decay, in [0, 1).

    Returns:
      θ̄ after it, in its own dtype.
    """
    d = ema_decay_at(count, decay)
    return jax.tree.map(lambda e, p: (e + (1.0 - d) * (p - e)).astype(e.dtype), ema, params)


def named_leaves(tree: Params) -> dict[str, Any]:
    """Return the leaves of a tree by their path, as in "params/stem/kernel".

    Args:
      tree: any PyTree.

    Returns:
      The leaves in the order of the tree.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
