"""How busy a compiled step keeps its devices at most: an upper bound of MFU, before one is rented.

    MFU = F_model / (F_peak · t)       F_model: of the loss and its gradient, nothing computed twice

    t ≥ max(t_compute, t_memory, t_links, t_network)     where all of it overlaps
    t ≥ sum of the four                                  where nothing does

with t_compute the operations that the program has a device do, at the chip's peak; t_memory its
traffic to and from its memory; t_links what it receives from devices of its slice, t_network from
other slices; all at the published rates (`train/chips.py`). No device reaches any of these rates,
and t knows of no latency, so what is measured lies below the first bound. It may lie a few percent
above 1: F_model counts every product of a convolution, as MFU does everywhere, and a program leaves
out those with the padding at the borders, which on a grid of 3 x 5 are a third of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vidgen.model import Model
from vidgen.nn.remat import Rematerialized
from vidgen.plan.collectives import BETWEEN_SLICES
from vidgen.train.chips import Chip

Report = dict[str, Any]


def of(program: Mapping[str, Any], model_flops: int | float, chip: Chip | None) -> Report | None:
    """Return the bound of a compiled training step.

    Args:
      program: of `programs.training_step`.
      model_flops: of a device, for the loss and its gradient without anything computed twice.
      chip: what is known of it.

    Returns:
      `seconds` by what takes them (None: a rate that is not published), `mfu_overlapped`,
      `mfu_alone` where nothing overlaps, and `waits_for`, what takes longest; None where the
      program or the chip is not known.
    """
    received = program.get("collective_bytes_per_device")
    operations = program.get("operations_per_device")
    if chip is None or received is None or operations is None:
        return None
    between = received.get(BETWEEN_SLICES, 0)
    return from_work(
        chip,
        model_flops,
        compute=operations,
        memory=program["memory_traffic_per_device"],
        links=sum(received.values()) - between,
        network=between,
    )


def from_work(chip: Chip, model_flops: int | float, **work: int | float) -> Report:
    """Compute the bound of a step from the work of a device.

    Args:
      chip: the device.
      model_flops: of a device, for the loss and its gradient without anything computed twice.
      **work: floating-point operations as `compute`, and bytes as `memory`, `links` and `network`;
        all four are needed, and one of them is positive.

    Returns:
      `seconds`, `mfu_overlapped`, `mfu_alone` and `waits_for`; see `of`.
    """
    rates = {
        "compute": chip.flops,
        "memory": chip.memory_rate,
        "links": chip.links,
        "network": chip.network,
    }
    seconds = {
        name: 0.0 if not work[name] else rate and work[name] / rate for name, rate in rates.items()
    }
    known = {name: value for name, value in seconds.items() if value}
    ideal = model_flops / chip.flops
    return {
        "seconds": seconds,
        "mfu_overlapped": ideal / max(known.values()),
        "mfu_alone": ideal / sum(known.values()),
        "waits_for": max(known, key=lambda name: known[name]),
    }


def networks_with_remat(model: Model) -> dict[str, Any]:
    """Collect the trained networks of a model that have the setting `remat`.

    Args:
      model: any.

    Returns:
      The networks by the name of the model's field; empty where none has the setting.
    """
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {name: value for name, value in values.items() if isinstance(value, Rematerialized)}


def with_remat(model: Model, policy: str) -> Model:
    """Change what the networks of a model compute again in the backward pass.

    Args:
      model: any.
      policy: a name of `nn.remat.POLICIES`.

    Returns:
      A model whose networks have this `remat`; the same model where no network has the setting.
    """
    networks = networks_with_remat(model)
    changed = {name: network.clone(remat=policy) for name, network in networks.items()}
    return dataclasses.replace(model, **changed) if changed else model
