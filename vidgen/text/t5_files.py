"""Published weights of T5 1.1: the arrays of its encoder, read one at a time from any layout.

    Hugging Face   model.safetensors or pytorch_model.bin, each in one file or in shards with an
                   index; google/t5-v1_1-* are published as pytorch_model.bin, whose pickle is read
                   by `pretrained.weight_files` without running it
    t5x            `checkpoint` (msgpack) beside one zarr array a parameter
    orbax          zarr arrays in folders, or all of them in one OCDBT store

Hugging Face keeps products as [out in], t5x as [in out]; `T5Files` gives all of them as [in out].
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors
import tensorstore
from flax import serialization

from vidgen.pretrained import weight_files
from vidgen.text.t5_network import BUCKETS, Size

Readers = Mapping[str, Callable[[], np.ndarray]]  # reads the array of each name

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
_ENDS = 1 << 20  # bytes of each end of a file that enter its fingerprint


class T5FileError(ValueError):
    """A folder holds no weights of T5 1.1, or those of another size."""


class T5Files:
    """The arrays of an encoder by our names, as [in out]; use it in a `with` block.

    Attributes:
      size: the shape of the encoder, read off the arrays.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of any of the layouts of the module's docstring.

        Args:
          folder: where the weights are.

        Raises:
          T5FileError: the folder holds no encoder of T5 1.1 (an ungated T5 1.0, say).
        """
        self._folder, self._files = folder, contextlib.ExitStack()
        try:
            self._arrays = _open_arrays(folder, self._files)
            self._is_t5x = _OUTER["norm"][1] in self._arrays
            names = (self._outer("embedding"), "encoder.embed_tokens.weight")
            self._embedding = next((name for name in names if name in self._arrays), names[0])
            self._check_names()
            self.size = self._read_size()
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> T5Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def outer(self, name: str) -> np.ndarray:
        """Read an array that belongs to no layer.

        Args:
          name: "embedding" [vocabulary width], "distance" [heads buckets] or "norm" [width].

        Returns:
          The array, in the published dtype.
        """
        value = self._arrays[self._embedding if name == "embedding" else self._outer(name)]()
        return value.T if name == "distance" and not self._is_t5x else value

    def layer(self, name: str, index: int) -> np.ndarray:
        """Read an array of a layer.

        Args:
          name: a name of `_LAYER`, such as "query".
          index: number of the layer, from 0.

        Returns:
          A product as [in out], whose heads are not split, or a scale [width].
        """
        value = self._arrays[self._layer(name, index)]()
        if value.ndim == 1:
            return value
        if not self._is_t5x:
            return value.T
        return (
            value.reshape(-1, value.shape[-1]) if name == "out" else value.reshape(len(value), -1)
        )

    def _outer(self, name: str) -> str:
        return _OUTER[name][self._is_t5x]

    def _layer(self, name: str, index: int) -> str:
        prefix = "encoder.layers_" if self._is_t5x else "encoder.block."
        return f"{prefix}{index}.{_LAYER[name][self._is_t5x]}"

    def _check_names(self) -> None:
        names = [self._outer("distance"), self._outer("norm")]
        names += [*(self._layer(name, 0) for name in _LAYER), self._embedding]
        missing = [name for name in names if name not in self._arrays]
        if missing:
            raise T5FileError(
                f"{self._folder} is not an encoder of T5 1.1: it has no {missing[0]} (T5 1.0 has "
                "no gated feed-forward)."
            )

    def _read_size(self) -> Size:
        layers = 0
        while self._layer("query", layers) in self._arrays:
            layers += 1
        vocabulary, width = self.outer("embedding").shape
        heads, buckets = self.outer("distance").shape
        if buckets != BUCKETS:
            raise T5FileError(
                f"{self._folder} has {buckets} buckets of distance; T5 1.1 has {BUCKETS}."
            )
        return Size(
            width=width,
            layers=layers,
            heads=heads,
            mlp=self.layer("gate", 0).shape[1],
            head_dim=self.layer("query", 0).shape[1] // heads,
            vocabulary=vocabulary,
        )


def fingerprint(folder: Path) -> str:
    """Identify the weights of a folder by the names, the sizes and the ends of its files.

    Args:
      folder: where the weights are; its .md, .txt and .git files do not count.

    Returns:
      16 hexadecimal digits.
    """
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


def _open_arrays(folder: Path, opened: contextlib.ExitStack) -> Readers:
    """Make readers of all arrays in a folder; `opened` takes the files that stay open."""
    for pattern, kind in (("*.safetensors", "safetensors"), ("pytorch_model*.bin", "bin")):
        index = sorted(folder.glob(f"*.{kind}.index.json"))
        table = json.loads(index[0].read_text())["weight_map"] if index else None
        names = set(table.values()) if table else {path.name for path in folder.glob(pattern)}
        files = [folder / name for name in sorted(names)]
        if missing := [path.name for path in files if not path.is_file()]:
            raise T5FileError(f"{folder} lacks {', '.join(missing)}, which its index names.")
        if files:
            return _safetensors(files) if kind == "safetensors" else _torch(files, opened)
    names = ("checkpoint", "manifest.ocdbt")
    if any((folder / name).is_file() for name in names) or any(folder.rglob(".zarray")):
        return _zarr(folder)
    raise T5FileError(
        f"{folder} holds no weights of T5: neither *.safetensors, nor pytorch_model*.bin, nor a "
        "checkpoint of t5x or orbax. Name the folder that google/t5-v1_1-xxl (or another size) was "
        "downloaded to, or a checkpoint_N of t5x."
    )


def _safetensors(files: Sequence[Path]) -> Readers:
    def read(path: Path, name: str) -> np.ndarray:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(name)

    readers = {}
    for path in files:
        try:
            with safetensors.safe_open(str(path), framework="numpy") as file:
                readers |= {name: functools.partial(read, path, name) for name in file.keys()}
        except safetensors.SafetensorError as error:
            raise T5FileError(f"{path} is not a whole safetensors file ({error}).") from error
    return readers


def _torch(files: Sequence[Path], opened: contextlib.ExitStack) -> Readers:
    readers = {}
    for path in files:
        file = opened.enter_context(weight_files.TorchFile(path))
        readers |= {name: functools.partial(file.read, name) for name in file.names}
    return readers


def _zarr(folder: Path) -> Readers:
    """Make readers of a checkpoint of t5x or orbax: zarr arrays, and some inside a msgpack file."""
    path = f"{folder.resolve()}/"
    store = {"driver": "file", "path": path}
    if (folder / "manifest.ocdbt").is_file():
        store = {"driver": "ocdbt", "base": f"file://{path}", "path": ""}
    keys = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]

    def read(name: str) -> np.ndarray:
        spec = {"driver": "zarr", "kvstore": store | {"path": store["path"] + name}}
        return np.asarray(tensorstore.open(spec).result().read().result())

    arrays = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    readers = {_parameter_name(name): functools.partial(read, name) for name in arrays}
    if (folder / "checkpoint").is_file():
        tree = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
        readers |= {
            name: functools.partial(np.asarray, value) for name, value in _inline_arrays(tree)
        }
    return readers


def _inline_arrays(node: object, name: str = "") -> list[tuple[str, np.ndarray]]:
    """List the arrays that lie in the msgpack file of a t5x checkpoint itself."""
    if isinstance(node, np.ndarray):
        return [(_parameter_name(name), node)]
    if not isinstance(node, dict) or "kvstore" in node:
        return []
    return [
        pair
        for key, value in node.items()
        for pair in _inline_arrays(value, f"{name}.{key}" if name else str(key))
    ]


def _parameter_name(path: str) -> str:
    """Strip a parameter's name of what stands around the parameters in a training state."""
    parts = path.replace("/", ".").split(".")
    for outer in ("state", "optimizer", "target", "params"):
        parts = parts[1:] if parts[:1] == [outer] else parts
    return ".".join(parts)
