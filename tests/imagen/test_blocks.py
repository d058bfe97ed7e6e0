"""The space-time block: closed forms, identity at the start, and one test per operator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.imagen import blocks
from vidgen.imagen.blocks import LevelSpec

OPERATORS = {
    "spatial_attention": dict(spatial="attention"),
    "text_attention": dict(text="attention"),
    "temporal_attention": dict(temporal="attention"),
    "temporal_conv": dict(temporal="conv"),
    "feed_forward": dict(feed_forward=2),
}


def block_inputs(b=2, t=3, *, cond_frames=1, independent=False, e=6):
    text = tiny.text(b)
    return blocks.BlockInputs(
        cond=tiny.normal(31, b, cond_frames, e),
        text=text.tokens,
        text_mask=text.mask,
        independent_frames=jnp.full(b, independent),
    )


def features(b=2, t=3, c=8):
    return tiny.normal(30, b, t, 4, 4, c)


# ---- residual block ------------------------------------------------------------------------------


def channel_norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def swish(x):
    return x / (1 + np.exp(-x))


def test_residual_block_closed_form():
    """On frames of one pixel a 3x3 convolution is its middle tap."""
    module = blocks.ResidualBlock(8, norm="channel")
    x, cond = tiny.normal(0, 2, 3, 1, 1, 4), tiny.normal(1, 2, 3, 6)
    params = tiny.random_params(module, x, cond, train=False)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    conv1, conv2 = p["conv1"], p["conv2"]
    flat, e = np.asarray(x, np.float64)[:, :, 0, 0], np.asarray(cond, np.float64)
    y = swish(channel_norm(flat, p["norm1"]["scale"]))
    y = y @ conv1["kernel"][1, 1] + conv1["bias"]
    film = e @ p["film"]["kernel"] + p["film"]["bias"]
    y = channel_norm(y, p["norm2"]["scale"]) * (1 + film[..., :8]) + film[..., 8:]
    y = swish(y) @ conv2["kernel"][1, 1] + conv2["bias"]
    expected = flat @ p["skip"]["kernel"] + p["skip"]["bias"] + y
    found = jax.jit(functools.partial(module.apply, train=False))(params, x, cond)
    np.testing.assert_allclose(found[:, :, 0, 0], expected, atol=1e-5)


def test_conditioning_per_frame_acts_on_its_frame():
    module = blocks.ResidualBlock(8)
    x, inputs = features(), block_inputs(cond_frames=3)
    params = tiny.random_params(module, x, inputs.cond, train=False)
    apply = jax.jit(lambda cond: module.apply(params, x, cond, False))
    found, other = apply(inputs.cond), apply(inputs.cond.at[0, 1].add(1.0))
    same = np.ones((2, 3), bool)
    same[0, 1] = False
    np.testing.assert_array_equal(found[same], other[same])
    assert np.abs(found[0, 1] - other[0, 1]).max() > 0.01


def test_dropout_acts_in_training_alone():
    module = blocks.ResidualBlock(8, dropout=0.5)
    x, cond = features(), block_inputs().cond
    params = tiny.random_params(module, x, cond, train=False)

    def apply(seed, train):
        return module.apply(params, x, cond, train, rngs={"dropout": jax.random.key(seed)})

    apply = jax.jit(apply, static_argnums=1)
    np.testing.assert_array_equal(apply(0, False), apply(1, False))
    np.testing.assert_array_equal(apply(0, True), apply(0, True))
    assert np.abs(apply(0, True) - apply(1, True)).max() > 0.1


def test_feed_forward_closed_form():
    module = blocks.FeedForward(12, norm="channel")
    x = features(c=8)
    params = tiny.random_params(module, x)
    p = jax.tree.map(np.asarray, params["params"])
    y = channel_norm(np.asarray(x), p["norm"]["scale"]) @ p["in"]["kernel"] + p["in"]["bias"]
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    expected = y @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-4)


# ---- space-time block ----------------------------------------------------------------------------


def block(**operators):
    return blocks.SpaceTimeBlock(LevelSpec(width=8, head_dim=4, **operators))


def silent_last_layers(params):
    """The zeros that every branch starts with."""
    last = ("conv2", "out", "taps")
    return tiny.edit(params, lambda name, x: 0 * x if name.split("/")[-2] in last else x)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_a_residual_branch_that_starts_at_zero(name):
    module, x, inputs = block(**OPERATORS[name]), features(), block_inputs()
    params = tiny.random_params(module, x, None, inputs)
    apply = jax.jit(lambda params: module.apply(params, x, None, inputs)[0])
    np.testing.assert_array_equal(apply(silent_last_layers(params)), x)
    branches = {key for key in params["params"] if key not in ("residual", "temporal_norm")}
    assert branches == {name}

    def without_residual(where, leaf):
        return 0 * leaf if where.startswith("residual/conv2") else leaf

    assert np.abs(apply(tiny.edit(params, without_residual)) - x).max() > 0.1


def test_block_without_operators_is_a_residual_block():
    module, x, inputs = block(), features(), block_inputs()
    params = tiny.random_params(module, x, None, inputs)
    assert set(params["params"]) == {"residual"}
    found, kept = module.apply(params, x, None, inputs)
    np.testing.assert_array_equal(found, kept)
    residual = {"params": params["params"]["residual"]}
    expected = blocks.ResidualBlock(8).apply(residual, x, inputs.cond, False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("temporal", ["none", "attention", "conv", "attention+conv"])
def test_time_is_crossed_by_temporal_operators_alone(temporal):
    module, x = block(spatial="attention", temporal=temporal), features()
    params = tiny.random_params(module, x, None, block_inputs())
    apply = jax.jit(lambda x, inputs: module.apply(params, x, None, inputs)[0])
    other = x.at[:, 2].set(tiny.normal(1, 2, 4, 4, 8))
    packed = block_inputs(independent=True)
    np.testing.assert_array_equal(apply(x, packed)[:, :2], apply(other, packed)[:, :2])
    joint = block_inputs()
    difference = np.abs(apply(x, joint) - apply(other, joint))[:, :2].max((0, 2, 3, 4))
    seen = {"none": [0, 0], "conv": [0, 1]}.get(temporal, [1, 1])  # a convolution reaches one frame
    np.testing.assert_array_equal(difference > 1e-3, seen)


def test_skip_is_concatenated():
    module, x, inputs = block(), features(), block_inputs()
    skip = tiny.normal(1, *x.shape)
    params = tiny.random_params(module, x, skip, inputs)
    assert params["params"]["residual"]["skip"]["kernel"].shape == (16, 8)
    found, _ = module.apply(params, x, skip, inputs)
    residual = {"params": params["params"]["residual"]}
    both = jnp.concatenate([x, skip], axis=-1)
    expected = blocks.ResidualBlock(8).apply(residual, both, inputs.cond, False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, message",
    [
        (dict(spatial="conv"), "spatial is 'conv'.*none.*attention"),
        (dict(text="pool"), "text is 'pool'.*none.*attention"),
        (dict(temporal="lstm"), r"temporal is 'lstm'.*attention\+conv"),
        (dict(width=0), "width is 0.*>= 1"),
        (dict(blocks=0), "blocks is 0.*>= 1"),
        (dict(stride=0), "stride is 0.*>= 1"),
        (dict(temporal="attention"), "width 48 .*head_dim 64"),
    ],
)
def test_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=f"LevelSpec.{message}"):
        LevelSpec(**{"width": 48} | setting)


def test_width_is_free_without_attention():
    assert LevelSpec(width=48, temporal="conv").width == 48
    assert LevelSpec(width=48, text="attention", head_dim=16).heads == 3
