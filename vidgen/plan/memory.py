"""The exact bytes of a device: parameters, optimizer state, averages, gradients and batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from vidgen.data.cache.text_cache import EncodedText
from vidgen.text.encoder import CachedEncoder
from vidgen.text.t5 import T5
from vidgen.train.partitioning import Partitioner, axes_of, state_layout, unbox
from vidgen.train.trainer import Trainer
from vidgen.types import Batch, Params, TextEncoder

Report = dict[str, Any]


def bytes_per_device(trainer: Trainer, boxed: Params, batch: Batch, device_count: int) -> Report:
    """Return the bytes of the fullest device for all that a step holds but activations.

    Args:
      trainer: model, optimizer and rules; its mesh need not be here.
      boxed: the model's parameters as boxed ShapeDtypeStructs.
      batch: ShapeDtypeStructs of a whole batch.
      device_count: devices of the mesh.

    Returns:
      `bytes_per_device`, by what they hold, and `notes`: parameters that a rule could not split.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    partitioner = trainer.partitioner
    sizes = partitioner.sizes(device_count)
    shapes = trainer.state_shapes(unbox(boxed))
    placements = partitioner.placements(boxed, device_count)
    specs = jax.tree.unflatten(jax.tree.structure(shapes.params), [p.spec for p in placements])
    layout = state_layout(shapes, specs, PartitionSpec(), trainer.tx)
    parts = jax.tree.map(lambda x, spec: shard_bytes(x, spec, sizes), shapes, layout)
    weights = sum(jax.tree.leaves(parts.params))
    partitioner.check_batch_size(jax.tree.leaves(batch)[0].shape[0], device_count)
    spread = partitioner.batch_spec()
    held = {
        "parameters": weights,
        "optimizer_state": sum(jax.tree.leaves(parts.opt_state)),
        "averaged_parameters": sum(jax.tree.leaves((parts.ema, parts.power_ema))),
        "gradients": weights,
        "batch": sum(shard_bytes(x, spread, sizes) for x in jax.tree.leaves(batch)),
    }
    held["total"] = sum(held.values())
    notes = [f"{placement.path}: {placement.note}" for placement in placements if placement.note]
    return {"bytes_per_device": held, "notes": notes}


def frozen_text(encoder: TextEncoder, device_count: int | None = None) -> Report | None:
    """Compute the memory of a text encoder, which is frozen.

    Args:
      encoder: any; behind a cache, the one that fills it.
      device_count: devices of its mesh, if it has one; None: as its mesh says, or those at hand.

    Returns:
      `parameters`, `bytes_per_device` and `devices`, over which they are laid out: one without a
      mesh of its own, where all is on the first device. None for an encoder without parameters to
      plan.
    """
    if isinstance(encoder, CachedEncoder | EncodedText):
        encoder = encoder.encoder
    if not isinstance(encoder, T5):
        return None
    boxed, mesh = encoder.boxed_params(), encoder.mesh
    assert mesh is None or isinstance(mesh, Partitioner)
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
    """Compute the bytes of an array on one device of a mesh.

    Args:
      x: has `shape` and `dtype`.
      spec: mesh axes by which the axes of the array are cut; those it lacks are whole.
      sizes: devices along each axis of the mesh.

    Returns:
      Bytes of the largest part.
    """
    ways = [math.prod(sizes[axis] for axis in axes_of(to)) for to in spec]
    ways += [1] * (len(x.shape) - len(ways))
    part = [-(-length // way) for length, way in zip(x.shape, ways, strict=True)]
    return math.prod(part) * np.dtype(x.dtype).itemsize
