"""LoRA on disk: which base the matrices of a run belong to, and both together as one model.

    MODEL_DIR/checkpoints/<step>/params    A and B of each adapted kernel (`lora.py`), some megabyte
    MODEL_DIR/lora.json                    base, its step, a fingerprint of its weights, rank, alpha

Whatever reads weights (`weights.open_weights`) gets W + (α / r) A B of such a folder, so that it
generates, is evaluated, distilled and fine-tuned like any other. Where the base is gone, a folder
of its name beside the run is tried, so that both can be moved together.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from vidgen import paths
from vidgen.assets import zoo
from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.checkpoints import WeightsReader, placed
from vidgen.train.state import named_leaves
from vidgen.types import Params

FILE = "lora.json"
A, B = "lora_a", "lora_b"  # leaves in the place of an adapted kernel


def product(a: Float[Array, "..."], b: Float[Array, "..."], stacked: int) -> Float[Array, "..."]:
    """Multiply A and B over the rank, for each of the stacked layers.

    Args:
      a: "*stacked *in r".
      b: "*stacked r *out".
      stacked: how many leading axes both have, which are batch axes: 1 where a scan stacks layers.

    Returns:
      A B, "*stacked *in *out", in the highest precision of the device.
    """
    contracted = ((a.ndim - 1,), (stacked,))
    batch = tuple(range(stacked))
    return jax.lax.dot_general(a, b, (contracted, (batch, batch)), precision="highest")


def merged(base: Params, adapters: Params, scale: float) -> Params:
    """Return the parameters of the base with `scale` A B added to each adapted kernel.

    Args:
      base: parameters, nested mappings of arrays.
      adapters: a part of the same tree, with {"lora_a", "lora_b"} in the place of kernels.
      scale: α / r.

    Returns:
      A tree like `base`, in its dtypes.
    """
    if set(adapters) == {A, B}:
        a, b = adapters[A], adapters[B]
        stacked = a.ndim + b.ndim - 2 - base.ndim  # axes that both have
        return base + (scale * product(a, b, stacked)).astype(base.dtype)
    return {
        name: merged(value, adapters[name], scale) if name in adapters else value
        for name, value in base.items()
    }


def merged_on_devices(base: Params, adapters: Params, scale: float) -> Params:
    """Return `merged` in one compiled program, each result laid out as the base's kernel is.

    Args:
      base: parameters, nested mappings of arrays on devices.
      adapters: a part of the same tree, with {"lora_a", "lora_b"} in the place of kernels.
      scale: α / r.

    Returns:
      A tree like `base`; what has no adapter is the same array.
    """
    kernels = _adapted(base, adapters)
    add = functools.partial(merged, scale=scale)
    outputs = jax.tree.map(lambda x: x.sharding, kernels)
    return _replaced(base, jax.jit(add, out_shardings=outputs)(kernels, adapters))


def _adapted(base: Params, adapters: Params) -> Params:
    """Return the part of the base that has adapters."""
    if set(adapters) == {A, B}:
        return base
    return {name: _adapted(base[name], inner) for name, inner in adapters.items()}


def _replaced(base: Params, new: Params) -> Params:
    """Return the base with the leaves of `new` in their places."""
    if not isinstance(new, Mapping):
        return new
    return {
        name: _replaced(value, new[name]) if name in new else value for name, value in base.items()
    }


def fingerprint(params: Params) -> str:
    """Hash weights so that they can be told apart, alike on every mesh and number of processes.

    The hash is of the names, the shapes and, of each array, the sum of its float32 bits modulo 2³².

    Args:
      params: a tree of arrays on devices; all processes call this together.

    Returns:
      16 hexadecimal digits.
    """
    leaves = named_leaves(params)
    sums = np.array([_sum_of_bits(x) for x in leaves.values()], np.uint32)
    sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    digest = hashlib.sha256(sums.astype("<u4").tobytes())
    for name, leaf in leaves.items():
        digest.update(f"{name}:{tuple(leaf.shape)};".encode())
    return digest.hexdigest()[:16]


def _sum_of_bits(x: Any) -> int:
    """Return the sum over what this process holds of an array, each part once."""
    parts = [s.data for s in x.addressable_shards if s.replica_id == 0]
    bits = (np.ascontiguousarray(part, np.float32).view(np.uint32) for part in parts)
    return sum(int(part.sum(dtype=np.uint64)) for part in bits) % 2**32


def portable(model_dir: str) -> str:
    """Return the name of a model as a record can hold it that is read from another folder.

    Args:
      model_dir: a name of the package's models, an address of a store, or a folder.

    Returns:
      A local folder as an absolute path; names and addresses as they are.
    """
    if zoo.find(model_dir) != model_dir or "://" in model_dir:
        return model_dir
    return str(epath.Path(model_dir).expanduser().resolve())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraRecord:
    """What `lora.json` says.

    Attributes:
      base: folder or name of the model that was fine-tuned.
      step: its checkpoint.
      fingerprint: the fingerprint of its weights.
      rank: r.
      alpha: the product is multiplied by alpha / rank.
    """

    base: str
    step: int
    fingerprint: str
    rank: int
    alpha: float

    def write(self, model_dir: epath.PathLike, before: LoraRecord | None) -> None:
        """Write the record, from the first process, unless it is there.

        Args:
          model_dir: folder of the run.
          before: the record that was there; None where there was none.

        Raises:
          CheckpointError: the run was begun with another base, rank or alpha.
        """
        if before is not None:
            for name, what in _WORDS.items():
                ours, theirs = getattr(self, name), getattr(before, name)
                if ours != theirs:
                    raise CheckpointError(
                        f"{model_dir} was begun with the {what} {theirs}, not {ours}; "
                        f"name another MODEL_DIR, or the base that it began with ({before.base})."
                    )
        if jax.process_index() == 0 and before != self:
            text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
            paths.write(epath.Path(model_dir).expanduser() / FILE, text.encode())


_WORDS = {
    "rank": "LoRA rank",
    "alpha": "LoRA alpha",
    "step": "base's step",
    "fingerprint": "base weights",
}


def read_record(model_dir: epath.PathLike) -> LoraRecord | None:
    """Read the `lora.json` of a folder.

    Args:
      model_dir: folder of a run.

    Returns:
      What it says; None where there is no such file.

    Raises:
      CheckpointError: the file is not whole.
    """
    path = epath.Path(model_dir).expanduser() / FILE
    if not path.is_file():
        return None
    try:
        return LoraRecord(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a LoRA record of vidgen ({error}).") from error


def base_folder(record: LoraRecord, model_dir: epath.Path) -> str:
    """Return the folder of the base: the recorded one, or that of its name beside the run.

    Args:
      record: the record of the run.
      model_dir: folder of the run.

    Returns:
      A folder or an address that `open_weights` takes.

    Raises:
      FileNotFoundError: neither is there.
    """
    beside = model_dir.parent / epath.Path(record.base).name
    for folder in (zoo.find(record.base), str(beside)):
        if "://" in folder or epath.Path(folder).is_dir():
            return folder
    raise FileNotFoundError(
        f"{model_dir} holds LoRA weights of {record.base}, which is not there; put that model "
        f"back, or beside it as {beside}."
    )


@dataclasses.dataclass(frozen=True)
class LoraWeights(WeightsReader):
    """The weights of a base with the products of a LoRA run added, read like a checkpoint's.

    Attributes:
      folder: of the run.
      record: what its `lora.json` says.
      adapters: reads the matrices of the run; it is closed with this reader, and so is `base`.
      base: reads the weights that were fine-tuned.
    """

    folder: epath.Path
    record: LoraRecord
    adapters: WeightsReader
    base: WeightsReader

    def close(self) -> None:
        """Close both readers."""
        self.adapters.close()
        self.base.close()

    def latest_step(self) -> int | None:
        """Return the newest step of the LoRA run."""
        return self.adapters.latest_step()

    def stored_params(self, step: int | None = None, *, averaged: bool = True) -> Params:
        """Describe the merged weights, which are like the base's; see `Checkpointer.stored_params`.

        Raises:
          FileNotFoundError: the run has no checkpoint of this step.
        """
        self.adapters.stored_params(step, averaged=averaged)  # is there such a step
        return self.base.stored_params(self.record.step)

    def restore_params(
        self, abstract: Params | None = None, step: int | None = None, *, averaged: bool = True
    ) -> Params:
        """Read base and matrices, and add them up; see `Checkpointer.restore_params`.

        Raises:
          CheckpointError: the base holds other weights than those that were fine-tuned.
        """
        base = self.base_params(abstract)
        beside = _replicated_over(jax.tree.leaves(base)[0].sharding)
        spec = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=beside),
            self.adapters.stored_params(step, averaged=averaged),
        )
        adapters = self.adapters.restore_params(spec, step, averaged=averaged)
        return self.with_adapters(base, adapters, abstract)

    def base_params(self, abstract: Params | None = None) -> Params:
        """Read the base's weights, in the dtypes that are stored.

        Args:
          abstract: has their layout; None puts them on the first device.

        Returns:
          The weights that were fine-tuned.

        Raises:
          CheckpointError: the base holds other weights now.
        """
        stored = self.base.stored_params(self.record.step)
        dtypes = {name: x.dtype for name, x in named_leaves(stored).items()}
        wanted = stored if abstract is None else abstract
        names = iter(named_leaves(wanted))
        spec = jax.tree.map(lambda x: _with_dtype(x, dtypes.get(next(names), x.dtype)), wanted)
        base = self.base.restore_params(spec, self.record.step)
        if fingerprint(base) != self.record.fingerprint:
            raise CheckpointError(
                f"{self.folder} holds LoRA weights of {self.record.base}, which has other "
                f"weights now than those that were fine-tuned (step {self.record.step}); put them "
                "back, or fine-tune anew."
            )
        return base

    def with_adapters(self, base: Params, adapters: Params, abstract: Params | None) -> Params:
        """Add the products of a LoRA run's matrices to the weights of its base.

        Args:
          base: as `base_params` returns it.
          adapters: matrices of the run, or averages of them.
          abstract: has the dtypes of the result; None keeps those of the base.

        Returns:
          The sum W + (α / r) A B.
        """
        scale = self.record.alpha / self.record.rank
        params = merged_on_devices(base, adapters, scale)
        wanted = params if abstract is None else abstract
        return jax.tree.map(lambda x, spec: x.astype(spec.dtype), params, wanted)


def _with_dtype(x: Any, dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=placed(x).sharding)


def _replicated_over(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Return the sharding of a small array on the devices of another."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
