"""Convolutions, resampling and norms against explicit arithmetic."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import conv


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def explicit_conv(x, kernel, bias, stride=(1, 1, 1)):
    """A 3-D convolution of `b t h w c` by XLA's general operator."""
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return (
        jax.lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=dimensions) + bias
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_spatial_conv_is_a_1x3x3_convolution(stride):
    x = normal(0, 2, 3, 4, 6, 5)
    layer = conv.spatial_conv(7, name="layer", stride=stride)
    params = layer.init(jax.random.key(1), x)
    params = {"kernel": params["params"]["kernel"].unbox(), "bias": normal(2, 7)}
    found = layer.apply({"params": params}, x)
    expected = explicit_conv(x, params["kernel"][None], params["bias"], (1, stride, stride))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    each = layer.apply({"params": params}, x.reshape(6, 1, 4, 6, 5)).reshape(found.shape)
    np.testing.assert_allclose(found, each, atol=1e-6)


def test_temporal_conv_is_a_3x1x1_convolution():
    x = normal(0, 2, 5, 3, 2, 4)
    taps, bias = normal(1, 3, 4, 6), normal(2, 6)
    params = {"taps": {"kernel": taps.reshape(12, 6), "bias": bias}}
    found = conv.TemporalConv(6).apply({"params": params}, x)
    expected = explicit_conv(x, taps[:, None, None], bias)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_temporal_conv_starts_at_zero():
    x = normal(0, 1, 3, 2, 2, 4)
    found, _ = jax.jit(conv.TemporalConv(6).init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(found, np.zeros((1, 3, 2, 2, 6)))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_undoes_space_to_depth(patch):
    x = normal(0, 2, 3, 8, 4, 3)
    folded = conv.space_to_depth(x, patch)
    assert folded.shape == (2, 3, 8 // patch, 4 // patch, 3 * patch**2)
    np.testing.assert_array_equal(conv.depth_to_space(folded, patch), x)


def test_space_to_depth_keeps_each_square_together():
    x = normal(0, 1, 1, 4, 4, 3)
    folded = conv.space_to_depth(x, 2)
    np.testing.assert_array_equal(folded[0, 0, 1, 0], x[0, 0, 2:4, 0:2].reshape(-1))


def test_upsample_repeats_pixels():
    x = normal(0, 1, 2, 2, 3, 4)
    expected = np.asarray(x).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(conv.upsample_nearest(x, 2), expected)
    np.testing.assert_array_equal(conv.upsample_nearest(x, 1), x)


def apply_norm(kind, x, dtype="float32"):
    layer = conv.norm(kind, x.shape[-1], name="layer", dtype=dtype)
    return jax.jit(layer.init_with_output)(jax.random.key(0), x)[0]


def test_group_norm_closed_form():
    x = np.asarray(normal(0, 2, 3, 4, 4, 64)) * 3 + 1
    groups = x.reshape(2, 3, 4, 4, 32, 2)  # 32 groups of 2 channels
    mean = groups.mean((2, 3, 5), keepdims=True)
    std = np.sqrt(groups.var((2, 3, 5), keepdims=True) + 1e-6)
    expected = ((groups - mean) / std).reshape(x.shape)
    np.testing.assert_allclose(apply_norm("group", jnp.asarray(x)), expected, atol=1e-4)


@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (4, 8), (32, 96)])
def test_group_norm_and_its_gradient_are_those_of_linen(groups, channels):
    x = 3 * normal(0, 2, 3, 4, 5, channels) + 1
    scale, bias, weight = 1 + normal(1, channels), normal(2, channels), normal(3, *x.shape)

    def linen(x, scale, bias):
        layer = nn.GroupNorm(groups, epsilon=1e-6, reduction_axes=(-3, -2, -1))
        return layer.apply({"params": {"scale": scale, "bias": bias}}, x)

    def ours(x, scale, bias):
        return conv.group_norm(groups, 1e-6, x, scale, bias)

    def loss(*args, f):
        out = f(*args)
        return jnp.sum(weight * jnp.sin(out)), out

    (found, out), (expected, linens_out) = (
        jax.jit(jax.grad(functools.partial(loss, f=f), (0, 1, 2), has_aux=True))(x, scale, bias)
        for f in (ours, linen)
    )
    np.testing.assert_allclose(out, linens_out, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.max(np.abs(other)))


def test_the_gradient_of_group_norm_has_a_gradient():
    x, weight = normal(0, 1, 2, 2, 3, 4), normal(1, 1, 2, 2, 3, 4)

    def slope(layer, x):
        gradient = jax.grad(lambda x: jnp.sum(weight * jnp.sin(layer(x))))(x)
        return jnp.sum(gradient**2)

    def linen(x):
        layer = nn.GroupNorm(2, epsilon=1e-6, reduction_axes=(-3, -2, -1))
        return layer.apply({"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}, x)

    def ours(x):
        return conv.group_norm(2, 1e-6, x, jnp.ones(4), jnp.zeros(4))

    found, expected = (jax.jit(jax.grad(lambda x, f=f: slope(f, x)))(x) for f in (ours, linen))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.max(np.abs(expected)))


def test_channel_norm_closed_form():
    x = np.asarray(normal(0, 2, 3, 2, 2, 8)) * 3 + 1
    expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(apply_norm("channel", jnp.asarray(x)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", conv.NORMS)
def test_norms_never_mix_frames_or_examples(kind):
    x = normal(0, 2, 3, 4, 4, 8)
    changed = x.at[0, 1].multiply(50.0).at[0, 1].add(normal(1, 4, 4, 8))
    before, after = apply_norm(kind, x), apply_norm(kind, changed)
    same = np.ones((2, 3), bool)
    same[0, 1] = False
    np.testing.assert_array_equal(before[same], after[same])
    assert np.abs(before[0, 1] - after[0, 1]).max() > 0.01


def test_channel_norm_of_a_crop_is_a_crop():
    x = normal(0, 1, 2, 6, 6, 8) * jnp.linspace(0.1, 9, 6)[:, None]
    crop = np.s_[:, :, 1:4, 2:6]
    np.testing.assert_allclose(
        apply_norm("channel", x)[crop], apply_norm("channel", x[crop]), atol=1e-6
    )
    difference = apply_norm("group", x)[crop] - apply_norm("group", x[crop])
    assert np.abs(difference).max() > 0.1  # what "group" cannot do


@pytest.mark.parametrize("kind", conv.NORMS)
def test_norm_statistics_are_float32(kind):
    # A bfloat16 mean square of these is off by per cents, a variance by more than itself.
    x = (2000 + 50 * normal(0, 1, 1, 8, 8, 32)).astype(jnp.bfloat16)
    found = apply_norm(kind, x, dtype="bfloat16")
    assert found.dtype == jnp.bfloat16
    expected = apply_norm(kind, x.astype(jnp.float32))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=2**-8, atol=1e-4)


def test_unknown_norm_lists_the_choices():
    with pytest.raises(ValueError, match="'batch'.*group, channel"):
        conv.norm("batch", 8, name="norm")


@pytest.mark.parametrize(
    "n, limit, expected", [(64, 32, 32), (48, 32, 24), (16, 32, 16), (37, 32, 1), (6, 4, 3)]
)
def test_largest_divisor(n, limit, expected):
    assert conv.largest_divisor(n, limit) == expected


def test_mask_independent():
    x = normal(0, 3, 2, 2, 2, 4)
    found = conv.mask_independent(x, jnp.array([True, False, True]))
    np.testing.assert_array_equal(found[1], x[1])
    np.testing.assert_array_equal(found[np.array([0, 2])], 0)


def test_swish():
    x = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(conv.swish(jnp.asarray(x)), x / (1 + np.exp(-x)), atol=1e-6)
