"""The networks over tokens: published sizes, and what may see what.

Tests of vidgen/nn/apply.py too.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_fakes as tiny

from vidgen.nn import axes
from vidgen.phenaki.maskgit import MaskGIT, TokenCritic
from vidgen.types import TextEmbedding, null_text


def boxed(network, grid, text_width=8):
    tokens = jax.ShapeDtypeStruct((1, *grid), jnp.int32)
    text = TextEmbedding(
        tokens=jax.ShapeDtypeStruct((1, 3, text_width), jnp.float32),
        mask=jax.ShapeDtypeStruct((1, 3), jnp.bool_),
    )
    return jax.eval_shape(network.init, jax.random.key(0), tokens, text)


def parameters(network, **options):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(boxed(network, **options)))


@pytest.mark.parametrize(
    ("layers", "width", "heads", "mlp", "cross", "expected"),
    [
        (24, 2048, 32, 8192, True, 1.833e9),
        (20, 1536, 24, 6144, True, 0.928e9),
        (24, 768, 16, 3072, False, 178e6),
    ],
)
def test_published_sizes(layers, width, heads, mlp, cross, expected):
    network = MaskGIT(layers=layers, width=width, heads=heads, mlp=mlp, cross=cross)
    found = parameters(network, grid=(6, 16, 16), text_width=4096)
    assert found == pytest.approx(expected, rel=0.02)


def test_the_defaults_are_the_main_model():
    found = parameters(MaskGIT(), grid=(6, 16, 16), text_width=4096)
    assert found == pytest.approx(1.8e9, rel=0.02)


@pytest.mark.parametrize("kind", [MaskGIT, TokenCritic])
def test_every_parameter_has_named_axes(kind):
    found = boxed(kind(**tiny.SIZES), tiny.GRID)
    for leaf in jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, axes.Named)):
        assert isinstance(leaf, axes.Named)
        assert len(leaf.names) == leaf.value.ndim and set(leaf.names) <= set(axes.PARAMETER_AXES)


@functools.cache
def setting():
    """(jitted network, its parameters, tokens, text) of two clips."""
    network = MaskGIT(**tiny.SIZES)
    batch = tiny.cached(2)
    tokens = batch.tokens.at[:, 1].set(tiny.CODES)
    call = jax.jit(lambda p, tokens, text, valid: network.apply(p, tokens, text, valid=valid))
    return call, tiny.lively(network, tokens, batch.text), tokens, batch.text


def test_every_token_sees_every_other():
    call, params, tokens, text = setting()
    valid = jnp.ones(tokens.shape, bool)
    before = call(params, tokens, text, valid)
    after = call(params, tokens.at[0, 2, 1, 1].set((tokens[0, 2, 1, 1] + 1) % 6), text, valid)
    assert before.shape == (2, *tiny.GRID, tiny.CODES) and before.dtype == jnp.float32
    assert (jnp.abs(after[0] - before[0]).max(-1) > 1e-6).all()
    np.testing.assert_array_equal(after[1], before[1])


def test_padding_of_the_text_is_never_read():
    call, params, tokens, text = setting()
    valid = jnp.ones(tokens.shape, bool)
    before = call(params, tokens, text, valid)
    padding = ~text.mask[..., None]
    other = text.replace(tokens=jnp.where(padding, 9.0 * text.tokens + 1, text.tokens))
    np.testing.assert_array_equal(call(params, tokens, other, valid), before)
    real = text.replace(
        tokens=jnp.where(padding, text.tokens, text.tokens + 1.0 * (text.tokens > 0))
    )
    assert (call(params, tokens, real, valid) != before).any()


def test_the_null_prompt_adds_nothing():
    """Whatever its tokens are, and as if there were no text layers."""
    call, params, tokens, text = setting()
    valid = jnp.ones(tokens.shape, bool)
    null = call(params, tokens, null_text(text), valid)
    masked_out = text.replace(mask=jnp.zeros_like(text.mask))
    np.testing.assert_array_equal(call(params, tokens, masked_out, valid), null)
    silent = MaskGIT(**tiny.SIZES, cross=False).apply(params, tokens, None)
    np.testing.assert_allclose(null, silent, rtol=1e-4, atol=1e-5)


def test_positions_that_do_not_exist_are_not_seen():
    """The first time step alone gives what it gives among others that are not valid."""
    call, params, tokens, text = setting()
    valid = jnp.zeros(tokens.shape, bool).at[:, 0].set(True)
    before = call(params, tokens, text, valid)[:, 0]
    after = call(params, tokens.at[:, 1:].set(3), text, valid)[:, 0]
    np.testing.assert_array_equal(after, before)
    alone = MaskGIT(**tiny.SIZES).apply(params, tokens[:, :1], text)[:, 0]
    np.testing.assert_allclose(before, alone, rtol=1e-4, atol=1e-5)
    everything = call(params, tokens, text, jnp.ones_like(valid))[:, 0]
    assert jnp.abs(everything - before).max() > 1e-3


def test_places_differ_along_every_axis():
    """Equal tokens give different logits in different places."""
    call, params, tokens, text = setting()
    same = jnp.full_like(tokens, tiny.CODES)
    logits = call(params, same, text, jnp.ones(tokens.shape, bool))[0].reshape(-1, tiny.CODES)
    apart = jnp.abs(logits[:, None] - logits[None]).max(-1) + jnp.eye(len(logits))
    assert apart.min() > 1e-3


def test_computation_in_bfloat16_keeps_parameters_and_logits_in_float32():
    network = MaskGIT(**tiny.SIZES, dtype="bfloat16")
    variables = boxed(network, tiny.GRID, tiny.TEXT[1])
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    batch = tiny.cached(1)
    out = jax.eval_shape(network.apply, variables, batch.tokens, batch.text)
    assert out.dtype == jnp.float32


def test_mistakes():
    network = MaskGIT(**tiny.SIZES)
    with pytest.raises(ValueError, match="4x2x2 tokens .*3x2x2 .*MaskGIT.grid"):
        boxed(network, (4, 2, 2))
    with pytest.raises(ValueError, match="reads text .* got none"):
        network.init(jax.random.key(0), jnp.zeros((1, *tiny.GRID), int), None)
