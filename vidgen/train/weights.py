"""Trained weights in one file, and where the weights of a model are read from.

    MODEL_DIR/model.safetensors   "params/stem/kernel": as it was trained, or int8 beside
                                  "params/stem/kernel:largest"; "step" in the header

A file to hand on holds no optimizer, no history and no program: a safetensors file is a table of
names, shapes and numbers. In full it holds the weights to the bit. In 8 bits, large kernels keep 8
bits a value:

    q = round(127 w / m),  m = max |w| over the inputs of an output channel,
    |w − q m / 127| ≤ m / 254

and everything else, m too, is in half precision. `vidgen export` writes such files, and the models
of the package are some. Whatever reads weights takes them, or checkpoints, or `weights.npz`, the
deflated form of the same that was written before; and of a LoRA run (`lora_weights.py`) it gets its
base's weights with what the run has learned.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from vidgen.assets import model_folders
from vidgen.train import lora_weights, named_arrays, t5x_weights
from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import Checkpointer, WeightsReader
from vidgen.train.lora_weights import LoraWeights
from vidgen.train.state import named_leaves
from vidgen.train.t5x_weights import T5xWeights
from vidgen.types import Params

FILE = "model.safetensors"
NPZ_FILE = "weights.npz"
_FORMAT = {"format": "vidgen"}
_LARGEST = ":largest"
_STEP = "step"
_TINY = 2.0**-14  # the least normal number of half precision
_LEAST = 4096  # values of a kernel that is worth 8 bits
_NOT_WHOLE = (safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, EOFError)
_NOT_WHOLE += (KeyError, TypeError, ValueError)


def open_weights(model_dir: epath.PathLike) -> WeightsReader:
    """Open the weights in a folder: its checkpoints, ours or t5x's, or its file.

    Args:
      model_dir: the folder, also of a store ("hf://owner/model"), or the name of a model of the
        package (`vidgen.assets.model_folders`).

    Returns:
      A reader, to use in a `with` block; that of a LoRA run reads merged weights.

    Raises:
      FileNotFoundError: the folder has neither, or the base of a LoRA run is gone.
      CheckpointError: the file is no weight file, or only a part of one.
    """
    folder = epath.Path(model_folders.find(os.fspath(model_dir))).expanduser()
    reader = open_own_weights(folder)
    record = lora_weights.read_record(folder)
    if record is None:
        return reader
    base = open_weights(lora_weights.base_folder(record, folder))
    return LoraWeights(folder, record, adapters=reader, base=base)


def open_own_weights(model_dir: epath.PathLike) -> WeightsReader:
    """Open what a folder itself holds: of a LoRA run the thin matrices alone.

    Args:
      model_dir: a folder; names of models are not looked up.

    Returns:
      A reader, to use in a `with` block. Checkpoints come first, then a weight file, then t5x's.

    Raises:
      FileNotFoundError: the folder has none of these.
      CheckpointError: the file is no weight file, or only a part of one.
    """
    folder = epath.Path(model_dir)
    if not (folder / "checkpoints").is_dir():
        for name in (FILE, NPZ_FILE):
            if (folder / name).is_file():
                return WeightsFile(folder / name)
        if t5x_weights.steps(folder):
            return T5xWeights(folder)
    return Checkpointer(folder, read_only=True)


def write(
    model_dir: epath.PathLike, params: Params, step: int, *, eight_bits: bool = True
) -> epath.Path:
    """Write the weight file of a model, whole or not at all.

    Args:
      model_dir: a folder of this machine, which is made if need be.
      params: the weights.
      step: the step that they were trained for.
      eight_bits: large kernels in 8 bits and the rest in half precision; False: all in float32.

    Returns:
      The path of the file.

    Raises:
      ValueError: a weight is not finite, or too large for half precision.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in named_leaves(params).items():
        value = np.asarray(leaf, np.float32)
        limit = np.finfo(np.float16 if eight_bits else np.float32).max
        if not (np.abs(value) <= limit).all():
            size = "half" if eight_bits else "single"
            raise ValueError(
                f"{name} contains NaN, inf or values that {size} precision cannot hold."
            )
        if not eight_bits:
            arrays[name] = value
        elif name.rpartition("/")[2] in ("kernel", "embedding") and value.size >= _LEAST:
            arrays[name], arrays[name + _LARGEST] = _eight_bits(value)
        else:
            arrays[name] = value.astype(np.float16)
    return _save(model_dir, arrays, step)


def _save(model_dir: epath.PathLike, arrays: dict[str, np.ndarray], step: int) -> epath.Path:
    """Write the weight file whole or not at all."""
    path = epath.Path(model_dir).expanduser() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{FILE}.{os.getpid()}.partial"
    try:
        # The library writes the memory of an array, whatever its strides.
        whole = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        safetensors.numpy.save_file(whole, os.fspath(partial), _FORMAT | {_STEP: f"{step}"})
        os.chmod(partial, 0o666 & ~_umask())  # the library lets nobody else read it
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _umask() -> int:
    """Return which permissions new files of this process lack."""
    os.umask(mask := os.umask(0o022))
    return mask


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


class WeightsFile(WeightsReader):
    """A weight file; what is open of it is a mapping, which goes with this object."""

    def __init__(self, path: epath.PathLike) -> None:
        """Open a .safetensors file, whose tensors are read when they are asked for, or an .npz.

        Raises:
          CheckpointError: the file is no weight file, or only a part of one.
        """
        self.path = epath.Path(path)
        try:
            opened = _open_npz if self.path.suffix == ".npz" else _open_safetensors
            self._shapes, self._read, self._step = opened(self.path)
            shapes = {n: shape for n, shape in self._shapes.items() if not n.endswith(_LARGEST)}
            self._tree = named_arrays.spec(shapes)
        except _NOT_WHOLE as error:
            raise CheckpointError(
                f"{self.path} is not a whole weight file of vidgen ({error}); fetch it again."
            ) from error

    def latest_step(self) -> int:
        """Return the step that the weights were trained to."""
        return self._step

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Describe the one set of weights, in float32; see `Checkpointer.stored_params`.

        Raises:
          FileNotFoundError: `step` is not that of the file.
        """
        if step not in (None, self._step):
            raise FileNotFoundError(
                f"no weights of step {step} in {self.path}; there is {self._step} alone."
            )
        return self._tree

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Read the one set of weights; see `Checkpointer.restore_params`.

        Raises:
          FileNotFoundError: `step` is not that of the file.
          CheckpointError: they are of another model.
        """
        stored = self.stored_params(step, averaged=averaged)
        return named_arrays.restored(str(self.path), stored, self._value, abstract)

    @property
    def in_eight_bits(self) -> bool:
        """Whether large kernels are in 8 bits."""
        return any(name.endswith(_LARGEST) for name in self._shapes)

    def copy_to(self, model_dir: epath.PathLike) -> epath.Path:
        """Write the same numbers to another folder: in 8 bits, nothing is rounded again.

        Args:
          model_dir: a folder of this machine, which is made if need be.

        Returns:
          The path of the new file.
        """
        return _save(model_dir, {name: self._read(name) for name in self._shapes}, self._step)

    def _value(self, name: str) -> np.ndarray:
        """Return an array in float32."""
        value = self._read(name).astype(np.float32)
        if name + _LARGEST not in self._shapes:
            return value
        return value * (self._read(name + _LARGEST).astype(np.float32) / 127)


# The shapes in a file, what reads an array of it, and the step.
_Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray], int]


def _open_safetensors(path: epath.Path) -> _Opened:
    file = safetensors.safe_open(os.fspath(path), framework="np")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    return shapes, file.get_tensor, int((file.metadata() or {})[_STEP])


def _open_npz(path: epath.Path) -> _Opened:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = dict(file)
    step = int(arrays.pop(_STEP))
    return {name: value.shape for name, value in arrays.items()}, arrays.__getitem__, step
