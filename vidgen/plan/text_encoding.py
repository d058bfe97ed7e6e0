"""Where the captions of a training are best encoded: beside the model, or once, by a job before it.

A process encodes the captions of its own clips on its own d devices, b at a time. With an encoder
of W bytes and F operations a caption, a batch takes at least

    t(b) = max(b F/(d · peak),  W / memory rate,  W (d - 1)/d / links)      d = 1 without a mesh

    beside  N E / b · t(b)     of N captions and E epochs, while no device trains; W/d of its memory
    cache   N / b · t(b)       and c bytes a caption, written once, read E times over the network:
                               counted as if training waited, though it reads a batch ahead

The bytes are those of data/cache/text_cache.py. What it costs to store them no data sheet prints:
the plan says how many there are. Chip-seconds are those of all devices that wait.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidgen.data.cache import text_cache
from vidgen.plan import programs
from vidgen.plan.tables import scaled
from vidgen.text.encoder import CachedEncoder
from vidgen.text.t5 import T5
from vidgen.train import chips, flops
from vidgen.train.partitioning import unbox
from vidgen.types import TextEncoder

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPlan:
    """A plan for the captions of one data set; calling it prints the plan.

    Attributes:
      text_encoder: T5, by itself or behind a cache.
      batch_size: captions of a training step, over all devices.
      captions: of the data set, different ones.
      epochs: how often each is read, by all trainings that share the cache.
      topology: TPUs that train, such as "v5p:4x4x4"; "" is the devices at hand.
      processes: that train together; None: one for each host of those devices.
      job_batch_size: captions that a process encodes at a time for the cache (`Encode.batch_size`).
      tokens: real tokens of a caption, on average; None: as many as there may be.
      dtype: of the stored states (`Encode.dtype`).
      as_json: print one JSON object instead of a table.
    """

    text_encoder: TextEncoder
    batch_size: int
    captions: int
    epochs: float = 1.0
    topology: str = ""
    processes: int | None = None
    job_batch_size: int = 64
    tokens: float | None = None
    dtype: str = "float32"
    as_json: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int):
            raise ValueError("BATCH_SIZE has several numbers; --captions is for one training.")
        for name in ("captions", "epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be positive.")
        if self.dtype not in text_cache.DTYPES:
            choices = ", ".join(text_cache.DTYPES)
            raise ValueError(f"TextPlan.dtype is {self.dtype!r}; choose one of {choices}.")
        if not isinstance(self._encoder, T5):
            raise ValueError(
                f"--captions plans for T5, and the text encoder is {self.text_encoder.name}: add "
                "--gin_file=text/t5.gin."
            )

    def __call__(self) -> Report:
        """Print the plan on standard output, and return it."""
        report = self.report()
        print(json.dumps(report) if self.as_json else table(report))
        return report

    @property
    def _encoder(self) -> Any:
        encoder = self.text_encoder
        return encoder.encoder if isinstance(encoder, CachedEncoder) else encoder

    @property
    def bytes_per_caption(self) -> int:
        """What a caption takes in a cache, its key included."""
        tokens = self.tokens or self._encoder.length
        state = np.dtype(text_cache.DTYPES[self.dtype]).itemsize * self._encoder.dim
        return round(2 + tokens * (2 + state)) + len(text_cache.key_of(""))

    def report(self) -> Report:
        """Count operations, bytes and chip-seconds of both ways to encode captions.

        Returns:
          `ways`, what "beside" and "cache" take, `cheaper`, the one that takes fewer chip-seconds,
          and what was planned. Chip-seconds are None where a rate is not published; then `cheaper`
          takes fewer operations.

        Raises:
          ValueError: there is no such topology.
        """
        encoder, stored = self._encoder, self.bytes_per_caption
        devices = programs.topology(self.topology) if self.topology else jax.devices()
        hosts = self.processes or len({device.process_index for device in devices})
        per_host, read = len(devices) // hosts, self.captions * self.epochs
        shared = 1 if encoder.mesh is None else per_host
        params = unbox(encoder.boxed_params())
        weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
        work = _operations(encoder, params)

        def way(captions: float, batch: int) -> Report:
            wait = _seconds(chip, weights, batch * work, shared)
            cost = wait and wait * per_host * captions / batch
            return {"encoded": captions, "flops": captions * work, "chip_seconds": cost}

        chip = chips.of(devices[0].device_kind)
        beside = way(read, max(1, self.batch_size // hosts))
        cache = way(float(self.captions), self.job_batch_size)
        traffic = (self.captions + read) * stored
        if chip is not None and chip.network and cache["chip_seconds"] is not None:
            cache["chip_seconds"] += traffic / chip.network
        beside |= {"bytes_per_device": -(-weights // shared), "stored_bytes": 0, "moved_bytes": 0}
        cache |= {"bytes_per_device": 0, "stored_bytes": self.captions * stored}
        cache["moved_bytes"] = traffic
        return {
            "encoder": encoder.name,
            "parameters": sum(x.size for x in jax.tree.leaves(params)),
            "captions": self.captions,
            "epochs": self.epochs,
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "ways": {"beside": beside, "cache": cache},
            "cheaper": _cheaper(beside, cache),
        }


def _operations(encoder: T5, params: Any) -> int:
    """Return the operations of one caption, which is padded to the encoder's length."""
    ids = jax.ShapeDtypeStruct((1, encoder.length), jnp.int32)
    mask = jax.ShapeDtypeStruct(ids.shape, jnp.bool_)
    return flops.count(encoder.network.apply, params, ids, mask)


def _seconds(chip: chips.Chip | None, weights: int, operations: int, shared: int) -> float | None:
    """Return the least seconds of a batch; None where a rate is not published."""
    if chip is None or not chip.memory_rate or not chip.links or not chip.network:
        return None
    gathered = weights * (shared - 1) / shared
    return max(
        operations / (shared * chip.flops), weights / chip.memory_rate, gathered / chip.links
    )


def _cheaper(beside: Report, cache: Report) -> str:
    """Return the way that takes fewer chip-seconds, or where no rate is known fewer operations."""
    by = "chip_seconds" if cache["chip_seconds"] is not None else "flops"
    return "cache" if cache[by] < beside[by] else "beside"


def table(report: Report) -> str:
    """Write a plan as text.

    Args:
      report: of `TextPlan.report`.

    Returns:
      A table of both ways, without an end of the last line.
    """
    rows = [("", *report["ways"])]
    for name, title, unit in (
        ("encoded", "captions encoded", 1.0),
        ("flops", "PFLOP", 1e15),
        ("chip_seconds", "chip-hours, at least", 3600.0),
        ("bytes_per_device", "of a device, GiB", 2.0**30),
        ("stored_bytes", "stored, GB", 1e9),
        ("moved_bytes", "over the network, GB", 1e9),
    ):
        values = [way[name] for way in report["ways"].values()]
        rows.append((title, *("unknown" if x is None else scaled(x, unit) for x in values)))
    lines = [
        f"{report['encoder']}: {report['parameters']:,} parameters; "
        f"{report['captions']:,} captions, {report['epochs']:g} epochs, {report['devices']}"
    ]
    lines += [f"  {title:22}{a:>14}{b:>14}" for title, a, b in rows]
    return "\n".join([*lines, f"cheaper: {report['cheaper']}"])
