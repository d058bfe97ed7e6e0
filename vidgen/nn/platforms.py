"""What a program is traced for, which need not be what this process has."""

from __future__ import annotations

import jax


def current() -> str:
    """Name the platform of the mesh, or of this process without one: cpu, gpu (cuda) or tpu.

    The devices of the mesh need not be here: a plan for TPUs is traced on a CPU.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is None:
        return jax.default_backend()
    kind = device.device_kind.lower()
    return "tpu" if "tpu" in kind else "cpu" if kind == "cpu" else "gpu"


def is_one_device() -> bool:
    """Whether the program is for one device: there is no mesh, or one of a single device."""
    return jax.sharding.get_abstract_mesh().size <= 1
