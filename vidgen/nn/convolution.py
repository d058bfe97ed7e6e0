"""A convolution whose gradients run as fast inside a loop as outside, on a CPU too.

    y  = x * w             stride s, x dilated by i, w by k
    dx = dy * w mirrored   stride i, dy dilated by s, w by k; the features of w swapped
    dw = x * dy            stride k, x dilated by i, dy by s; examples are the features of both

XLA:CPU has a fast convolution for one order of axes, input and output (n, space, c) and kernel
(space, in, out) without mirroring, and brings others to that order in the entry computation only:
in the body of a loop they run through plain nested loops. The gradients that JAX derives have
another order (16 frames of 16 x 16, 128 features, three layers in a loop: 6.2 s for a gradient
that takes 0.09 s unrolled). Written as convolutions of this order, they take 0.09 s in a loop.
Of 3 x 3 taps and large frames, dw is a matrix product (`nn/conv_gradient.py`), which is faster.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.nn import conv_gradient, platforms

Sizes = tuple[int, ...]


class _Window(NamedTuple):
    """How a kernel moves over its input, for each axis of space."""

    strides: Sizes
    pads: tuple[tuple[int, int], ...]
    input_dilation: Sizes
    kernel_dilation: Sizes


def conv_general_dilated(
    x: Float[Array, "n *space c"],
    kernel: Float[Array, "*taps c3 c2"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n *space2 c2"]:
    """Convolve as `jax.lax.conv_general_dilated` does with the order of axes of `nn.Conv`.

    Elsewhere than on a CPU, and with groups of features or another dtype for the result, it is that
    function. On a CPU it has gradients of any order, but no forward mode.

    Args:
      x: input.
      kernel: taps before features.
      strides: one for each axis of space.
      padding: "SAME", "VALID", or (before, after) for each axis of space.
      **options: the others of `jax.lax.conv_general_dilated`.

    Returns:
      The features.
    """
    groups = options.get("feature_group_count", 1) * options.get("batch_group_count", 1)
    if platforms.current() != "cpu" or groups > 1 or options.get("preferred_element_type"):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    ones = (1,) * (x.ndim - 2)
    taps = kernel.shape[:-2]
    dilations = [tuple(options.get(f"{side}_dilation") or ones) for side in ("lhs", "rhs")]
    if isinstance(padding, str):
        sizes = _dilated(x.shape[1:-1], dilations[0]), _dilated(taps, dilations[1])
        padding = jax.lax.padtype_to_pads(*sizes, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolution(_Window(tuple(strides), pads, *dilations), x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolution(window: _Window, x: Array, kernel: Array) -> Array:
    space = "DHW"[-(x.ndim - 2) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        *window,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )


_SAME_3X3 = _Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))


def _forward(window: _Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(window, x, kernel), (x, kernel)


def _backward(window: _Window, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    strides, pads, inner, outer = window
    space = range(x.ndim - 2)
    at_x = _dilated(x.shape[1:-1], inner)
    at_kernel = _dilated(kernel.shape[:-2], outer)
    at_y = _dilated(dy.shape[1:-1], strides)
    before = [at_kernel[i] - 1 - pads[i][0] for i in space]
    after = [at_x[i] - at_y[i] + pads[i][0] for i in space]
    mirrored = jnp.swapaxes(jnp.flip(kernel, tuple(space)), -1, -2)
    to_x = _Window(inner, tuple(zip(before, after, strict=True)), strides, outer)
    dx: Any = _convolution(to_x, dy, mirrored)
    is_3x3 = window == _SAME_3X3 and kernel.shape[:-2] == (3, 3)
    if is_3x3 and conv_gradient.is_faster(x, dy):
        return dx, conv_gradient.kernel_gradient(x, dy)
    after = [at_y[i] - at_x[i] + before[i] for i in space]
    to_kernel = _Window(outer, tuple((pads[i][0], after[i]) for i in space), inner, strides)
    by_example: Any = _convolution(to_kernel, jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2))
    return dx, jnp.moveaxis(by_example, 0, -2)


_convolution.defvjp(_forward, _backward)


def _dilated(sizes: Sizes, dilation: Sizes) -> Sizes:
    """Return the sizes with dilation - 1 zeros between neighbors."""
    return tuple((n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True))
