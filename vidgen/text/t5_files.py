"""Published weights of T5 1.1: the arrays of its encoder, read one at a time from any layout.

    Hugging Face   model.safetensors, or an index and shards; pytorch_model.bin likewise, through a
                   reader that runs nothing
    t5x            `checkpoint` (msgpack) beside a zarr array a parameter
    orbax          zarr arrays in folders, or all of them in one OCDBT store

Hugging Face keeps products as [out in], t5x as [in out]; `layer` and `outer` give all of them by
our names as [in out].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
import tensorstore
from flax import serialization

from vidgen.pretrained import weight_files
from vidgen.text.t5_network import BUCKETS, Size

# Our name -> (Hugging Face's, t5x's), inside a layer.
_LAYER: Mapping[str, tuple[str, str]] = {
    "attention_norm": ("layer.0.layer_norm.weight", "pre_attention_layer_norm.scale"),
    "query": ("layer.0.SelfAttention.q.weight", "attention.query.kernel"),
    "key": ("layer.0.SelfAttention.k.weight", "attention.key.kernel"),
    "value": ("layer.0.SelfAttention.v.weight", "attention.value.kernel"),
    "out": ("layer.0.SelfAttention.o.weight", "attention.out.kernel"),
    "mlp_norm": ("layer.1.layer_norm.weight", "pre_mlp_layer_norm.scale"),
    "gate": ("layer.1.DenseReluDense.wi_0.weight", "mlp.wi_0.kernel"),
    "up": ("layer.1.DenseReluDense.wi_1.weight", "mlp.wi_1.kernel"),
    "down": ("layer.1.DenseReluDense.wo.weight", "mlp.wo.kernel"),
}
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_OUTER: Mapping[str, tuple[str, str]] = {
    "embedding": ("shared.weight", "token_embedder.embedding"),
    "distance": (_BIAS, "encoder.relpos_bias.rel_embedding"),
    "norm": ("encoder.final_layer_norm.weight", "encoder.encoder_norm.scale"),
}
_ENDS = 1 << 20  # bytes of each end of a file that tell it from others


class T5FileError(ValueError):
    """There are no weights of T5 1.1 in a folder, or others than expected."""


@runtime_checkable
class Arrays(Protocol):
    """Named arrays on disk."""

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        ...

    def close(self) -> None:
        """Lets go of the files."""
        ...


class SafetensorsArrays:
    """Those of some .safetensors files."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Reads the list of names in each file."""
        self._file: dict[str, Path] = {}
        for path in files:
            try:
                with safetensors.safe_open(str(path), framework="numpy") as file:
                    self._file |= dict.fromkeys(file.keys(), path)
            except safetensors.SafetensorError as error:
                raise T5FileError(f"{path} is not a whole safetensors file ({error}).") from error

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        return list(self._file)

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        with safetensors.safe_open(str(self._file[name]), framework="numpy") as file:
            return file.get_tensor(name)

    def close(self) -> None:
        """Nothing is open."""


class TorchArrays:
    """Those of some files of PyTorch's, which are read in place."""

    def __init__(self, files: Sequence[Path], index: Mapping[str, str] | None) -> None:
        """`index` tells the file of each name, where there are several files."""
        opened = {path.name: weight_files.TorchFile(path) for path in files}
        if index is None:
            index = dict.fromkeys(opened[files[0].name].names, files[0].name)
        self._file = {name: opened[file] for name, file in index.items()}

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        return list(self._file)

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        return self._file[name].read(name)

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._file.values():
            file.close()


class ZarrArrays:
    """Those of a checkpoint of t5x or orbax: zarr arrays, and some inside a msgpack file."""

    def __init__(self, folder: Path) -> None:
        """Lists them."""
        self._inline: dict[str, np.ndarray] = {}
        if (folder / "manifest.ocdbt").is_file():
            base: dict[str, Any] = {"driver": "ocdbt", "base": f"file://{folder.resolve()}/"}
        else:
            base = {"driver": "file", "path": f"{folder.resolve()}/"}
        listed = tensorstore.KvStore.open(base).result().list().result()
        found = [key.decode() for key in listed]
        paths = [key.removesuffix("/.zarray") for key in found if key.endswith("/.zarray")]
        self._spec = {
            _plain(path): {
                "driver": "zarr",
                "kvstore": base | {"path": base.get("path", "") + path},
            }
            for path in paths
        }
        if (folder / "checkpoint").is_file():
            self._inline = _inline_arrays(folder / "checkpoint")

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        return [*self._spec, *self._inline]

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        if name in self._inline:
            return self._inline[name]
        return np.asarray(tensorstore.open(self._spec[name]).result().read().result())

    def close(self) -> None:
        """Nothing is open."""


def _plain(path: str) -> str:
    """The name of a parameter: what is around the parameters in a training state is left out."""
    parts = path.replace("/", ".").split(".")
    for outer in ("state", "optimizer", "target", "params"):
        parts = parts[1:] if parts[:1] == [outer] else parts
    return ".".join(parts)


def _inline_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that lie in the msgpack file of a t5x checkpoint itself."""
    found: dict[str, np.ndarray] = {}

    def visit(node: Any, name: str) -> None:
        if isinstance(node, np.ndarray):
            found[_plain(name)] = node
        elif isinstance(node, dict) and "kvstore" not in node:
            for key, value in node.items():
                visit(value, f"{name}.{key}" if name else str(key))

    visit(serialization.msgpack_restore(path.read_bytes()), "")
    return found


def open_arrays(folder: Path) -> Arrays:
    """The arrays in a folder, whatever its layout.

    Raises:
      T5FileError: it has none of them.
    """
    for pattern, kind in (("*.safetensors", "safetensors"), ("pytorch_model*.bin", "bin")):
        index = sorted(folder.glob(f"*.{kind}.index.json"))
        table = json.loads(index[0].read_text())["weight_map"] if index else None
        names = set(table.values()) if table else {path.name for path in folder.glob(pattern)}
        files = [folder / name for name in sorted(names)]
        if missing := [path.name for path in files if not path.is_file()]:
            raise T5FileError(f"{folder} lacks {', '.join(missing)}, which its index names.")
        if files:
            return SafetensorsArrays(files) if kind == "safetensors" else TorchArrays(files, table)
    if (folder / "checkpoint").is_file() or (folder / "manifest.ocdbt").is_file():
        return ZarrArrays(folder)
    if any(folder.rglob(".zarray")):
        return ZarrArrays(folder)
    raise T5FileError(
        f"{folder} holds no weights of T5: neither *.safetensors, nor pytorch_model*.bin, nor a "
        "checkpoint of t5x or orbax. Name the folder that google/t5-v1_1-xxl (or another size) was "
        "downloaded to, or a checkpoint_N of t5x."
    )


def fingerprint(folder: Path) -> str:
    """16 hex digits that tell these files from others: of their names, sizes and ends."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix in (".md", ".txt") or path.name.startswith(".git"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            digest.update(file.read())
    return digest.hexdigest()[:16]


class T5Files:
    """The encoder's arrays by our names, as [in out].

    Attributes:
      size: the shape of the encoder, read off the arrays.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a folder.

        Raises:
          T5FileError: it is no encoder of T5 1.1 (an ungated T5 1.0, say).
        """
        self._folder, self._arrays = folder, open_arrays(folder)
        try:
            self.size = self._looked_at(set(self._arrays.names))
        except BaseException:
            self._arrays.close()
            raise

    def __enter__(self) -> T5Files:
        return self

    def __exit__(self, *_: Any) -> None:
        self._arrays.close()

    def _looked_at(self, names: set[str]) -> Size:
        """Finds out whose names these are, and the size."""
        self._theirs = 1 if _OUTER["norm"][1] in names else 0
        self._embedding = next(
            (n for n in (self._outer("embedding"), "encoder.embed_tokens.weight") if n in names), ""
        )
        self._check(names)
        return self._size(names)

    def outer(self, name: str) -> np.ndarray:
        """ "embedding" [vocabulary width], "distance" [heads buckets] or "norm" [width]."""
        file = self._embedding if name == "embedding" else self._outer(name)
        value = self._arrays.read(file)
        return value.T if name == "distance" and not self._theirs else value

    def layer(self, name: str, index: int) -> np.ndarray:
        """A product [in out] or a scale [width] of a layer; heads are not split."""
        value = self._arrays.read(self._layer(name, index))
        if value.ndim == 1:
            return value
        if not self._theirs:
            return value.T
        return (
            value.reshape(-1, value.shape[-1]) if name == "out" else value.reshape(len(value), -1)
        )

    def _outer(self, name: str) -> str:
        return _OUTER[name][self._theirs]

    def _layer(self, name: str, index: int) -> str:
        prefix = ("encoder.block.", "encoder.layers_")[self._theirs]
        return f"{prefix}{index}.{_LAYER[name][self._theirs]}"

    def _check(self, names: set[str]) -> None:
        wanted = [self._outer("distance"), self._outer("norm")]
        wanted += [self._layer(name, 0) for name in _LAYER]
        missing = [name for name in wanted if name not in names]
        if missing or not self._embedding:
            raise T5FileError(
                f"{self._folder} is not an encoder of T5 1.1: it has no "
                f"{(missing or [self._outer('embedding')])[0]} (T5 1.0 has no gated feed-forward)."
            )

    def _size(self, names: set[str]) -> Size:
        layers = 0
        while self._layer("query", layers) in names:
            layers += 1
        vocabulary, width = self.outer("embedding").shape
        heads, buckets = self.outer("distance").shape
        if buckets != BUCKETS:
            raise T5FileError(f"{self._folder} has {buckets} buckets of distance, not {BUCKETS}.")
        return Size(
            width=width,
            layers=layers,
            heads=heads,
            mlp=self.layer("gate", 0).shape[1],
            head_dim=self.layer("query", 0).shape[1] // heads,
            vocabulary=vocabulary,
        )
