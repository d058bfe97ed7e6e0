"""Bytes on a device: what is exact from shapes, and what the compiler says of a whole program.

    exact      parameters, optimizer state, averaged parameters, gradients, batch
    compiled   arguments + results + temporaries + code - what is written over its argument

A program can be compiled for the devices at hand, or for TPUs that are not (`Topology`): libtpu
holds the compiler, and needs no TPU for it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from vidgen.runs import trained
from vidgen.train.partitioning import (
    Partitioner,
    Placement,
    axes_of,
    map_optimizer_state,
    unbox,
)
from vidgen.train.trainer import Trainer
from vidgen.types import Params

Report = dict[str, Any]
# Or libtpu asks the network of a cloud which machine it is on; and it may be used by others too.
_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
_NO_TPU |= {"TPU_ACCELERATOR_TYPE": "v5p-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# "Used 47.50G of 31.25G hbm", "temporaries (38.31G) exceeds available HBM (31.25G)"
_NEEDED = re.compile(r"([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere(Partitioner):
    """A partitioner over devices that need not be here.

    Attributes:
      devices: as `jax.devices()` gives them, or the description of a topology.
    """

    devices: Sequence[Any]

    @classmethod
    def of(cls, partitioner: Partitioner, devices: Sequence[Any]) -> Elsewhere:
        """The same axes and rules over other devices: all of them, or its `device_count`."""
        fields = {f.name: getattr(partitioner, f.name) for f in dataclasses.fields(partitioner)}
        count = partitioner.device_count or len(devices)
        if count > len(devices):
            raise ValueError(
                f"Partitioner.device_count is {count}; the topology has {len(devices)} device(s)."
            )
        return cls(**fields | {"devices": tuple(devices[:count]), "device_count": count})

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh of those devices."""
        sizes = tuple(self.sizes().values())
        types = (AxisType.Auto,) * len(sizes)
        return jax.make_mesh(sizes, self.mesh_axes, types, devices=self.devices)


def topology(name: str) -> Sequence[Any]:
    """The devices of a TPU topology such as "v5p:2x2x1" or "v6e:2x2"; no TPU is needed.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    from jax.experimental import topologies  # starts libtpu: only where it is asked for

    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    # A v4 chip has two cores, which work as one device.
    options: Report = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except Exception as error:
        if "not installed" in str(error):
            raise ValueError(
                f"--topology={name} needs the compiler for TPUs, libtpu: "
                'pip install "vidgen[tpu]" (no TPU is needed).'
            ) from error
        raise ValueError(
            f"--topology={name} is refused by libtpu ({' '.join(str(error).split())}); give a "
            "kind of TPU and its shape, like v5p:2x2x1, v6e:2x2 or v4:2x2x1."
        ) from error


def bytes_per_device(trainer: Trainer, boxed: Params, batch: Any, device_count: int) -> Report:
    """The largest share of one device in everything a step holds but activations, in bytes.

    Returns:
      `bytes_per_device`, and `notes`: parameters that a rule could not split.
    """
    partitioner, tx = trainer.partitioner, trainer.tx
    sizes = partitioner.sizes(device_count)
    params = unbox(boxed)
    placements = partitioner.placements(boxed, device_count)
    specs = jax.tree.unflatten(jax.tree.structure(params), [p.spec for p in placements])
    state = jax.eval_shape(tx.init, params)
    # As Partitioner.state_shardings: what has a parameter's shape lies like the parameter.
    state_bytes = map_optimizer_state(
        tx,
        lambda x, p, spec: shard_bytes(x, spec if x.shape == p.shape else PartitionSpec(), sizes),
        state,
        params,
        specs,
        transform_non_params=lambda x: shard_bytes(x, PartitionSpec(), sizes),
    )
    own = sum(jax.tree.leaves(jax.tree.map(lambda x, s: shard_bytes(x, s, sizes), params, specs)))
    partitioner.check_batch_size(jax.tree.leaves(batch)[0].shape[0], device_count)
    spread = partitioner.batch_spec()
    found = {
        "parameters": own,
        "optimizer_state": sum(jax.tree.leaves(state_bytes)),
        "averaged_parameters": 0 if trainer.ema_decay is None else own,
        "gradients": own,
        "batch": sum(shard_bytes(x, spread, sizes) for x in jax.tree.leaves(batch)),
    }
    found["total"] = sum(found.values())
    return {"bytes_per_device": found, "notes": _notes(placements)}


def frozen_text(encoder: Any, device_count: int | None = None) -> Report | None:
    """Parameters of the text encoder and bytes of one device for them; None: it has none to plan.

    Without a mesh of its own, all of it is on the first device.
    """
    encoder = getattr(encoder, "encoder", encoder)  # behind a cache
    if not hasattr(encoder, "boxed_params"):
        return None
    boxed, mesh = encoder.boxed_params(), encoder.mesh
    leaves = jax.tree.leaves(unbox(boxed))
    sizes: Mapping[str, int] = {} if mesh is None else mesh.sizes(device_count)
    specs = [PartitionSpec()] * len(leaves)
    if mesh is not None:
        specs = [placement.spec for placement in mesh.placements(boxed, device_count)]
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "bytes_per_device": sum(map(shard_bytes, leaves, specs, [sizes] * len(leaves))),
        "devices": math.prod(sizes.values()),
    }


def shard_bytes(x: Any, spec: PartitionSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of one device's part of an array that is laid out by `spec` on a mesh of `sizes`."""
    ways = [math.prod(sizes[axis] for axis in axes_of(to)) for to in spec]
    ways += [1] * (len(x.shape) - len(ways))
    part = [-(-length // way) for length, way in zip(x.shape, ways, strict=True)]
    return math.prod(part) * np.dtype(x.dtype).itemsize


def _notes(placements: Sequence[Placement]) -> list[str]:
    return [f"{placement.path}: {placement.note}" for placement in placements if placement.note]


# ---- compiled programs ---------------------------------------------------------------------------


def training_step(trainer: Trainer, name: str, batch: Any) -> Report:
    """What the compiler says about the real training step."""
    key, limit = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), "float32")
    arguments = (trainer.abstract_state(batch), trained.spec(trainer.model), batch, key, limit)
    program = trainer.train_program(batch)
    what = f"the training step of {name}"
    return _compiled(trainer.partitioner, what, lambda: program.lower(*arguments))


def sampling_step(trainer: Trainer, name: str, text_length: int, text_dim: int) -> Report:
    """What the compiler says about one step of sampling whole clips, one a part of the batch."""
    partitioner, model = trainer.partitioner, trainer.model
    clips = partitioner.batch_ways()
    planned: Any = model
    boxed = trainer.boxed_params(planned.batch_spec(clips, text_length, text_dim))
    params = jax.tree.map(
        lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to),
        unbox(boxed),
        partitioner.param_shardings(boxed),
    )
    program, arguments = planned.step_spec(params, clips, text_length, text_dim)
    arguments = jax.tree.map(functools.partial(_placed, partitioner), arguments)

    def lower() -> Any:
        with partitioner.context():
            return program.lower(*arguments)

    found = _compiled(partitioner, f"a sampling step of {name}", lower)
    return {"clips": clips, "shape": list(planned.shape.thwc)} | found


def _placed(partitioner: Partitioner, x: Any) -> Any:
    """An argument of sampling as `vidgen generate` lays it out over the mesh."""
    if not isinstance(x, jax.ShapeDtypeStruct) or x.sharding is not None:
        return x
    to = partitioner.sampling_sharding(x.shape) if x.ndim > 1 else partitioner.replicated()
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)


def _compiled(partitioner: Partitioner, what: str, lower: Callable[[], Any]) -> Report:
    print(f"vidgen: compiling {what} ...", file=sys.stderr, flush=True)
    device, devices = partitioner.mesh.devices.flat[0], partitioner.mesh.size
    limit = _memory_of(device, devices)
    report: Report = {"compiled_for": f"{devices} x {device.device_kind}"}
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        peak, said = _said(str(error))
        return report | {
            "fits": False,
            "peak_bytes_per_device": peak,
            "device_bytes": limit or said,
        }
    stats = compiled.memory_analysis()
    peak = stats.argument_size_in_bytes + stats.output_size_in_bytes
    peak += stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    peak -= stats.alias_size_in_bytes  # what is written over an argument, such as the new state
    # A TPU's compiler refuses what does not fit; its limit is not told otherwise.
    fits = peak <= limit if limit else True if device.platform == "tpu" else None
    return report | {"fits": fits, "peak_bytes_per_device": peak, "device_bytes": limit}


def _said(error: str) -> tuple[int | None, int | None]:
    """(bytes needed at least, bytes there) from the words of a TPU's compiler, if it says so."""
    if not (match := _NEEDED.search(error)):
        return None, None
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    numbers = (match[1], match[2]), (match[3], match[4])
    needed, there = (int(float(number) * 2 ** units[unit]) for number, unit in numbers)
    return needed, there


def _memory_of(device: Any, devices: int) -> int | None:
    """Bytes that programs may use on a device; simulated CPU devices share the machine's."""
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // devices
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # of a topology
        return None
