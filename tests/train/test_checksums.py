"""Checksums of arrays: a closed form, every bit, what they describe.

That they do not depend on the mesh: `test_restore_onto_another_mesh` of test_checkpoints.py.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.train import checksums


def mix(x):
    """MurmurHash3's finalizer in Python's integers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * factor % 2**32
    return x ^ (x >> 16)


def value(text):
    return int(text.split()[-1], 16)


@pytest.mark.parametrize(
    ("array", "bits", "kind"),
    [
        (np.float32([[1.0, -0.0], [np.nan, 3e-40]]), "uint32", "float32[2, 2]"),
        (jnp.asarray([1.5, -2.0], jnp.bfloat16), "uint16", "bfloat16[2]"),
        (np.array([[True], [False]]), "uint8", "bool[2, 1]"),
        (np.int32(-7), "uint32", "int32[]"),
        (np.zeros((0, 3), np.float32), "uint32", "float32[0, 3]"),
    ],
)
def test_the_closed_form(array, bits, kind):
    """Of -0.0, NaN and subnormal numbers, too: bits count, not values."""
    (text,) = checksums.sums({"x": array}).values()
    numbers = np.asarray(array).view(bits).reshape(-1) if np.ndim(array) else [2**32 - 7]
    assert text.startswith(f"{kind} ")
    expected = sum(mix(int(b) ^ mix(i)) for i, b in enumerate(numbers)) % 2**32
    assert value(text) == int(checksums._device_sum(jnp.asarray(array))) == expected


def test_every_bit_and_every_place_counts():
    """Also what a sum would not see: two signs turned, two elements exchanged."""
    array = np.float32([0.5, 1.0, 2.0, 4.0])
    stored = checksums.sums({"a": {"x": array}})
    assert list(stored) == ["a/x"]
    assert checksums.first_difference(stored, {"a": {"x": array}}) is None
    turned = [array.view(np.uint32) ^ np.uint32(1 << b) * (np.arange(4) == 2) for b in range(32)]
    changed = [np.asarray(x, np.uint32).view(np.float32) for x in turned]
    changed += [array * [-1, -1, 1, 1], array[[1, 0, 2, 3]], array * [0, 1, 1, 1]]
    for other in changed:
        assert checksums.first_difference(stored, {"a": {"x": other.astype(np.float32)}}) == "a/x"


def test_another_dtype_is_no_difference():
    stored = checksums.sums({"x": np.ones(3, np.float32), "y": np.ones(2, np.float32)})
    assert checksums.first_difference(stored, {"x": jnp.ones(3, jnp.bfloat16)}) is None
    assert checksums.first_difference(stored, {"x": np.ones(4, np.float32)}) is None


def test_what_was_seen_is_described():
    stored = checksums.sums({"x": np.ones((3, 2), np.float32), "y": np.float32(1)})
    assert checksums.describes(stored, {"x": (3, 2), "y": ()})
    assert not checksums.describes(stored, {"x": (3, 2)})
    assert not checksums.describes(stored, {"x": (2, 3), "y": ()})


def test_json_does_not_depend_on_the_order_of_its_keys():
    assert checksums.of_json({"a": 1, "b": [2]}) == checksums.of_json({"b": [2], "a": 1})
    assert checksums.of_json({"a": 1}) != checksums.of_json({"a": 2})
