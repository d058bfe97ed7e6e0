"""What a configuration costs, before anything is allocated.

Shapes come from `jax.eval_shape`, the layout from the partitioner's rules, FLOPs from the jaxpr of
the loss and its gradient. So any size can be planned on any machine, for a mesh of devices that
are not there. Per device and for a whole step,

    parameters + optimizer state + averaged parameters + gradients + batch

are exact; activations are not in this sum: they depend on the compiler. `--compile` compiles the
real training step for the devices at hand and reports what it needs, activations included.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from vidgen.train import flops
from vidgen.train.partitioning import Partitioner, Placement, unbox
from vidgen.train.trainer import Trainer
from vidgen.types import Frozen, Metrics, Params, VideoShape

Report = dict[str, Any]
_LEVELS = 2  # names of a parameter's path that make its module
_NOTES = 8  # shown to people


@runtime_checkable
class PlannedModel(Protocol):
    """A `train.Model` that can say what it is called, makes and eats.

    A model may also have `published_parameters`: the paper's count, shown beside ours.
    """

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    @property
    def shape(self) -> VideoShape:
        """Size of one clip that it makes."""
        ...

    def init(self, key: Key[Array, ""], batch: Any) -> Params:
        """Fresh parameters, boxed."""
        ...

    def loss(
        self, params: Params, frozen: Frozen, batch: Any, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """The mean loss over the batch, and what to log beside it."""
        ...

    def batch_spec(self, batch_size: int, text_length: int, text_dim: int) -> Any:
        """ShapeDtypeStructs of a training batch."""
        ...


@runtime_checkable
class TextSize(Protocol):
    """What a plan needs of a text encoder; nothing is encoded."""

    @property
    def dim(self) -> int:
        """Width of a token state."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSizeOf:
    """The sizes of an encoder that need not exist here, such as T5-XXL's 256 tokens of 4096."""

    length: int
    dim: int

    def __call__(self, prompts: Sequence[str]) -> NoReturn:
        """Refuses: sizes are enough to plan, not to train."""
        del prompts
        raise ValueError(
            f"this configuration plans for text states of width {self.dim} but has no encoder that "
            "makes them; name a --gin_file that sets TEXT_ENCODER."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The `plan` run mode.

    Attributes:
      trainers: one for each model to report; the model, mesh, optimizer and averaging are its.
      text_encoder: gives the length and width of the text in a batch.
      batch_size: examples of a step, over all devices.
      device_count: devices to plan for; None is what the mesh shape says, and where that leaves
        one size open, the devices at hand or the fewest that the mesh can have.
      compile: compile the training step for the devices at hand.
      as_json: print one JSON object instead of tables.
    """

    trainers: Sequence[Trainer]
    text_encoder: TextSize
    batch_size: int
    device_count: int | None = None
    compile: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        if not self.trainers:
            raise ValueError("Plan.trainers is empty; give at least one trainer.")
        for name in ("batch_size", "device_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Plan.{name} is {value}; it must be >= 1.")
        for trainer in self.trainers:
            if not isinstance(trainer.model, PlannedModel):
                raise ValueError(
                    f"{type(trainer.model).__name__} cannot be planned: a model for `plan` has "
                    "name, shape, init, loss and batch_spec."
                )

    def __call__(self) -> None:
        """Prints the report: tables, or with `as_json` one object on standard output."""
        report = self.report()
        print(json.dumps(report) if self.as_json else _tables(report))

    def report(self) -> Report:
        """`{"models": [...]}`, one object a model; sizes are in bytes, FLOPs are per step."""
        return {"models": [self._model(trainer) for trainer in self.trainers]}

    def _model(self, trainer: Trainer) -> Report:
        model: Any = trainer.model
        batch = model.batch_spec(self.batch_size, self.text_encoder.length, self.text_encoder.dim)
        boxed = trainer.boxed_params(batch)
        params = unbox(boxed)
        count = _device_count(trainer.partitioner, self.device_count)
        modules = count_by_module(params)
        report: Report = {
            "name": model.name,
            "parameters": sum(modules.values()),
            "published_parameters": getattr(model, "published_parameters", None),
            "output_shape": list(model.shape.thwc),
            "fps": model.shape.fps,
            "batch_size": self.batch_size,
            "modules": modules,
            "mesh": trainer.partitioner.sizes(count),
            "devices": count,
        }
        step = flops.loss_and_gradient(model, params, None, batch)
        report |= {
            "flops_per_step": step,
            "flops_per_step_per_example": step / self.batch_size,
            "flops_forward_per_example": flops.forward(model, params, None, batch)
            / self.batch_size,
        }
        report |= bytes_per_device(trainer, boxed, batch, count)
        return report | (_compiled(trainer, model.name, batch) if self.compile else {})


def count_by_module(params: Params) -> dict[str, int]:
    """Parameters of each module, a module being the first two names of a path, in tree order."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        if len(names) > 1 and names[0] == "params":  # Linen's collection
            names = names[1:]
        module = "/".join(names[:-1][:_LEVELS] or names)
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


def bytes_per_device(trainer: Trainer, boxed: Params, batch: Any, device_count: int) -> Report:
    """The largest share of one device in everything a step holds but activations, in bytes.

    Returns:
      `bytes_per_device`, and `notes`: parameters that a rule could not split.
    """
    partitioner, tx = trainer.partitioner, trainer.tx
    sizes = partitioner.sizes(device_count)
    params = unbox(boxed)
    placements = partitioner.placements(boxed, device_count)
    specs = jax.tree.unflatten(jax.tree.structure(params), [p.spec for p in placements])
    state = jax.eval_shape(tx.init, params)
    # As Partitioner.state_shardings: what has a parameter's shape lies like the parameter.
    state_bytes = optax.tree_utils.tree_map_params(
        tx,
        lambda x, p, spec: shard_bytes(x, spec if x.shape == p.shape else PartitionSpec(), sizes),
        state,
        params,
        specs,
        transform_non_params=lambda x: shard_bytes(x, PartitionSpec(), sizes),
    )
    own = sum(jax.tree.leaves(jax.tree.map(lambda x, s: shard_bytes(x, s, sizes), params, specs)))
    spread = _batch_spec(partitioner, sizes, jax.tree.leaves(batch)[0].shape[0])
    found = {
        "parameters": own,
        "optimizer_state": sum(jax.tree.leaves(state_bytes)),
        "averaged_parameters": 0 if trainer.ema_decay is None else own,
        "gradients": own,
        "batch": sum(shard_bytes(x, spread, sizes) for x in jax.tree.leaves(batch)),
    }
    found["total"] = sum(found.values())
    return {"bytes_per_device": found, "notes": _notes(placements)}


def shard_bytes(x: Any, spec: PartitionSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of one device's part of an array that is laid out by `spec` on a mesh of `sizes`."""
    ways = [math.prod(sizes[axis] for axis in _axes(to)) for to in spec]
    ways += [1] * (len(x.shape) - len(ways))
    part = [-(-length // way) for length, way in zip(x.shape, ways, strict=True)]
    return math.prod(part) * np.dtype(x.dtype).itemsize


def _axes(to: Any) -> tuple[str, ...]:
    if to is None:
        return ()
    return (to,) if isinstance(to, str) else tuple(to)


def _batch_spec(partitioner: Partitioner, sizes: Mapping[str, int], batch: int) -> PartitionSpec:
    """The layout of data; a ValueError where the batch cannot be spread as training needs it."""
    to = next((to for name, to in partitioner.rules if name == "batch"), None)
    ways = math.prod(sizes[axis] for axis in _axes(to))
    if batch % ways:
        raise ValueError(
            f"a batch of {batch} does not divide over {ways} devices (mesh axes {_axes(to)}); "
            f"make BATCH_SIZE a multiple of {ways}."
        )
    return PartitionSpec(to)


def _device_count(partitioner: Partitioner, wanted: int | None) -> int:
    fixed = math.prod(size for size in partitioner.mesh_shape if size != -1)
    if wanted or partitioner.device_count:
        return wanted or partitioner.device_count or 1
    here = jax.device_count() if -1 in partitioner.mesh_shape else fixed
    return here if here % fixed == 0 else fixed


def _notes(placements: Sequence[Placement]) -> list[str]:
    return [f"{placement.path}: {placement.note}" for placement in placements if placement.note]


def _compiled(trainer: Trainer, name: str, batch: Any) -> Report:
    """What the compiler says about the real training step on the devices at hand."""
    print(f"vidgen: compiling the training step of {name} ...", file=sys.stderr, flush=True)
    device = trainer.partitioner.mesh.devices.flat[0]
    limit = _memory_of(device, trainer.partitioner.mesh.size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (trainer.abstract_state(batch), None, batch, key)
    report = {"compiled_for": f"{trainer.partitioner.mesh.size} x {device.device_kind}"}
    try:
        compiled = trainer.train_program(batch).lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return report | {"fits": False, "peak_bytes_per_device": None, "device_bytes": limit}
    stats = compiled.memory_analysis()
    peak = stats.argument_size_in_bytes + stats.output_size_in_bytes
    peak += stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    peak -= stats.alias_size_in_bytes  # the new state is written over the old one
    fits = None if limit is None else peak <= limit
    return report | {"fits": fits, "peak_bytes_per_device": peak, "device_bytes": limit}


def _memory_of(device: Any, devices: int) -> int | None:
    """Bytes that programs may use on a device; simulated CPU devices share the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.platform != "cpu":
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // devices


def _tables(report: Report) -> str:
    return "\n\n".join(_table(model) for model in report["models"])


def _table(model: Report) -> str:
    """The report of one model for people."""
    t, h, w, c = model["output_shape"]
    total = model["parameters"]
    lines = [f"{model['name']}: {total:,} parameters{_against(model)}"]
    lines.append(f"  output  {t} x {h} x {w} x {c} at {model['fps']:g} fps")
    mesh = ", ".join(f"{axis} {size}" for axis, size in model["mesh"].items())
    lines.append(f"  mesh    {model['devices']} device(s): {mesh}")
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in model["modules"].items()]
    lines += _aligned("parameters by module", rows)
    rows = [(name.replace("_", " "), _gib(n)) for name, n in model["bytes_per_device"].items()]
    lines += _aligned("bytes per device, activations not included", rows)
    rows = [
        (f"a step of {model['batch_size']} examples", _tera(model["flops_per_step"])),
        ("a step, per example", _tera(model["flops_per_step_per_example"])),
        ("a forward pass, per example", _tera(model["flops_forward_per_example"])),
    ]
    lines += _aligned("floating-point operations", rows)
    if "fits" in model:
        peak, limit = model["peak_bytes_per_device"], model["device_bytes"]
        rows = [("peak", "more than there is" if peak is None else _gib(peak))]
        rows.append(("there is", "unknown" if limit is None else _gib(limit)))
        rows.append(("fits", {True: "yes", False: "no", None: "unknown"}[model["fits"]]))
        lines += _aligned(f"compiled for {model['compiled_for']}, bytes per device", rows)
    notes = model["notes"]
    lines += [f"  note: {note}" for note in notes[:_NOTES]]
    if len(notes) > _NOTES:
        lines.append(f"  note: {len(notes) - _NOTES} more like these; --json lists them all")
    return "\n".join(lines)


def _against(model: Report) -> str:
    published = model["published_parameters"]
    if not published:
        return ""
    return f" ({model['parameters'] / published - 1:+.1%} against the published {published:,.0f})"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.3f} GiB"


def _tera(count: int | float) -> str:
    return f"{count / 1e12:,.4g} TFLOP"


def _aligned(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A title and rows: the first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return [f"  {title}", *("    " + "  ".join(row) for row in cells)]
