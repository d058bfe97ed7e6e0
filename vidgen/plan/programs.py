"""Compile a program for a whole mesh, and read its memory and the bytes between devices.

    peak       arguments + results + temporary + code - what is written over its argument
    temporary  activations, gradients on their way, space to work in

A program can be compiled for the devices at hand, or for TPUs that are not (`topology`): libtpu
holds the compiler, and needs no TPU for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from vidgen.model import SampledModel
from vidgen.plan import bound, collectives, hlo
from vidgen.train import chips, device_mesh, flops, frozen
from vidgen.train.partitioning import Partitioner, laid_out, unbox
from vidgen.train.trainer import Trainer
from vidgen.types import Batch

Report = dict[str, Any]
# XLA's effort levels, https://openxla.org/xla/effort_levels. With "O0" libtpu compiles a 3x3
# convolution of 1024 channels in 2 s and not in 13 to 36. Its memory is another, though: a residual
# block's was twice as much, MaskGIT's training step 1 % less.
EFFORTS = ("O0", "O1", "O2", "O3")
# Or libtpu asks the network of a cloud which machine it is on; and it may be used by others too.
_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
_NO_TPU |= {"TPU_ACCELERATOR_TYPE": "v5p-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# "Used 47.50G of 31.25G hbm", "temporaries (38.31G) exceeds available HBM (31.25G)"
_NEEDED = re.compile(r"([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere(Partitioner):
    """A partitioner over devices that need not be here.

    Attributes:
      devices: as `jax.devices()` gives them, or the description of a topology.
    """

    devices: Sequence[Any]

    @classmethod
    def of(cls, partitioner: Partitioner, devices: Sequence[Any]) -> Elsewhere:
        """Lay the axes and rules of a partitioner over other devices.

        Args:
          partitioner: whose axes and rules are kept.
          devices: to choose from: all, or the first `device_count` of the partitioner.

        Returns:
          The partitioner over these devices.

        Raises:
          ValueError: there are fewer devices than `device_count`.
        """
        fields = {f.name: getattr(partitioner, f.name) for f in dataclasses.fields(partitioner)}
        count = partitioner.device_count or len(devices)
        if count > len(devices):
            raise ValueError(
                f"Partitioner.device_count is {count}; the topology has {len(devices)} device(s)."
            )
        return cls(**fields | {"devices": tuple(devices[:count]), "device_count": count})

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Return the mesh of those devices."""
        return device_mesh.make(self.devices, self.sizes(), self.slice_axis)


def topology(name: str) -> Sequence[Any]:
    """Describe the devices of a TPU topology; no TPU is needed.

    Args:
      name: such as "v5p:2x2x1" or "v6e:2x2"; "v6e:16x16*2" is two slices of it, which a slower
        network connects.

    Returns:
      Devices that programs can be compiled for.

    Raises:
      ValueError: libtpu is not installed, or knows no such topology.
    """
    from jax.experimental import topologies  # starts libtpu: only where it is asked for

    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    # A v4 chip has two cores, which work as one device.
    options: Report = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    kind, _, slices = name.partition("*")
    if slices:
        options["num_slices"] = int(slices) if slices.isdecimal() else 0
    try:
        return topologies.get_topology_desc(kind, "tpu", **options).devices
    except Exception as error:
        if "not installed" in str(error):
            raise ValueError(
                f"--topology={name} needs the compiler for TPUs, libtpu: "
                'pip install "vidgen[tpu]" (no TPU is needed).'
            ) from error
        raise ValueError(
            f"--topology={name} is refused by libtpu ({' '.join(str(error).split())}); give a "
            "kind of TPU and its shape, like v5p:2x2x1, v6e:2x2, v4:2x2x1 or v6e:16x16*2."
        ) from error


class Compiled(NamedTuple):
    """A program that was compiled for a whole mesh, but not run.

    Attributes:
      report: what the compiler says of it.
      program: takes `arguments` without the static ones; None where it does not fit.
      arguments: ShapeDtypeStructs, and values where they are static.
    """

    report: Report
    program: Any
    arguments: tuple[Any, ...]


def training_step(trainer: Trainer, batch: Batch, model_flops: int | float) -> Report:
    """Compile the real training step for a batch of this shape, and read what it needs.

    Args:
      trainer: its partitioner says for which devices.
      batch: ShapeDtypeStructs of the whole batch.
      model_flops: of the whole batch, for the loss and its gradient without anything computed
        twice, by which MFU is measured.

    Returns:
      Of a device: `fits`, `peak_bytes_per_device`, `device_bytes`, and where it fits also
      `temporary_bytes_per_device`, `collective_bytes_per_device` by kind, `operations_per_device`,
      `memory_traffic_per_device`; `compiled_for`, and `bound`, as `bound.of` gives it. What is not
      known is None.
    """
    report = compiled_training_step(trainer, batch).report
    mesh = trainer.partitioner.mesh
    chip = chips.of(mesh.devices.flat[0].device_kind)
    return report | {"bound": bound.of(report, model_flops / mesh.size, chip)}


def compiled_training_step(trainer: Trainer, batch: Batch) -> Compiled:
    """Compile the real training step for a batch of this shape.

    Args:
      trainer: its partitioner says for which devices.
      batch: ShapeDtypeStructs of the whole batch.

    Returns:
      The program, and a report as of `training_step`, without the bound.
    """
    model = trainer.model
    key, limit = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), "float32")
    arguments = (trainer.abstract_state(batch), frozen.spec(trainer.model), batch, key, limit)
    program = trainer.train_program(batch)
    what = f"the training step of {model.name}"
    report, compiled = _compiled(trainer.partitioner, what, program.trace(*arguments))
    return Compiled(report, compiled, arguments)


def compiled_sampling_step(trainer: Trainer, text_length: int, text_dim: int) -> Compiled:
    """Compile a step that samples one whole clip for each part of the batch.

    Args:
      trainer: its model is sampled; its partitioner says for which devices.
      text_length: tokens of a text.
      text_dim: features of a token.

    Returns:
      The program, and its report as of `training_step`, without the bound, with `clips` and the
      `shape` of a clip as "t h w c".
    """
    partitioner = trainer.partitioner
    clips = partitioner.batch_ways()
    planned = trainer.model
    assert isinstance(planned, SampledModel)
    boxed = trainer.boxed_params(planned.batch_spec(clips, text_length, text_dim))
    params = laid_out(unbox(boxed), partitioner.param_shardings(boxed))
    program, arguments = planned.step_spec(params, clips, text_length, text_dim)
    arguments = jax.tree.map(functools.partial(_placed, partitioner), arguments)
    with partitioner.context():
        traced = program.trace(*arguments)
    report, compiled = _compiled(partitioner, f"a sampling step of {planned.name}", traced)
    about = {"clips": clips, "shape": list(planned.shape.thwc)}
    return Compiled(about | report, compiled, arguments)


def _placed(partitioner: Partitioner, x: Any) -> Any:
    """Return an argument of sampling as `vidgen generate` lays it out over the mesh."""
    if not isinstance(x, jax.ShapeDtypeStruct) or x.sharding is not None:
        return x
    to = partitioner.sampling_sharding(x.shape) if x.ndim > 1 else partitioner.replicated()
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)


def _compiled(partitioner: Partitioner, what: str, traced: Any) -> tuple[Report, Any]:
    """Return what the compiler says of a program, and the program (None if it does not fit)."""
    print(f"vidgen: compiling {what} ...", file=sys.stderr, flush=True)
    device, devices = partitioner.mesh.devices.flat[0], partitioner.mesh.size
    limit = memory_of(device, devices)
    config: Any = jax.config
    level = config.jax_optimization_level
    how = "" if level == "UNKNOWN" else f", effort {level}"
    report: Report = {"compiled_for": f"{devices} x {device.device_kind}{how}"}
    try:
        with _with_sizes(device.platform):
            with partitioner.context():
                lowered = traced.lower()
            compiled, text = _compile(lowered, device.platform)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        peak, said = _sizes_in(str(error))
        report |= {"fits": False, "peak_bytes_per_device": peak, "device_bytes": limit or said}
        return report, None
    stats = compiled.memory_analysis()
    peak = stats.argument_size_in_bytes + stats.output_size_in_bytes
    peak += stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    peak -= stats.alias_size_in_bytes  # what is written over an argument, such as the new state
    # A TPU's compiler refuses what does not fit, and knows best what does.
    fits = True if device.platform == "tpu" else peak <= limit if limit else None
    report |= {"fits": fits, "peak_bytes_per_device": peak, "device_bytes": limit}
    report["temporary_bytes_per_device"] = stats.temp_size_in_bytes
    slices = len({getattr(device, "slice_index", 0) for device in partitioner.mesh.devices.flat})
    report |= _work(text, slices)
    if text:  # which does not show the operations within kernels
        report["operations_per_device"] += flops.count_kernels(traced.jaxpr) // devices
    return report, compiled


@contextlib.contextmanager
def _option(name: str, value: Any) -> Iterator[None]:
    """Set an option of JAX inside the block, and set it back behind it."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def _with_sizes(platform: str) -> Iterator[None]:
    """Compile anew inside the block, but for a CPU: others from the cache may know no sizes."""
    if platform == "cpu":  # from the cache it knows what it knew, its text as well
        yield
        return
    try:
        with _option("jax_enable_compilation_cache", False):
            compilation_cache.reset_cache()
            yield
    finally:
        compilation_cache.reset_cache()


def effort(level: str) -> contextlib.AbstractContextManager[None]:
    """Set the compiler's effort inside the block, and set it back behind it.

    Args:
      level: one of `EFFORTS`; "" leaves it as it is.

    Returns:
      What a `with` block takes.
    """
    return _option("jax_optimization_level", level) if level else contextlib.nullcontext()


def _compile(lowered: Any, platform: str) -> tuple[Any, str]:
    """Compile a program; return it and its text.

    libtpu writes the text itself: of programs whose collectives overlap with computation,
    `as_text` fails (jax 0.10.2, "async-update instruction should have 1 operands").
    """
    if platform != "tpu":
        compiled = lowered.compile()
        return compiled, compiled.as_text() or ""
    with tempfile.TemporaryDirectory(prefix="vidgen-hlo-") as folder:
        compiled = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        texts = [path.read_text() for path in Path(folder).glob("*.after_optimizations.txt")]
    return compiled, max(texts, key=len, default="")


def _work(text: str, slices: int) -> Report:
    """Return what a device does in a step; each is None where there is no text."""
    names = ("collective_bytes", "operations", "memory_traffic")
    if not text:
        return {f"{name}_per_device": None for name in names}
    program = hlo.Program(text)
    received = collectives.received(program, slices)
    values = (received, program.operations(), program.traffic())
    return {f"{name}_per_device": value for name, value in zip(names, values, strict=True)}


def _sizes_in(error: str) -> tuple[int | None, int | None]:
    """Return (bytes needed at least, bytes there) from the error of a TPU's compiler, if said."""
    if not (match := _NEEDED.search(error)):
        return None, None
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    numbers = (match[1], match[2]), (match[3], match[4])
    needed, there = (int(float(number) * 2 ** units[unit]) for number, unit in numbers)
    return needed, there


def memory_of(device: Any, devices: int = 1) -> int | None:
    """Return the memory of a device.

    Args:
      device: of `jax.devices()` or of a topology.
      devices: that share the machine's memory, if they are simulated on a CPU.

    Returns:
      Bytes; None where neither the device nor its data sheet says.
    """
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // devices
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # of a topology
        chip = chips.of(device.device_kind)
        return chip.memory * 2**30 if chip and chip.memory else None
