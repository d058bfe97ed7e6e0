"""Trained weights in one small file, and where the weights of a model are read from.

    MODEL_DIR/weights.safetensors       "params/stem/kernel": float32, or int8 beside
                                        "params/stem/kernel:scale"

A file to hand on holds no optimizer, no history and no program. Large kernels keep 8 bits a value:

    q = round(w / s),  s = max |w| / 127 over the inputs of an output channel: |w − q s| ≤ s / 2

and everything else all of its bits. What reads weights takes either such a file or checkpoints.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from vidgen import zoo
from vidgen.train.checkpoint_errors import CheckpointError, check_shapes
from vidgen.train.checkpoints import Checkpointer, placed
from vidgen.train.model import named_leaves
from vidgen.types import Params

FILE = "weights.safetensors"
_SCALE = ":scale"
_LEAST = 4096  # values of a kernel that is worth 8 bits


def open_weights(model_dir: epath.PathLike) -> Checkpointer | WeightsFile:
    """The weights in a folder, to read: those of its checkpoints, or of its weight file.

    Args:
      model_dir: the folder, or the name of a model that comes with the package (`vidgen.zoo`).

    Raises:
      FileNotFoundError: it has neither.
    """
    folder = epath.Path(zoo.find(os.fspath(model_dir))).expanduser()
    if (folder / FILE).is_file() and not (folder / "checkpoints").is_dir():
        return WeightsFile(folder)
    return Checkpointer(folder, read_only=True)


def write(model_dir: epath.PathLike, params: Params, step: int) -> epath.Path:
    """Writes the weight file of `params`, trained for `step` steps, and returns its path."""
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in named_leaves(params).items():
        value = np.asarray(leaf, np.float32)
        if name.rpartition("/")[2] in ("kernel", "embedding") and value.size >= _LEAST:
            scale = np.maximum(np.abs(value).max(axis=-2, keepdims=True), 1e-12) / np.float32(127)
            arrays[name + _SCALE] = scale
            value = np.round(value / scale).astype(np.int8)
        arrays[name] = value
    path = epath.Path(model_dir).expanduser() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(safetensors.numpy.save(arrays, {"step": str(step)}))
    partial.replace(path)
    return path


class WeightsFile:
    """The weight file of a folder, read as a `Checkpointer` is that has one checkpoint."""

    def __init__(self, model_dir: epath.PathLike) -> None:
        """Reads all of it.

        Raises:
          CheckpointError: it is no weight file, or a part of one.
        """
        self.path = epath.Path(model_dir).expanduser() / FILE
        try:
            with safetensors.safe_open(os.fspath(self.path), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}
                self._step = int((file.metadata() or {})["step"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} is not a whole weight file of vidgen ({error}); fetch it again."
            ) from error
        self._values = {n: _value(arrays, n) for n in arrays if not n.endswith(_SCALE)}

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        """Nothing is open."""

    def latest_step(self) -> int:
        """The step that the weights were trained to."""
        return self._step

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Shapes and dtypes of the weights; `averaged` makes no difference."""
        self._check(step)
        return _nested({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in self._values.items()})

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """The weights; the arguments are those of `Checkpointer.restore_params`."""
        wanted = self.stored_params(step, averaged=averaged) if abstract is None else abstract
        check_shapes(str(self.path), _nested(self._values), wanted)
        names = iter(named_leaves(wanted))

        def load(spec: Any) -> jax.Array:
            value = jnp.asarray(self._values[next(names)], spec.dtype)
            return jax.device_put(value, placed(spec).sharding)

        return jax.tree.map(load, wanted)

    def _check(self, step: int | None) -> None:
        if step not in (None, self._step):
            raise FileNotFoundError(
                f"no weights of step {step} in {self.path}; there is {self._step} alone."
            )


def _value(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """An array with all of its bits."""
    scale = arrays.get(name + _SCALE)
    return arrays[name] if scale is None else arrays[name] * scale


def _nested(leaves: dict[str, Any]) -> Params:
    """The tree whose `named_leaves` these are."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
