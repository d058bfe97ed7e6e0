"""Meshes over slices: what is near must stay near."""

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest

from vidgen.train import device_mesh


def described(slices, platform="gpu"):
    """Four devices of each slice."""
    return [
        types.SimpleNamespace(
            id=4 * s + i, slice_index=s, process_index=s, platform=platform, device_kind="any"
        )
        for s in range(slices)
        for i in range(4)
    ]


def arranged(sizes, slice_axis="data", slices=2):
    mesh = device_mesh._over_slices(described(slices), sizes, slice_axis, slices)
    return np.vectorize(lambda device: device.slice_index)(mesh)


def test_slices_follow_each_other_along_their_axis():
    found = arranged({"data": 2, "fsdp": 4})
    np.testing.assert_array_equal(found, [[0] * 4, [1] * 4])
    found = arranged({"data": 4, "fsdp": 2})
    np.testing.assert_array_equal(found, [[0, 0], [0, 0], [1, 1], [1, 1]])
    found = arranged({"data": 1, "fsdp": 8}, "fsdp")
    np.testing.assert_array_equal(found, [[0] * 4 + [1] * 4])


def test_every_device_is_there_once():
    mesh = device_mesh._over_slices(described(3), {"data": 3, "fsdp": 4}, "data", 3)
    assert sorted(device.id for device in mesh.flat) == list(range(12))


def test_tpu_slices_that_do_not_divide_their_axis():
    words = "8 devices .*2 slices, .*'data' of size 1: .*multiple of 2"
    with pytest.raises(ValueError, match=words):
        device_mesh.make(described(2, "tpu"), {"data": 1, "fsdp": 8}, "data")
    # GPUs of different hosts may lie as they come.
    assert not device_mesh._check(described(2), {"data": 1, "fsdp": 8}, "data", 2)


@dataclasses.dataclass(frozen=True)
class CubeChip:
    """A chip of a v5p slice of 4 x 4 x 4."""

    coords: tuple[int, int, int]
    id: int
    slice_index: int = 0
    process_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"


def test_every_mesh_of_powers_of_two_fits_a_cube_of_chips():
    """An axis of 8 is one side of 4 and half of another, which `jax.make_mesh` refuses."""
    places = itertools.product(range(4), repeat=3)
    chips = [CubeChip(coords=place, id=number) for number, place in enumerate(places)]
    powers = [2**n for n in range(7)]
    shapes = [shape for shape in itertools.product(powers, repeat=3) if math.prod(shape) == 64]
    assert (8, 8, 1) in shapes and len(shapes) == 28
    for shape in shapes:
        sizes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
        mesh = device_mesh.make(chips, sizes, "data")
        assert mesh.devices.shape == shape
        assert {chip.id for chip in mesh.devices.flat} == set(range(64))
