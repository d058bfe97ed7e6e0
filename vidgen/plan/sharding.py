"""Why a parameter lies where it does: `vidgen plan --explain=PATH`, axis by axis.

['down_0']['kernel']  (3, 3, 64, 128) float32, 288 KiB, 36 KiB on each of 8 devices
  kernel      3  whole: its rule says so
  kernel      3  whole: its rule says so
  conv_in    64  8 parts over fsdp
  conv_out  128  whole: fsdp (8) cuts another axis
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vidgen.plan.memory import shard_bytes
from vidgen.train.partitioning import Partitioner, Placement, Rules, axes_of, unbox
from vidgen.types import Params

_SHOWN = 50  # parameters; of a whole U-Net there are thousands


class NoSuchParameter(ValueError):
    """No parameter of a model has this in its path."""


def explain(partitioner: Partitioner, boxed: Params, path: str, device_count: int) -> list[str]:
    """Explain axis by axis how parameters are laid out over a mesh.

    Args:
      partitioner: mesh and rules; its devices need not be here.
      boxed: parameters as boxed ShapeDtypeStructs.
      path: a part of a path, such as "down_0/conv".
      device_count: devices of the mesh.

    Returns:
      A paragraph for each parameter whose path contains `path`: at most 50, and how many more there
      are.

    Raises:
      NoSuchParameter: there is none.
    """
    sizes = partitioner.sizes(device_count)
    leaves = jax.tree.leaves(unbox(boxed))
    placed = list(zip(partitioner.placements(boxed, device_count), leaves, strict=True))
    matching = [(place, leaf) for place, leaf in placed if path in _plain(place.path)]
    if not matching:
        known = sorted({"/".join(_plain(place.path).split("/")[:3]) for place, _ in placed})
        raise NoSuchParameter(
            f"--explain={path}: no parameter has this in its path; they begin with "
            f"{', '.join(known)}, and --explain=/ shows them."
        )
    rules = partitioner.rules
    texts = [_paragraph(place, leaf, rules, sizes) for place, leaf in matching[:_SHOWN]]
    if len(matching) > _SHOWN:
        texts.append(f"... and {len(matching) - _SHOWN} more; say more of the path.")
    return texts


def _plain(path: str) -> str:
    """Return the path ['a']['b'] as /a/b, which is what a person types."""
    return path.replace("']['", "/").replace("['", "/").replace("']", "")


def _paragraph(place: Placement, leaf: Any, rules: Rules, sizes: Mapping[str, int]) -> str:
    count = math.prod(sizes.values())
    whole = math.prod(place.shape) * np.dtype(leaf.dtype).itemsize
    share = _size(shard_bytes(leaf, place.spec, sizes))
    lines = [
        f"{_plain(place.path)}  {place.shape} {leaf.dtype}, {_size(whole)}, {share} on each of "
        f"{count} device(s)"
    ]
    width = max((len(name or "-") for name in place.names), default=0)
    spec = tuple(place.spec) + (None,) * (len(place.shape) - len(place.spec))
    for name, length, to in zip(place.names, place.shape, spec, strict=True):
        reason = _reason(name, length, to, spec, rules, sizes)
        lines.append(f"  {name or '-':{width}} {length:>7}  {reason}")
    return "\n".join(lines)


def _reason(
    name: str | None, length: int, to: Any, spec: Sequence[Any], rules: Rules, sizes: Any
) -> str:
    """Return into how many parts an axis is cut, or why it is whole."""
    ways = math.prod(sizes[axis] for axis in axes_of(to))
    if ways > 1:
        return f"{ways} parts over {' x '.join(axes_of(to))}"
    if name is None:
        return "whole: it has no name"
    why = []
    for axes in (axes_of(rule) for rule_name, rule in rules if rule_name == name):
        parts, label = math.prod(sizes[axis] for axis in axes), " x ".join(axes)
        if not axes:
            why.append("its rule says so")
        elif parts == 1:
            why.append(f"{label} has one device")
        elif length % parts:
            why.append(f"{label} ({parts}) does not divide it")
        elif any(set(axes) & set(axes_of(other)) for other in spec):
            why.append(f"{label} ({parts}) cuts another axis")
    return f"whole: {'; '.join(dict.fromkeys(why))}"


def _size(count: int) -> str:
    """Return bytes with a unit and four figures: "288 KiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
