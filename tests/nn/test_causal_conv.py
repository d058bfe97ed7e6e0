"""Causal convolutions against XLA's 3-D convolution, and chunk by chunk against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.nn import causal_conv
from vidgen.nn.causal_conv import CausalConv, CausalDown, CausalUp, Chain


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def explicit_conv(x, kernel, stride=(1, 1, 1)):
    """A 3-D convolution by XLA's general operator, over frames that are padded already."""
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    size = x.shape[2]
    space = jax.lax.padtype_to_pads((size,), (3,), stride[1:2], "SAME") * 2
    return jax.lax.conv_general_dilated(
        x, kernel, stride, ((0, 0), *space), dimension_numbers=dimensions
    )


def padded(x, front):
    return jnp.concatenate([x[:, :1]] * front + [x], axis=1)


def test_full_is_a_3x3x3_convolution_after_copies_of_the_first_frame():
    x, kernel, bias = normal(0, 2, 4, 5, 5, 3), normal(1, 3, 3, 3, 3, 6), normal(2, 6)
    taps = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, 9, 6)
    params = {"taps": {"kernel": taps, "bias": bias}}
    found, kept = jax.jit(CausalConv(6).apply)({"params": params}, x)
    np.testing.assert_allclose(found, explicit_conv(padded(x, 2), kernel) + bias, atol=1e-4)
    np.testing.assert_array_equal(kept, x[:, -2:])


def test_factorized_is_a_1x3x3_and_a_3x1x1_convolution():
    x, space, time = normal(0, 2, 4, 5, 5, 3), normal(1, 1, 3, 3, 3, 6), normal(2, 3, 1, 1, 6, 6)
    bias = normal(3, 2, 6)
    params = {
        "space": {"kernel": space[0], "bias": bias[0]},
        "taps": {"kernel": time.reshape(18, 6), "bias": bias[1]},
    }
    found, kept = jax.jit(CausalConv(6, "factorized").apply)({"params": params}, x)
    between = explicit_conv(x, space) + bias[0]
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    expected = jax.lax.conv_general_dilated(
        padded(between, 2), time, (1, 1, 1), "VALID", dimension_numbers=dimensions
    )
    np.testing.assert_allclose(found, expected + bias[1], atol=1e-4)
    np.testing.assert_allclose(kept, between[:, -2:], atol=1e-5)


@pytest.mark.parametrize("time, space", [(1, 2), (2, 2), (3, 1)])
def test_down_is_a_strided_convolution_over_windows_that_share_their_ends(time, space):
    x, taps = normal(0, 2, 1 + 2 * time, 4, 4, 3), time + 1 if time > 1 else 1
    kernel = normal(1, taps, 3, 3, 3, 5)
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, taps * 3, 5)
    params = {"conv": {"kernel": folded, "bias": jnp.zeros(5)}}
    found, _ = jax.jit(CausalDown(5, time, space).apply)({"params": params}, x)
    front = time if time > 1 else 0
    expected = explicit_conv(padded(x, front), kernel, (time, space, space))
    assert found.shape == (2, 3, 4 // space, 4 // space, 5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_depth_to_time_gives_one_frame_for_the_first_step():
    x = jnp.arange(2 * 2 * 6, dtype=jnp.float32).reshape(2, 2, 1, 1, 6)  # 3 frames of 2 channels
    found = causal_conv.depth_to_time(x, 3, starts=True)
    np.testing.assert_array_equal(found[0, :, 0, 0], [[4, 5], [6, 7], [8, 9], [10, 11]])
    later = causal_conv.depth_to_time(x, 3, starts=False)
    np.testing.assert_array_equal(later[0, :2, 0, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(later[:, 2:], found)


LAYERS = {
    "full": (CausalConv(4), 1, 1),
    "factorized": (CausalConv(4, "factorized"), 1, 1),
    "down": (CausalDown(4, 2, 2), 2, 1),
    "down in space": (CausalDown(4, 1, 2), 1, 1),
    "up": (CausalUp(4, 2, 2), 1, 2),
}


@pytest.mark.parametrize("layer, taken, given", LAYERS.values(), ids=LAYERS)
def test_chunks_equal_the_whole_and_nothing_looks_ahead(layer, taken, given):
    x = normal(0, 2, 1 + 3 * taken, 4, 4, 3)
    (whole, _), params = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    first, kept = layer.apply(params, x[:, : 1 + taken])
    second, _ = layer.apply(params, x[:, 1 + taken :], kept)
    assert first.shape[1] == 1 + given
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-5)
    changed, _ = jax.jit(layer.apply)(params, x.at[:, 1 + taken :].add(1.0))
    before, _ = jax.jit(layer.apply)(params, x)
    np.testing.assert_array_equal(changed[:, : 1 + given], before[:, : 1 + given])
    assert np.abs(changed - before)[:, 1 + given :].max() > 0.01


def test_a_still_clip_stays_still():
    """Nothing tells the start of a clip from its middle, if nothing moves."""
    x = jnp.repeat(normal(0, 1, 1, 4, 4, 3), 5, axis=1)
    for layer in (CausalConv(4), CausalDown(4, 2, 2)):
        (found, _), _ = jax.jit(layer.init_with_output)(jax.random.key(0), x)
        np.testing.assert_allclose(found, jnp.repeat(found[:, :1], found.shape[1], 1), atol=1e-6)


def test_chain_hands_each_layer_what_it_kept():
    def layer(x, past):
        return x + 1, x if past is None else past + x

    first = Chain(None)
    assert first(layer, first(layer, jnp.asarray(1))) == 3
    assert first.kept == (1, 2)
    second = Chain(first.kept)
    second(layer, second(layer, jnp.asarray(10)))
    assert second.kept == (11, 13)
