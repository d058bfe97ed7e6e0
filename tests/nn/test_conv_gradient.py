"""The gradient of a 3x3 kernel as a product, against the gradient that XLA makes and in float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import conv, conv_gradient, fused_attention

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


def both_gradients(convolution, x, kernel, dy):
    return jax.vjp(convolution, x, kernel)[1](dy)


def test_gradients_are_those_of_the_plain_convolution():
    x, kernel, dy = normal(0, 8, 32, 32, 16), normal(1, 3, 3, 16, 24), normal(2, 8, 32, 32, 24)
    settings = {
        "dimension_numbers": jax.lax.conv_dimension_numbers(x.shape, kernel.shape, DIMENSIONS)
    }
    ours = functools.partial(
        both_gradients, lambda *a: conv_gradient.convolution(*a, (1, 1), "SAME", **settings)
    )
    plain = functools.partial(
        both_gradients, lambda *a: jax.lax.conv_general_dilated(*a, (1, 1), "SAME", **settings)
    )
    assert "custom_vjp" in str(
        jax.make_jaxpr(lambda *a: conv_gradient.convolution(*a, (1, 1), "SAME", **settings))(
            x, kernel
        )
    )
    for found, expected in zip(
        jax.jit(ours)(x, kernel, dy), jax.jit(plain)(x, kernel, dy), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_gradient_of_a_gradient_is_that_of_the_plain_convolution():
    x, kernel = normal(0, 8, 32, 32, 16), normal(1, 3, 3, 16, 16) / 12
    settings = {
        "dimension_numbers": jax.lax.conv_dimension_numbers(x.shape, kernel.shape, DIMENSIONS)
    }

    def penalty(convolution, kernel):  # as R1's
        def judged(x):
            return jnp.sum(jnp.tanh(convolution(x, kernel, (1, 1), "SAME", **settings)))

        return jnp.sum(jnp.square(jax.grad(judged)(x)))

    found, expected = (
        jax.jit(jax.grad(functools.partial(penalty, convolution)))(kernel)
        for convolution in (conv_gradient.convolution, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def taken(layer, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    return "custom_vjp" in str(jax.make_jaxpr(layer.apply)(params, x))


def test_layers_take_it_where_it_is_faster(monkeypatch):
    layer = conv.spatial_conv(16, name="layer")
    assert taken(layer, 2, 4, 32, 32, 16)
    assert not taken(layer, 2, 4, 8, 8, 16)  # small frames
    assert not taken(layer, 1, 1, 32, 32, 16)  # few pixels in all
    assert not taken(layer, 2, 4, 32, 32, 3)  # few channels
    assert not taken(conv.spatial_conv(16, name="layer", stride=2), 2, 4, 32, 32, 16)
    assert not taken(conv.spatial_conv(16, name="layer", dtype="bfloat16"), 2, 4, 32, 32, 16)
    special = {"conv_general_dilated": conv_gradient.convolution}
    assert taken(nn.Conv(16, (3, 3), **special), 8, 32, 32, 16)
    assert not taken(nn.Conv(16, (5, 5), **special), 8, 32, 32, 16)
    assert not taken(nn.Conv(16, (3, 3), padding="VALID", **special), 8, 32, 32, 16)
    assert not taken(nn.Conv(16, (3, 3), kernel_dilation=2, **special), 8, 32, 32, 16)
    assert not taken(nn.Conv(256, (3, 3), feature_group_count=16, **special), 8, 32, 32, 256)
    monkeypatch.setattr(fused_attention, "platform", lambda: "tpu")
    assert not taken(layer, 2, 4, 32, 32, 16)
