"""T5 1.1 as a text encoder, frozen, as Imagen Video and Phenaki have it (XXL).

    ids = SentencePiece(prompt)[: length - 1] + [end],  padded with 0

Weights are read tensor by tensor onto the mesh, so that no more than one array of a layer is on
the host and no more than one array is on the devices twice. They are not part of vidgen; the sizes
are, so that `vidgen plan` counts an encoder whose weights are not at hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from flax.core import meta
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Bool, Int

from vidgen import checks
from vidgen.nn.transformer import DTYPES
from vidgen.text import encoder
from vidgen.text.t5_files import T5FileError, T5Files, fingerprint
from vidgen.text.t5_network import SIZES, Size, T5Encoder
from vidgen.types import Params, TextEmbedding

PAD, END = 0, 1
VOCABULARY = Path(__file__).parent / "t5_vocabulary" / "spiece.model"


@runtime_checkable
class Mesh(Protocol):
    """Devices, and the layout of parameters over them: `train.partitioning.Partitioner`."""

    def replicated(self) -> NamedSharding:
        """Return the sharding of what every device holds, those of all processes."""
        ...

    def sizes(self, device_count: int | None = None) -> dict[str, int]:
        """Count the devices along each mesh axis.

        Args:
          device_count: devices to lay out; by default all.

        Returns:
          Sizes by the names of the axes.
        """
        ...

    def placements(self, boxed_params: Params, device_count: int | None = None) -> Sequence[Any]:
        """Compute the layout of every parameter.

        Args:
          boxed_params: parameters or ShapeDtypeStructs, boxed with the names of their axes.
          device_count: devices of the layout; by default all.

        Returns:
          One object a parameter in tree order, with a `spec`.
        """
        ...

    def context(self) -> contextlib.AbstractContextManager[object]:
        """Open a context in which programs are compiled for these devices."""
        ...

    def batch_ways(self, device_count: int | None = None) -> int:
        """Compute the number that every batch size must be a multiple of.

        Args:
          device_count: number of devices of the mesh; None is those that there are.

        Returns:
          The number of parts into which the mesh cuts a batch.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5:
    """The text encoder: prompts to the token states of T5 1.1.

    Attributes:
      path: folder of the weights, in the layout of Hugging Face, t5x or orbax (`T5Files`). They
        are read at the first call.
      size: "small", "base", "large", "xl" or "xxl", which the weights must have.
      length: number of tokens of a prompt, the end mark included. [guess] 64, as UniSim.
      dtype: dtype of the computation, and with "bfloat16" of the kept products too; norms, the
        table of distances and the softmax are always float32.
      mesh: devices to spread the weights over, those of this process where there are several: then
        no process waits for the captions of another. None is its first device.
    """

    path: str = ""
    size: str | Size = "xxl"
    length: int = 64
    dtype: str = "float32"
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, str):
            checks.one_of(self, size=SIZES)
        checks.one_of(self, dtype=DTYPES)
        checks.at_least(self, length=1)

    @property
    def shape(self) -> Size:
        """The shape of the network, by the name of its size."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size

    @property
    def dim(self) -> int:
        """Width of a token state."""
        return self.shape.width

    @functools.cached_property
    def name(self) -> str:
        """The identity of network, weights and arithmetic, known also without weights."""
        size = self.size if isinstance(self.size, str) else "own"
        folder = Path(self.path).expanduser()
        mark = fingerprint(folder) if self.path and folder.is_dir() else "without-weights"
        return f"t5-v1_1-{size}-{self.dtype}-{mark}"

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Encode prompts by T5's encoder, on the mesh; see `TextEncoder.__call__`.

        Raises:
          ValueError: there are no prompts, or no weights.
        """
        encoder.require_prompts(prompts)
        count, ways = len(prompts), 1
        if self.mesh is not None:
            ways = self.mesh.batch_ways(self._devices.size)
        filled = [*prompts, *[""] * (-count % ways)]
        ids, mask = self.tokenize(filled)
        program, params = self._program
        # The caller may be in another mesh, of more devices.
        rules = contextlib.nullcontext() if self.mesh is None else self.mesh.context()
        with rules, jax.set_mesh(self._devices):
            tokens = np.asarray(jax.device_get(program(params, ids, mask)))
        return encoder.host_embedding(tokens[:count], mask[:count])

    def tokenize(
        self, prompts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "b s"], Bool[np.ndarray, "b s"]]:
        """Cut prompts into SentencePiece ids, and pad or cut these to `length`.

        Args:
          prompts: one or more.

        Returns:
          The ids, with the end mark 1 after the last piece and 0 on padding; and True on real
          tokens, the end mark among them.
        """
        ids = np.full((len(prompts), self.length), PAD, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, pieces in enumerate(_pieces(self._vocabulary).encode(list(prompts))):
            if len(pieces) >= self.length:
                encoder.warn_truncated(f"t5-v1_1-{self.size}", self.length)
            kept = [*pieces[: self.length - 1], END]
            ids[row, : len(kept)], mask[row, : len(kept)] = kept, True
        return ids, mask

    @property
    def network(self) -> T5Encoder:
        """The Linen module of the encoder, without parameters."""
        return T5Encoder(size=self.shape, dtype=self.dtype)

    def boxed_params(self) -> Params:
        """Describe the parameters by ShapeDtypeStructs in the dtypes in which they are kept.

        Returns:
          The PyTree of `network.init`, boxed with the names of its axes.
        """
        ids = jax.ShapeDtypeStruct((1, self.length), jnp.int32)
        mask = jax.ShapeDtypeStruct(ids.shape, jnp.bool_)
        boxed = jax.eval_shape(self.network.init, jax.random.key(0), ids, mask)
        return jax.tree_util.tree_map_with_path(self._kept, boxed)

    def load(self) -> Params:
        """Read the weights and lay them out over the mesh.

        Returns:
          The parameters of `network`, without boxes; products in `dtype`, all others in float32.

        Raises:
          ValueError: the folder holds no weights, or those of another size.
        """
        boxed = self.boxed_params()
        shapes = meta.unbox(boxed)
        if self.mesh is None:
            first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            places = jax.tree.map(lambda _: first, shapes)
        else:
            placed = self.mesh.placements(boxed, self._devices.size)
            each = [NamedSharding(self._devices, one.spec) for one in placed]
            places = jax.tree.unflatten(jax.tree.structure(shapes), each)
        with T5Files(self._folder) as files:
            if files.size != self.shape:
                raise T5FileError(
                    f"T5.size is {self.size}, that is {self.shape}; {self.path} holds {files.size}."
                )
            return _filled(files, shapes["params"], places["params"])

    @functools.cached_property
    def _program(self) -> tuple[Callable[..., jax.Array], Params]:
        return jax.jit(self.network.apply), {"params": self.load()}

    @functools.cached_property
    def _devices(self) -> jax.sharding.Mesh:
        """The devices of the encoder: of the mesh, those of this process."""
        if self.mesh is None:
            return jax.sharding.Mesh([jax.local_devices()[0]], ("encoder",))
        whole = self.mesh.replicated().mesh
        assert isinstance(whole, jax.sharding.Mesh)
        own = whole.local_devices
        if len(own) == whole.size:
            return whole
        sizes = self.mesh.sizes(len(own))
        kinds = (AxisType.Auto,) * len(sizes)
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), kinds, devices=own)

    def _kept(self, path: tuple[object, ...], x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Give a parameter's shape the dtype in which it is kept."""
        product = any(getattr(key, "key", "") in ("kernel", "embedding") for key in path)
        return jax.ShapeDtypeStruct(x.shape, jnp.dtype(self.dtype if product else "float32"))

    @property
    def _folder(self) -> Path:
        if not self.path:
            raise T5FileError(
                "the weights of T5 are not part of vidgen: download google/t5-v1_1-xxl (or another "
                "size) and name its folder in T5_DIR."
            )
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise T5FileError(f"T5_DIR: there is no folder {folder}.")
        return folder

    @property
    def _vocabulary(self) -> str:
        """The vocabulary file: the folder's own if it has one, else the published one."""
        path = Path(self.path).expanduser() / "spiece.model"
        return str(path if self.path and path.is_file() else VOCABULARY)


def _filled(files: T5Files, shapes: Params, places: Params) -> Params:
    """Read the weights of `files` into the tree of `shapes`, on the devices of `places`."""
    params: Params = {"layers": {}}
    for name in ("embedding", "distance", "norm"):  # an array, or one in a module of its own
        placed = functools.partial(_placed, files.outer(name))
        params[name] = jax.tree.map(placed, shapes[name], places[name])
    # Layer by layer: the host then holds one array at a time.
    pieces: dict[str, list[jax.Array]] = {name: [] for name in shapes["layers"]}
    for index in range(files.size.layers):
        for name in pieces:
            ((_, shape),) = shapes["layers"][name].items()
            ((_, place),) = places["layers"][name].items()
            one = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
            pieces[name].append(_placed(files.layer(name, index), one, _without_layers(place)))
    for name in list(pieces):
        ((leaf, place),) = places["layers"][name].items()
        stack = jax.jit(lambda *arrays: jnp.stack(arrays), out_shardings=place)
        params["layers"][name] = {leaf: stack(*pieces.pop(name))}
    return params


def _placed(value: np.ndarray, shape: jax.ShapeDtypeStruct, place: Sharding) -> jax.Array:
    """Lay out `value` in this shape and dtype, each device with its own part of it."""
    host = np.asarray(value).reshape(shape.shape)
    return jax.make_array_from_callback(
        shape.shape, place, lambda index: np.asarray(host[index], shape.dtype)
    )


def _without_layers(place: Sharding) -> Sharding:
    """Compute the sharding of one layer, from that of all layers stacked."""
    if not isinstance(place, NamedSharding):
        return place
    return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))


@functools.cache
def _pieces(path: str) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=path)
