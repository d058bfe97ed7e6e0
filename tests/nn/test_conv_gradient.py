"""The gradient of a 3x3 kernel as a product, against the gradient that XLA makes and in float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import conv, conv_gradient, convolution, platforms

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def explicit(x, dy):
    """The sums of the module's docstring, in float64."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    h, w = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        np.einsum("nhwc,nhwd->cd", x[:, i : i + h, j : j + w], dy)
        for i in range(3)
        for j in range(3)
    ]
    return np.reshape(taps, (3, 3, x.shape[-1], dy.shape[-1]))


@pytest.mark.parametrize(
    "n, h, w, c, d",
    [
        (1, 1, 1, 1, 1),
        (3, 2, 5, 4, 6),
        (5, 16, 16, 16, 8),  # 5 has no divisor below the 4 frames that go at once
        (8, 16, 16, 32, 16),
        (2, 40, 33, 3, 5),  # more pixels than go at once
    ],
)
def test_the_gradient_is_the_sum_over_pixels(n, h, w, c, d):
    x, dy = normal(0, n, h, w, c), normal(1, n, h, w, d)
    found = jax.jit(conv_gradient.kernel_gradient)(x, dy)
    expected = explicit(x, dy)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max(), rtol=1e-5)


def both_gradients(convolve, x, kernel, dy):
    settings = {"dimension_numbers": DIMENSIONS}
    return jax.vjp(lambda *a: convolve(*a, (1, 1), "SAME", **settings), x, kernel)[1](dy)


def test_gradients_are_those_of_the_plain_convolution():
    x, kernel, dy = normal(0, 8, 32, 32, 16), normal(1, 3, 3, 16, 24), normal(2, 8, 32, 32, 24)
    functions = convolution.conv_general_dilated, jax.lax.conv_general_dilated
    ours, plain = (jax.jit(functools.partial(both_gradients, f))(x, kernel, dy) for f in functions)
    for found, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_gradient_of_a_gradient_is_that_of_the_plain_convolution():
    x, kernel = normal(0, 8, 32, 32, 16), normal(1, 3, 3, 16, 16) / 12

    def penalty(convolve, kernel):  # as R1's
        def judged(x):
            y = convolve(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
            return jnp.sum(jnp.tanh(y))

        return jnp.sum(jnp.square(jax.grad(judged)(x)))

    found, expected = (
        jax.jit(jax.grad(functools.partial(penalty, convolve)))(kernel)
        for convolve in (convolution.conv_general_dilated, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def is_product(layer, *shape):
    """Whether the gradient of the layer's kernel is a matrix product."""
    x = jax.ShapeDtypeStruct(shape, layer.dtype or "float32")
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    gradient = jax.grad(lambda params, x: jnp.sum(layer.apply(params, x)))
    return "dot_general" in str(jax.make_jaxpr(gradient)(params, x))


def test_layers_take_it_where_it_is_faster(monkeypatch):
    layer = conv.spatial_conv(16, name="layer")
    assert is_product(layer, 2, 4, 32, 32, 16)
    assert not is_product(layer, 2, 4, 8, 8, 16)  # small frames
    assert not is_product(layer, 1, 1, 32, 32, 16)  # few pixels in all
    assert not is_product(layer, 2, 4, 32, 32, 3)  # few channels
    assert not is_product(conv.spatial_conv(16, name="layer", stride=2), 2, 4, 32, 32, 16)
    assert not is_product(conv.spatial_conv(16, name="layer", dtype="bfloat16"), 2, 4, 32, 32, 16)
    special = {"conv_general_dilated": convolution.conv_general_dilated}
    assert is_product(nn.Conv(16, (3, 3), **special), 8, 32, 32, 16)
    assert not is_product(nn.Conv(16, (5, 5), **special), 8, 32, 32, 16)
    assert not is_product(nn.Conv(16, (3, 3), padding="VALID", **special), 8, 32, 32, 16)
    assert not is_product(nn.Conv(16, (3, 3), kernel_dilation=2, **special), 8, 32, 32, 16)
    assert not is_product(nn.Conv(256, (3, 3), feature_group_count=16, **special), 8, 32, 32, 256)
    monkeypatch.setattr(platforms, "current", lambda: "tpu")
    assert not is_product(layer, 2, 4, 32, 32, 16)
