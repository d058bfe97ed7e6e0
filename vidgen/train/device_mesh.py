"""A mesh of devices, with the slow network between slices along one of its axes only.

Devices of a slice (a TPU pod slice; a host of GPUs) talk fast, slices slowly. Along the axes of the
mesh other than `slice_axis`, devices are of one slice:

    along slice_axis    slice 0: devices 0, 1, ..., slice 1: devices 0, 1, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh


def make(devices: Sequence[Any], sizes: Mapping[str, int], slice_axis: str) -> Mesh:
    """Lay all these devices out as a mesh, in JAX's Auto mode.

    Args:
      devices: as `jax.devices()` gives them.
      sizes: devices along each mesh axis, in order; their product is the number of devices.
      slice_axis: the axis along which slices follow each other.

    Returns:
      The mesh. GPUs whose hosts do not divide the size of `slice_axis` are laid out as if they were
      in one slice.

    Raises:
      ValueError: TPU slices do not divide the size of `slice_axis`.
    """
    types = (AxisType.Auto,) * len(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and _check(devices, sizes, slice_axis, slices):
        return Mesh(_over_slices(devices, sizes, slice_axis, slices), tuple(sizes), types)
    # An axis of 8 on chips in a cube of 4 x 4 x 4 takes one side and half of another one.
    grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), list(devices), allow_split_physical_axes=True
    )
    return Mesh(grid, tuple(sizes), types)


def _check(devices: Sequence[Any], sizes: Mapping[str, int], slice_axis: str, slices: int) -> bool:
    """Whether the slices can lie along their axis."""
    if sizes.get(slice_axis, 1) % slices == 0:
        return True
    if devices[0].platform != "tpu":  # a mesh that does not care which GPUs share a host
        return False
    raise ValueError(
        f"the {len(devices)} devices are in {slices} slices, which follow each other along the "
        f"mesh axis {slice_axis!r} of size {sizes.get(slice_axis)}: make it a multiple of {slices} "
        "(MESH_SHAPE), or let Partitioner.slice_axis name another axis."
    )


def _over_slices(
    devices: Sequence[Any], sizes: Mapping[str, int], slice_axis: str, slices: int
) -> Any:
    between = [slices if axis == slice_axis else 1 for axis in sizes]
    within = [size // over for size, over in zip(sizes.values(), between, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        within, between, list(devices), allow_split_physical_axes=True
    )
