"""Fresh parameters without compiling: each is drawn on the host and laid out over the mesh.

The values of an array depend on the key and on its path in the tree alone, so a model starts from
the same weights on every mesh and with any number of processes.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from vidgen import traced
from vidgen.model import Model
from vidgen.train.partitioning import is_box
from vidgen.types import Batch, Params


def boxed_shapes(model: Model, batch: Batch) -> Params:
    """Describe fresh parameters with the names of their axes; nothing is allocated.

    Args:
      model: the model.
      batch: ShapeDtypeStructs of a batch.

    Returns:
      ShapeDtypeStructs in Linen's boxes, from an earlier run if there was one (vidgen/traced.py).
    """
    return traced.shapes(_fresh, model, batch)


def _fresh(model: Model, batch: Batch) -> Params:
    arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    return model.init(jax.random.key(0), arrays)


def is_described(boxed_params: Params) -> bool:
    """Whether every box says what its parameter is drawn from (`nn/initializers.py`).

    Args:
      boxed_params: parameters or ShapeDtypeStructs in their boxes.

    Returns:
      True where `draw` can make them.
    """
    boxes = jax.tree.leaves(boxed_params, is_leaf=is_box)
    return all(getattr(box, "distribution", None) is not None for box in boxes)


def draw(boxed_params: Params, key: Key[Array, ""], shardings: Params) -> Params:
    """Draw fresh parameters; the host holds one whole array at a time.

    Args:
      boxed_params: boxed ShapeDtypeStructs with a distribution each (`is_described`).
      key: the random key of the run; each array folds in the hash of its own path.
      shardings: the shardings of the unboxed parameters, a tree like theirs.

    Returns:
      The parameters without boxes, laid out as `shardings` says.
    """
    words = np.asarray(jax.random.key_data(key)).tolist()

    def one(path: Any, box: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng([*words, zlib.crc32(name.encode())])
        values = box.distribution.fill(rng, box.value.shape).astype(box.value.dtype)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree_util.tree_map_with_path(one, boxed_params, shardings, is_leaf=is_box)
