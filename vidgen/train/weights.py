"""Trained weights in one small file, and where the weights of a model are read from.

    MODEL_DIR/weights.npz       "params/stem/kernel": float16 (or float32), or int8 beside
                                "params/stem/kernel:largest"; "step"

A file to hand on holds no optimizer, no history and no program. Large kernels keep 8 bits a value:

    q = round(127 w / m),  m = max |w| over the inputs of an output channel,
    |w − q m / 127| ≤ m / 254

and everything else, m too, is in half precision. All is deflated: most weights lie close to zero,
so that a value of 8 bits takes 7.

The models of the package come as such files; whatever reads weights takes either these or
checkpoints, and of a LoRA run (`lora_weights.py`) gets its base's weights with what it has learned.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vidgen import paths
from vidgen.assets import zoo
from vidgen.train import lora_weights
from vidgen.train.checkpoint_errors import CheckpointError, check_shapes
from vidgen.train.checkpoints import Checkpointer, placed
from vidgen.train.lora_weights import LoraWeights
from vidgen.train.state import named_leaves
from vidgen.types import Params

FILE = "weights.npz"
_LARGEST = ":largest"
_STEP = "step"
_TINY = 2.0**-14  # the least normal number of half precision
_LEAST = 4096  # values of a kernel that is worth 8 bits


def open_weights(model_dir: epath.PathLike) -> Checkpointer | WeightsFile | LoraWeights:
    """Return a reader of the weights in a folder: its checkpoints, or its weight file.

    Args:
      model_dir: the folder, or the name of a model of the package (`vidgen.assets.zoo`).

    Raises:
      FileNotFoundError: the folder has neither, or the base of a LoRA run is gone.
    """
    folder = epath.Path(zoo.find(os.fspath(model_dir))).expanduser()
    own = open_own_weights(folder)
    record = lora_weights.read_record(folder)
    if record is None:
        return own
    base = open_weights(lora_weights.base_folder(record, folder))
    return LoraWeights(folder, record, adapters=own, base=base)


def open_own_weights(model_dir: epath.PathLike) -> Checkpointer | WeightsFile:
    """Return a reader of what a folder itself holds: of a LoRA run the thin matrices alone."""
    folder = epath.Path(model_dir)
    if (folder / FILE).is_file() and not (folder / "checkpoints").is_dir():
        return WeightsFile(folder)
    return Checkpointer(folder, read_only=True)


def write(
    model_dir: epath.PathLike, params: Params, step: int, *, exact: bool = False
) -> epath.Path:
    """Write the weight file of `params`, trained for `step` steps, and return its path.

    Args:
      model_dir: the folder; made if absent.
      params: the weights.
      step: of the training.
      exact: write every value in float32, and nothing in 8 or 16 bits.

    Raises:
      ValueError: a weight is not finite, or too large for half precision.
    """
    arrays: dict[str, np.ndarray] = {_STEP: np.asarray(step)}
    for name, leaf in named_leaves(params).items():
        value = np.asarray(leaf, np.float32)
        if exact and np.isfinite(value).all():
            arrays[name] = value
            continue
        if not (np.abs(value) < np.finfo(np.float16).max).all():
            raise ValueError(f"{name} contains NaN, inf or values that half precision cannot hold.")
        if name.rpartition("/")[2] in ("kernel", "embedding") and value.size >= _LEAST:
            arrays[name], arrays[name + _LARGEST] = _eight_bits(value)
        else:
            arrays[name] = value.astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path = epath.Path(model_dir).expanduser() / FILE
    paths.write(path, buffer.getvalue())
    return path


def _eight_bits(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel in 8 bits, and the largest value of each channel.

    The inputs are the longest axis before the last: kernels of attention have heads in between.
    """
    *before, _ = kernel.shape
    axis = max(range(len(before)), key=lambda i: (before[i], i))
    largest = np.abs(kernel).max(axis=axis, keepdims=True)
    # Below the least normal number half precision is coarse, and the quotient could exceed 127.
    half = np.maximum(largest, _TINY).astype(np.float16)
    return np.round(kernel * (127 / half.astype(np.float32))).astype(np.int8), half


class WeightsFile:
    """The weight file of a folder, with the reading methods of `Checkpointer`."""

    def __init__(self, model_dir: epath.PathLike) -> None:
        """Read the whole file.

        Raises:
          CheckpointError: the file is no weight file, or only a part of one.
        """
        self.path = epath.Path(model_dir).expanduser() / FILE
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = dict(file)
            self._step = int(arrays.pop(_STEP))
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} is not a whole weight file of vidgen ({error}); fetch it again."
            ) from error
        self._values = {n: _value(arrays, n) for n in arrays if not n.endswith(_LARGEST)}

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        """Nothing is open."""

    def latest_step(self) -> int:
        """Return the step that the weights were trained to."""
        return self._step

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Return shapes and dtypes of the weights; `averaged` makes no difference."""
        self._check(step)
        return _nested({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in self._values.items()})

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Return the weights; the arguments are those of `Checkpointer.restore_params`."""
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
    """Return an array in float32."""
    value, largest = arrays[name].astype(np.float32), arrays.get(name + _LARGEST)
    return value if largest is None else value * (largest.astype(np.float32) / 127)


def _nested(leaves: dict[str, Any]) -> Params:
    """Return the tree whose `named_leaves` these are."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
