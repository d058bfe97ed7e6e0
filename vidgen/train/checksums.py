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
    """Return dtype, shape and checksum of every array of a tree; all processes call this."""
    leaves = named_leaves(tree)
    # One after the other: collective programs that run at the same time can wait for each other.
    return {name: f"{kind(leaf)} {int(_sum(leaf)):08x}" for name, leaf in leaves.items()}


def kind(leaf: Any) -> str:
    """Return dtype and shape of an array or of what describes one, as in "float32[16, 8]"."""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def first_difference(stored: Mapping[str, str], tree: Params) -> str | None:
    """Return the name of a leaf that is not what it was when `sums` saw it; None if all are.

    Leaves of another dtype are left out: they were converted on their way.
    """
    leaves = named_leaves(tree)
    same = {n: x for n, x in leaves.items() if stored.get(n, "").startswith(f"{kind(x)} ")}
    again = sums(same)
    return next((name for name in sorted(same) if stored[name] != again[name]), None)


def describes(stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether `sums` saw a tree of leaves with these names and shapes."""
    seen = {name: text[text.index("[") : text.index("]") + 1] for name, text in stored.items()}
    return seen == {name: f"{list(shape)}" for name, shape in shapes.items()}


def of_json(value: Any) -> int:
    """Return the checksum of something that JSON can hold."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit  # of one array: moments and averages have the shapes and the layout of the weights
def _sum(x: Array | np.ndarray) -> UInt32[Array, ""]:
    x = jnp.asarray(x)
    bits: Any = x.astype(jnp.uint8) if x.dtype == bool else x
    unsigned = jnp.dtype(f"uint{8 * min(bits.dtype.itemsize, 4)}")
    bits = jax.lax.bitcast_convert_type(bits, unsigned).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        row = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * np.uint32(size % 2**32) + row
    return jnp.sum(_mix(bits ^ _mix(place)), dtype=jnp.uint32)


def _mix(x: Any) -> Any:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
