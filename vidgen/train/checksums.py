"""Checksums of the arrays in a checkpoint, which do not depend on how these lie on devices.

    sum = Σ_i mix(bits_i xor mix(i))  mod 2^32        over all elements i in row-major order

mix is MurmurHash3's finalizer, a permutation of the 32-bit numbers, so a change of one element
always changes the sum, and any other leaves it as it was once in 2^32. Sums of integers do not
depend on their order: N devices compute what one does, each over its own part.

Tensorstore's files have checksums for their directories, and none for the numbers themselves: a bit
that a disk or a network has turned is read as another weight.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from vidgen.train.state import named_leaves
from vidgen.types import Params

Sums = dict[str, str]  # "float32[16, 8] 1a2b3c4d" by the name of a leaf


def sums(tree: Params) -> Sums:
    """Compute the checksum of every array of a tree; all processes call this.

    Args:
      tree: arrays, of any layout.

    Returns:
      Dtype, shape and checksum by the name of the leaf.
    """
    leaves = named_leaves(tree)
    # One after the other: collective programs that run at the same time can wait for each other.
    return {name: f"{kind(leaf)} {_sum(leaf):08x}" for name, leaf in leaves.items()}


def kind(leaf: Any) -> str:
    """Describe an array.

    Args:
      leaf: an array or a ShapeDtypeStruct.

    Returns:
      Its dtype and shape, as in "float32[16, 8]".
    """
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def first_difference(stored: Mapping[str, str], tree: Params) -> str | None:
    """Find an array that is not what it was when its checksum was computed.

    Leaves of another dtype are left out: they were converted on their way.

    Args:
      stored: what `sums` returned then.
      tree: arrays, of any layout.

    Returns:
      The name of the first leaf that differs; None if none does.
    """
    leaves = named_leaves(tree)
    same = {n: x for n, x in leaves.items() if stored.get(n, "").startswith(f"{kind(x)} ")}
    again = sums(same)
    return next((name for name in sorted(same) if stored[name] != again[name]), None)


def describes(stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Check whether checksums are those of a tree with these names and shapes.

    Args:
      stored: what `sums` returned.
      shapes: shapes by the names of leaves.

    Returns:
      True where names and shapes are the same.
    """
    seen = {name: text[text.index("[") : text.index("]") + 1] for name, text in stored.items()}
    return seen == {name: f"{list(shape)}" for name, shape in shapes.items()}


def of_json(value: Any) -> int:
    """Compute the checksum of something that JSON can hold.

    Args:
      value: lists, dicts, texts and numbers; the order of a dict does not matter.

    Returns:
      A CRC-32.
    """
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _sum(x: Any) -> int:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable and _in_host_memory(x)):
        return int(_device_sum(x))
    # NumPy's: a program for every shape of a network takes XLA seconds to compile.
    bits: Any = np.asarray(x)
    bits = bits.astype(np.uint8) if bits.dtype == bool else bits
    if bits.dtype.itemsize > 4:
        bits = bits[..., None]
    bits = np.ascontiguousarray(bits).view(f"uint{8 * min(bits.dtype.itemsize, 4)}")
    return int(_sum_of_bits(np, bits.astype(np.uint32)))


def _in_host_memory(x: Array) -> bool:
    return all(device.platform == "cpu" for device in x.sharding.device_set)


@jax.jit  # of one array: moments and averages have the shapes and the layout of the weights
def _device_sum(x: Array) -> UInt32[Array, ""]:
    bits: Any = x.astype(jnp.uint8) if x.dtype == bool else x
    unsigned = jnp.dtype(f"uint{8 * min(bits.dtype.itemsize, 4)}")
    return _sum_of_bits(jnp, jax.lax.bitcast_convert_type(bits, unsigned).astype(jnp.uint32))


def _sum_of_bits(xp: Any, bits: Any) -> Any:
    """Return the sum of the module's docstring, by NumPy or jax.numpy."""
    place = xp.zeros(bits.shape, np.uint32)
    for axis, size in enumerate(bits.shape):
        row = xp.arange(size, dtype=np.uint32).reshape(-1, *[1] * (bits.ndim - axis - 1))
        place = place * np.uint32(size % 2**32) + row
    return xp.sum(_mix(bits ^ _mix(place)), dtype=np.uint32)


def _mix(x: Any) -> Any:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
