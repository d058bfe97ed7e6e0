"""Count the floating-point operations of a JAX function on its jaxpr; nothing runs.

Only matrix products and convolutions count, a multiply-add as two operations:

    dot_general           2 · |output| · Π contracted sizes
    convolution           2 · |output| · Π kernel taps · input features per group / Π input dilation

Input dilation puts zeros between the elements (the gradient of a strided convolution); products
with them are not work. Padding is counted as if it were data, which is the usual convention and
what published figures do. Loops count as often as they run: a scan `length` times, the widest
branch of a cond, a while loop (whose length is unknown here) once. What rematerialisation computes
twice counts twice, so this is the work done, not the least work possible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params
from jax.sharding import Mesh

from vidgen.model import Model
from vidgen.train import chips
from vidgen.types import Batch, Frozen, Params


def peak(device_kind: str) -> float | None:
    """Return the dense bfloat16 peak of a device.

    Args:
      device_kind: what JAX calls it (`device.device_kind`).

    Returns:
      FLOP/s, from the maker's data sheet (`chips.py`); None for a device that is not in it.
    """
    chip = chips.of(device_kind)
    return chip and chip.flops


def utilization(values: Mapping[str, float], mesh: Mesh) -> dict[str, float]:
    """Return {"mfu": the share of the devices' peak FLOP/s that is used}.

    Args:
      values: values of the log; `flops_per_second` is that of all devices.
      mesh: the devices.

    Returns:
      An empty dict where the rate or the peak is not known.
    """
    of_one = peak(mesh.devices.flat[0].device_kind)
    if of_one is None or "flops_per_second" not in values:
        return {}
    return {"mfu": values["flops_per_second"] / (of_one * mesh.size)}


def count(function: Callable[..., Any], *args: Any) -> int:
    """Count the operations of one call.

    Args:
      function: a traceable function.
      *args: its arguments, which may be ShapeDtypeStructs.

    Returns:
      Floating-point operations.
    """
    return count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def loss_and_gradient(model: Model, params: Params, frozen: Frozen, batch: Batch) -> int:
    """Count the operations of the loss and its gradient for a batch.

    That is a training step without the update, which is a few operations for each parameter:
    nothing beside the gradient.

    Args:
      model: the model that is trained.
      params: its parameters; like what follows, arrays or ShapeDtypeStructs.
      frozen: what the loss reads and does not change.
      batch: a batch of the size that is counted.

    Returns:
      Floating-point operations.
    """
    loss = functools.partial(model.loss, train=True)
    return count(jax.value_and_grad(loss, has_aux=True), params, frozen, batch, _key())


def forward(model: Model, params: Params, frozen: Frozen, batch: Batch) -> int:
    """Count the operations of the loss without its gradient: one pass of the network.

    Args:
      model: the model that is trained.
      params: its parameters; like what follows, arrays or ShapeDtypeStructs.
      frozen: what the loss reads and does not change.
      batch: a batch of the size that is counted.

    Returns:
      Floating-point operations.
    """
    loss = functools.partial(model.loss, train=False)
    return count(loss, params, frozen, batch, _key())


def count_jaxpr(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Count the operations of a jaxpr by the rules of the module's docstring.

    Args:
      jaxpr: bare or closed.

    Returns:
      Floating-point operations, those of `shard_map` on all its devices together.
    """
    return _count(jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr, {})


def count_kernels(jaxpr: ClosedJaxpr) -> int:
    """Count the operations within kernels, which the text of a compiled program does not show.

    Args:
      jaxpr: of a step, say.

    Returns:
      Floating-point operations of its Pallas kernels alone.
    """
    return _count(jaxpr.jaxpr, {}, kernels_only=True)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _count(jaxpr: Jaxpr, seen: dict[int, int], kernels_only: bool = False) -> int:
    """Count a jaxpr; `seen` maps jaxprs by identity to their count, so shared ones count fast."""
    if id(jaxpr) not in seen:
        seen[id(jaxpr)] = sum(_count_equation(x, seen, kernels_only) for x in jaxpr.eqns)
    return seen[id(jaxpr)]


def _count_equation(equation: JaxprEqn, seen: dict[int, int], kernels_only: bool) -> int:
    name = equation.primitive.name
    if name in ("dot_general", "conv_general_dilated") and kernels_only:
        return 0
    if name == "dot_general":
        return _dot_general(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call":  # its body is one cell of the grid
        bodies = [_count(body, {}) for body in jaxprs_in_params(equation.params)]
        return math.prod(equation.params["grid_mapping"].grid) * sum(bodies)
    bodies = [_count(body, seen, kernels_only) for body in jaxprs_in_params(equation.params)]
    if not bodies:
        return 0
    if name == "cond":
        return max(bodies)
    if name == "scan":
        return equation.params["length"] * sum(bodies)
    if name == "shard_map":  # its body is one device's share
        return equation.params["mesh"].size * sum(bodies)
    return sum(bodies)  # jit, remat, custom_vjp, custom_jvp, while, ...


def _dot_general(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = _shape(equation.invars[0])
    return 2 * _size(equation.outvars[0]) * math.prod(lhs[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    # The kernel's axes are (output features, input features of a group, taps ...).
    _, *inputs = equation.params["dimension_numbers"].rhs_spec
    kernel = _shape(equation.invars[1])
    products = _size(equation.outvars[0]) * math.prod(kernel[axis] for axis in inputs)
    return 2 * products // math.prod(equation.params["lhs_dilation"])


def _size(variable: Var | Literal) -> int:
    return math.prod(_shape(variable))


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    aval: Any = variable.aval
    return aval.shape
