"""Values, times and memory of programs on the device at hand, for benchmarks/accelerator.py.

What programs read is drawn on the device: on the host, five billion numbers take longer than
everything else.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vidgen.plan import programs
from vidgen.train import flops

MEMORY_SHARE = 0.92  # of the device that a program may take: libraries need room to work in
REPEATS = 5


class Deadline(NamedTuple):
    """When a row must have ended, by `time.monotonic`."""

    at: float

    def leaves(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return time.monotonic() + seconds <= self.at


def about() -> dict[str, Any]:
    """What the rows are measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "memory_bytes": programs.memory_of(device),
    }


def memory() -> float:
    """Bytes that a program may take; infinite where the device does not tell."""
    return (programs.memory_of(jax.devices()[0]) or math.inf) * MEMORY_SHARE


# ---- values --------------------------------------------------------------------------------------


def drawn(spec: Any) -> Any:
    """Values for a tree of ShapeDtypeStructs: noise, True, 0, random keys."""
    leaves, tree = jax.tree.flatten(spec)
    return tree.unflatten([_value(number, leaf) for number, leaf in enumerate(leaves)])


def _value(number: int, spec: Any) -> Any:
    if jnp.issubdtype(spec.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(number), math.prod(spec.shape)).reshape(spec.shape)
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        return jnp.full(spec.shape, spec.dtype == bool, spec.dtype)
    # As small as weights are, so that all that is computed of it stays in range.
    return normal(number, spec.shape, str(spec.dtype), 0.02)


def key(number: int) -> Any:
    """Of XLA's own generator, which takes no time on an accelerator."""
    return jax.random.key(number, impl="rbg")


def normal(number: int, shape: tuple[int, ...], dtype: str, std: float) -> Any:
    """Normal with mean 0, other values for each number."""
    return _normal(key(number), shape, dtype, std)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(key: Any, shape: tuple[int, ...], dtype: str, std: float) -> Any:
    return (std * jax.random.normal(key, shape, dtype)).astype(dtype)


# ---- measurements --------------------------------------------------------------------------------


def seconds(call: Callable[[], Any], deadline: Deadline) -> float:
    """The median of a few calls after a first one; of fewer where the time is short."""
    times: list[float] = []
    while len(times) <= REPEATS and (len(times) < 2 or deadline.leaves(2 * times[-1])):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def utilization(work: int, seconds: float) -> dict[str, float]:
    """The share of what the device can do at most (MFU), where that is known.

    What is computed twice counts twice, as in the log of `vidgen train`.
    """
    most = flops.peak(jax.devices()[0].device_kind)
    return {} if most is None else {"mfu": work / seconds / most}


def peak_bytes() -> dict[str, int]:
    """The most bytes in use so far, where the device counts them; benchmarks/memory.py has CPUs."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"measured_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}
