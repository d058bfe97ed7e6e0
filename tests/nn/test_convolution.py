"""Convolutions with gradients of our own against those of `jax.lax`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import convolution, platforms
from vidgen.nn.conv import spatial_conv

ORDERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
CASES = {  # (sizes, taps, strides, padding, further options)
    "as in a block": ((5, 6), (3, 3), (1, 1), "SAME", {}),
    "strided": ((6, 8), (3, 3), (2, 2), "SAME", {}),
    "strided past the end": ((7, 8), (3, 2), (2, 3), "VALID", {}),
    "of clips": ((3, 4, 5), (3, 3, 3), (1, 2, 1), "SAME", {}),
    "along time": ((7,), (4,), (2,), [(3, 0)], {}),
    "dilated": (
        (6, 7),
        (3, 2),
        (1, 2),
        [(2, 1), (0, 1)],
        {"rhs_dilation": (2, 3), "lhs_dilation": (2, 1)},
    ),
    "wide padding": ((4, 4), (2, 2), (1, 1), [(3, 2), (2, 4)], {}),
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both(case):
    """(ours, JAX's) as functions of input and kernel, and such."""
    sizes, taps, strides, padding, options = CASES[case]
    orders = ORDERS[len(sizes)]
    functions = [
        lambda x, kernel, convolve=convolve: convolve(
            x, kernel, strides, padding, dimension_numbers=orders, **options
        )
        for convolve in (convolution.conv_general_dilated, jax.lax.conv_general_dilated)
    ]
    return functions, normal(0, 3, *sizes, 2), normal(1, *taps, 2, 4)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_jax(case):
    (ours, theirs), x, kernel = both(case)
    expected, to_inputs = jax.vjp(theirs, x, kernel)
    found, to_ours = jax.vjp(ours, x, kernel)
    np.testing.assert_array_equal(found, expected)
    dy = normal(2, *expected.shape)
    for ours_, theirs_ in zip(to_ours(dy), to_inputs(dy), strict=True):
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-5, atol=1e-5 * np.max(theirs_))


@pytest.mark.parametrize("case", ["strided", "dilated"])
def test_gradients_of_a_gradient_are_those_of_jax(case):
    functions, x, kernel = both(case)

    def penalty(function, x, kernel):  # R1's
        return jnp.sum(jax.grad(lambda x: jnp.sum(function(x, kernel) ** 2))(x) ** 2)

    found, expected = (
        jax.grad(penalty, argnums=(1, 2))(function, x, kernel) for function in functions
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * jnp.max(jnp.abs(theirs)))


def test_groups_of_features_are_left_to_jax():
    x, kernel = normal(0, 2, 4, 4, 6), normal(1, 3, 3, 2, 3)
    arguments = {"dimension_numbers": ORDERS[2], "feature_group_count": 3}
    found = convolution.conv_general_dilated(x, kernel, (1, 1), "SAME", **arguments)
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **arguments)
    np.testing.assert_array_equal(found, expected)


def orders_in_loops(platform, monkeypatch):
    """The orders of axes of all convolutions of a gradient through a loop."""
    monkeypatch.setattr(platforms, "current", lambda: platform)
    layer = spatial_conv(4, name="layer")
    x, kernels = normal(0, 2, 3, 8, 8, 4), normal(1, 2, 3, 3, 4, 4)

    def loss(x, kernels):
        def body(x, kernel):
            return layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(4)}}, x), None

        return jnp.sum(jax.lax.scan(body, x, kernels)[0] ** 2)

    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernels).as_text()
    return set(re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))


def test_loops_on_a_cpu_have_the_order_that_runs_fast(monkeypatch):
    fast = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert orders_in_loops("cpu", monkeypatch) == {fast}
    assert len(orders_in_loops("tpu", monkeypatch)) == 3  # as JAX derives them
