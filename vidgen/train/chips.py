"""What accelerators can do at most, by their makers' data sheets; one table for all that asks.

A rate that no data sheet prints is None, and nothing is computed from it.

    v4      cloud.google.com/tpu/docs/v4; links: Jouppi et al. 2023 (arXiv:2304.01433), table 4:
            6 of 50 GB/s; the network between slices: not published
    v5e     .../docs/v5e; 400 GB/s of links in both directions; 6.4 Tb/s of network for 256 chips
    v5p     .../docs/v5p; 1,200 GB/s of links in both directions; 50 Gb/s of network
    v6e     .../docs/v6e; 800 GB/s of links in both directions; 25.6 Tb/s of network for 256 chips
    NVIDIA  data sheets of A100 (SXM, 80 GB), H100 (SXM) and H200: dense operations, NVLink in both
            directions; how many GPUs share a network card is a matter of the machine
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """The published rates of one device, as JAX counts devices.

    Attributes:
      flops: dense bfloat16 operations a second.
      memory: GiB that it has; of a TPU, whose compiler leaves a little for itself.
      memory_rate: bytes a second from and to that memory.
      links: bytes a second that it receives over all links to its neighbors of the same slice.
      network: bytes a second that it receives from other slices.
    """

    flops: float
    memory: int | None = None
    memory_rate: float | None = None
    links: float | None = None
    network: float | None = None


# By the beginning of `device_kind`; the longest that fits counts.
CHIPS = {
    "TPU v4": Chip(flops=275e12, memory=32, memory_rate=1200e9, links=300e9),
    "TPU v5 lite": Chip(  # v5e
        flops=197e12, memory=16, memory_rate=819e9, links=200e9, network=6.4e12 / 8 / 256
    ),
    "TPU v5": Chip(  # v5p
        flops=459e12, memory=95, memory_rate=2765e9, links=600e9, network=50e9 / 8
    ),
    "TPU v6 lite": Chip(  # v6e
        flops=918e12, memory=32, memory_rate=1638e9, links=400e9, network=25.6e12 / 8 / 256
    ),
    "NVIDIA A100": Chip(flops=312e12, memory_rate=2039e9, links=300e9),
    "NVIDIA H100": Chip(flops=989e12, memory_rate=3350e9, links=450e9),
    "NVIDIA H200": Chip(flops=989e12, memory_rate=4800e9, links=450e9),
}


def of(device_kind: str) -> Chip | None:
    """Look up the published rates of a device.

    Args:
      device_kind: what JAX calls it (`device.device_kind`), as in "TPU v5 lite".

    Returns:
      Its rates; None for a device that is not in `CHIPS`.
    """
    matches = [kind for kind in CHIPS if device_kind.startswith(kind)]
    return CHIPS[max(matches, key=len)] if matches else None
