"""What to change where a training step does not fit: the first change that the compiler accepts.

Tried one on top of the other, in the order of what they cost: to compute blocks again, to take the
batch in parts, and to cut the parameters over all devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from vidgen.model import Model
from vidgen.nn.remat import Rematerialized
from vidgen.plan import programs
from vidgen.train.trainer import Trainer

Report = dict[str, Any]
_MOST_PARTS = 16


def fitting(trainer: Trainer, batch: Any) -> Report | None:
    """`settings` to make and the `peak_bytes_per_device` with them; None: nothing tried fits."""
    examples = jax.tree.leaves(batch)[0].shape[0]
    for settings, other in candidates(trainer, examples):
        found = programs.training_step(other, batch)
        if found["fits"]:
            peak = found["peak_bytes_per_device"]
            return {"settings": settings, "peak_bytes_per_device": peak}
    return None


def candidates(trainer: Trainer, examples: int) -> Iterator[tuple[dict[str, Any], Trainer]]:
    """(what to set, the trainer with that), each needing less memory than the one before."""
    settings: dict[str, Any] = {}
    if again := _computed_again(trainer.model):
        settings["remat"] = "full"
        trainer = dataclasses.replace(trainer, model=again)
        yield dict(settings), trainer
    yield from _in_parts(settings, trainer, examples)
    if (cut := _all_cut(trainer.partitioner)) is not None:
        settings["MESH_SHAPE"] = tuple(cut.mesh_shape)
        trainer = dataclasses.replace(trainer, partitioner=cut)
        yield dict(settings), trainer
        yield from _in_parts(settings, trainer, examples)


def _in_parts(
    settings: dict[str, Any], trainer: Trainer, examples: int
) -> Iterator[tuple[dict[str, Any], Trainer]]:
    """Microbatches, twice as many each time, as long as each device has a whole example."""
    each = examples // trainer.partitioner.batch_ways()
    count = 2 * trainer.microbatches
    while count <= _MOST_PARTS and each % count == 0:
        other = dataclasses.replace(trainer, microbatches=count)
        yield settings | {"Trainer.microbatches": count}, other
        count *= 2


def _computed_again(model: Model) -> Model | None:
    """The model whose networks keep nothing for the backward pass; None: they all do already."""
    changed = {
        name: network.clone(remat="full")
        for name, network in vars(model).items()
        if isinstance(network, Rematerialized) and network.remat != "full"
    }
    return dataclasses.replace(model, **changed) if changed else None


def _all_cut(partitioner: Any) -> Any:
    """The partitioner with all devices along "fsdp"; None: they are, or there is no such axis."""
    sizes = partitioner.sizes()
    count = math.prod(sizes.values())
    shape = tuple(count if axis == "fsdp" else 1 for axis in sizes)
    if "fsdp" not in sizes or shape == tuple(sizes.values()):
        return None
    return dataclasses.replace(partitioner, mesh_shape=shape)
