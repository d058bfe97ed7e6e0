"""Reads foreign weight files without running what is in them, and without PyTorch.

A pickle is a program. Here it may call only what builds an array: every other name that it asks
for is refused before it is looked up. Published weights of T5 1.1, Inception-v3 and older CLIPs are
files of PyTorch alone, which a user of JAX need not have. Three kinds of file are read:

    .safetensors        no pickle at all
    .pkl, .ckpt         a pickle of containers and numpy arrays (`read_arrays`)
    .pth, .pt           PyTorch's `torch.save` of a state dict (`read_tensors`): since 1.6 a zip of
                        `*/data.pkl` and one raw file for each storage, before that a few pickles
                        followed by the raw storages. Tensors are (storage, offset, size, stride).
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # opens a `torch.save` file older than PyTorch 1.6
_LEGACY_PICKLES = 3  # magic, protocol version, properties of the machine
_RECONSTRUCT = np.empty(0).__reduce__()[0]  # what numpy itself names in a pickled array

_STORAGES: Mapping[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class WeightFileError(ValueError):
    """A weight file is not what it should be, or asks for more than building arrays."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_LoadStorage = Callable[[_Storage], np.ndarray]


def read_arrays(path: Path) -> Any:
    """Read the containers and numpy arrays of a pickle.

    Args:
      path: the path of a .pkl or .ckpt file.

    Returns:
      What was pickled.

    Raises:
      WeightFileError: the pickle asks for anything else, or is damaged.
      FileNotFoundError: there is no such file.
    """
    allowed = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
    names = {name: _RECONSTRUCT for name in allowed}
    names |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    with _open(path) as stream:
        return _load(_Reader(stream, names), path)


def read_tensors(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Read the tensors of a state dict.

    Args:
      path: the path of a .safetensors file, or one of `torch.save`.
      prefix: what the names of the tensors begin with that are read; "" reads all.

    Returns:
      Arrays by their whole names, in the dtypes that are stored.

    Raises:
      WeightFileError: the file is of neither kind, is damaged, or its pickle asks for more.
      FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        with _open(path):
            pass
        try:
            tensors = safetensors.numpy.load_file(path)
        except safetensors.SafetensorError as error:
            raise WeightFileError(f"{path} is not a safetensors file ({error}).") from error
        return {name: value for name, value in tensors.items() if name.startswith(prefix)}
    with TorchFile(path) as file:
        return {name: file.read(name) for name in file.names if name.startswith(prefix)}


def expect(
    tensors: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    *,
    path: Path,
    kind: str,
) -> np.ndarray:
    """Take a tensor that must be there.

    Args:
      tensors: the tensors of a file.
      name: the name of the tensor.
      shape: the shape that it must have.
      path: the path of the file, for the message.
      kind: the kind of network, for the message.

    Returns:
      The tensor as float32.

    Raises:
      WeightFileError: it is missing or of another shape, so `path` holds no network of that `kind`.
    """
    actual = tensors[name].shape if name in tensors else None
    if actual != shape:
        raise WeightFileError(
            f"{path} is no {kind}: {name} must be of shape {shape}, "
            f"{'it is missing' if actual is None else f'it is {actual}'}."
        )
    return np.asarray(tensors[name], np.float32)


class TorchFile:
    """A file of `torch.save` whose tensors are read one by one; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file and read the list of its tensors.

        Raises:
          WeightFileError: it is of no such kind, is damaged, or its pickle asks for more.
          FileNotFoundError: there is no such file.
        """
        self._path = Path(path)
        self._stream = _open(self._path)
        try:
            is_zip = self._stream.read(4) == b"PK\x03\x04"
            self._stream.seek(0)
            read = _read_zip if is_zip else _read_legacy
            state, self._load = read(self._stream, self._path)
            tensors = _state_dict(state, self._path)
            self._tensors = {str(n): v for n, v in tensors.items() if isinstance(v, _Tensor)}
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._tensors)

    def read(self, name: str) -> np.ndarray:
        """Read one tensor.

        Args:
          name: one of `names`.

        Returns:
          A copy of it, in the dtype that is stored.

        Raises:
          WeightFileError: the file is damaged there.
        """
        tensor = self._tensors[name]
        try:
            return _strided(self._load(tensor.storage), tensor)
        except (KeyError, ValueError) as error:
            raise WeightFileError(f"{self._path} is damaged at tensor {name!r}.") from error


def _open(path: Path) -> io.BufferedReader:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise FileNotFoundError(f"the weight file {path} cannot be read ({error.strerror}).") from (
            error
        )


class _Reader(pickle.Unpickler):
    """An unpickler that knows the given names and no others."""

    def __init__(
        self, stream: io.BufferedReader | io.BytesIO, names: Mapping[tuple[str, str], Any]
    ) -> None:
        super().__init__(stream)
        self._names = names
        self.dtypes: dict[str, np.dtype] = {}  # of the storages that were referred to, by key

    def find_class(self, module: str, name: str) -> object:
        """Return the object of that name if it is one of the given ones; import nothing."""
        if (module, name) not in self._names:
            raise WeightFileError(f"it asks for {module}.{name}")
        return self._names[module, name]

    def persistent_load(self, pid: object) -> _Storage:
        """Read a reference to a storage: ("storage", type, key, device, number of elements)."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and isinstance(pid[1], np.dtype)):
            raise WeightFileError("it refers to something that is no tensor storage")
        if len(pid) > 5 and pid[5] is not None:
            raise WeightFileError("it holds a view of a storage")
        self.dtypes[str(pid[2])] = pid[1]
        return _Storage(str(pid[2]), pid[1])


def _load(reader: _Reader, path: Path) -> Any:
    try:
        return reader.load()
    except WeightFileError as error:
        raise WeightFileError(f"{path} is refused: {error}, which weights never need.") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightFileError(f"{path} is not a readable weight file ({error}).") from error


def _tensor(
    storage: object, offset: int, size: Iterable[int], stride: Iterable[int], *_: object
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise WeightFileError("it builds a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


_TORCH_NAMES: Mapping[tuple[str, str], Any] = {
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def _read_zip(stream: io.BufferedReader, path: Path) -> tuple[Any, _LoadStorage]:
    """Return the pickled state, and a function that reads a storage."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise WeightFileError(f"{path} is not a readable weight file ({error}).") from error
    names = archive.namelist()
    index = next((name for name in names if name.split("/")[1:] == ["data.pkl"]), None)
    if index is None:
        raise WeightFileError(f"{path} is a zip without PyTorch's data.pkl.")
    root = index.split("/")[0]
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise WeightFileError(f"{path} was written on a big-endian machine.")
    state = _load(_Reader(io.BytesIO(archive.read(index)), _TORCH_NAMES), path)

    def load(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{root}/data/{storage.key}"), storage.dtype)

    return state, load


def _read_legacy(stream: io.BufferedReader, path: Path) -> tuple[Any, _LoadStorage]:
    """Return the pickled state, and a function that reads a storage."""
    magic, _, machine = (_load(_Reader(stream, {}), path) for _ in range(_LEGACY_PICKLES))
    if magic != _LEGACY_MAGIC or not isinstance(machine, dict):
        raise WeightFileError(f"{path} was not written by torch.save.")
    if not machine.get("little_endian", True):
        raise WeightFileError(f"{path} was written on a big-endian machine.")
    reader = _Reader(stream, _TORCH_NAMES)
    state = _load(reader, path)
    places: dict[str, tuple[int, int]] = {}
    for key in _load(_Reader(stream, {}), path):  # for each storage: how many elements, elements
        count = int.from_bytes(stream.read(8), "little")
        size = count * (reader.dtypes[key].itemsize if key in reader.dtypes else 0)
        places[key] = (stream.tell(), size)
        stream.seek(size, io.SEEK_CUR)

    def load(storage: _Storage) -> np.ndarray:
        start, size = places[storage.key]
        stream.seek(start)
        return np.frombuffer(stream.read(size), storage.dtype)

    return state, load


def _state_dict(state: object, path: Path) -> Mapping[str, object]:
    if not isinstance(state, Mapping) or not any(isinstance(v, _Tensor) for v in state.values()):
        raise WeightFileError(
            f"{path} holds no state dict (tensors by name); save one with "
            "torch.save(model.state_dict(), path)."
        )
    return state


def _strided(flat: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Copy a tensor out of its storage; a ValueError if it would reach outside."""
    _, offset, size, stride = tensor
    steps = list(zip(size, stride, strict=True))
    if 0 in size:
        return np.empty(size, flat.dtype)
    last = offset + sum((n - 1) * step for n, step in steps)
    if min(offset, 0, *size, *stride) < 0 or last >= flat.size:
        raise ValueError("a tensor reaches outside of its storage")
    bytes_ = [step * flat.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(flat[offset:], size, bytes_, writeable=False)
    return np.array(view)
