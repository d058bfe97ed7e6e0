"""Trees of weights from arrays by name, as weight files and checkpoints of others hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidgen.train.checkpoint_errors import check_shapes
from vidgen.train.checkpoints import placed
from vidgen.train.state import named_leaves
from vidgen.types import Params


def nested(leaves: Mapping[str, Any]) -> Params:
    """Make the tree whose `named_leaves` these are.

    Args:
      leaves: arrays by paths such as "params/stem/kernel".

    Returns:
      Nested dicts.

    Raises:
      TypeError: a name is the beginning of another, so that a leaf would have leaves.
    """
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise TypeError(f"{name} is inside of another tensor")
        if isinstance(node.setdefault(last, leaf), dict):
            raise TypeError(f"{name} has another tensor inside")
    return tree


def spec(shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Describe a tree of float32 arrays.

    Args:
      shapes: by paths such as "params/stem/kernel".

    Returns:
      Nested dicts of ShapeDtypeStructs.
    """
    return nested({name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()})


def restored(
    where: str, stored: Params, read: Callable[[str], np.ndarray], abstract: Params | None
) -> Params:
    """Read weights one by one, each laid out where `abstract` wants it.

    Args:
      where: what is read, for messages.
      stored: shapes there.
      read: returns the array of a name.
      abstract: shapes, dtypes and optionally shardings to load onto; None is the first device.

    Returns:
      The weights, in the tree of `abstract` (None: of `stored`).

    Raises:
      CheckpointError: the shapes differ.
    """
    wanted = stored if abstract is None else abstract
    check_shapes(where, stored, wanted)
    names = iter(named_leaves(wanted))

    def load(leaf: Any) -> jax.Array:
        value = jnp.asarray(read(next(names)), leaf.dtype)
        return jax.device_put(value, placed(leaf).sharding)

    return jax.tree.map(load, wanted)
