"""The arithmetic of FSQ and LFQ against explicit tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.phenaki import scalar_codes


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_fsq_index_of_zero_and_of_the_largest():
    levels = (8, 5, 5, 5)
    for z, index in ((0.0, 500), (99.0, 999), (-99.0, 0)):
        rounded = jnp.round(scalar_codes.fsq_bound(jnp.full((4,), z), levels))
        assert scalar_codes.fsq_index(rounded, levels) == index


@pytest.mark.parametrize("levels", [(8, 6, 5), (2, 3), (4,), (7, 5)])
def test_fsq_bound_reaches_all_levels_and_no_other(levels):
    z = jnp.linspace(-9, 9, 2001)[:, None] * jnp.ones(len(levels))
    rounded = np.asarray(jnp.round(scalar_codes.fsq_bound(z, levels)))
    for column, count in zip(rounded.T, levels, strict=True):
        expected = np.arange(count) - count // 2
        np.testing.assert_array_equal(np.unique(column), expected)


@pytest.mark.parametrize("levels", [(8, 6, 5), (2, 3), (4,)])
def test_fsq_code_undoes_index(levels):
    every = jnp.arange(np.prod(levels))
    codes = scalar_codes.fsq_code(every, levels)
    np.testing.assert_array_equal(scalar_codes.fsq_index(codes, levels), every)
    assert len(np.unique(codes, axis=0)) == len(every)


def test_lfq_index():
    assert scalar_codes.lfq_index(jnp.asarray([0.3, -0.2, 0.9])) == 5
    assert scalar_codes.lfq_index(-jnp.ones(18)) == 0
    assert scalar_codes.lfq_index(jnp.ones(18)) == 262143


def test_lfq_code_undoes_index():
    every = jnp.arange(2**6)
    codes = scalar_codes.lfq_code(every, 6)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    np.testing.assert_array_equal(scalar_codes.lfq_index(codes), every)


def explicit(logits):
    """Probabilities (positions, codes) by a softmax over the distance to every code."""
    bits = logits.shape[-1]
    z, codes = np.asarray(logits, np.float64) / 4, scalar_codes.lfq_code(jnp.arange(2**bits), bits)
    near = -((z[:, None] - np.asarray(codes)) ** 2).sum(-1)
    p = np.exp(near - near.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_entropies_are_those_of_the_softmax_over_all_codes(bits):
    logits, weights = normal(0, 7, bits) * 2, jnp.abs(normal(1, 7))
    p = explicit(logits)
    found = scalar_codes.bit_entropy(logits)
    np.testing.assert_allclose(found, -(p * np.log(p)).sum(-1), rtol=1e-4)
    for w in (None, weights):
        share = np.full(7, 1 / 7) if w is None else np.asarray(w) / np.sum(w)
        mean = share @ p
        found = jax.jit(scalar_codes.mean_entropy)(logits, w)
        np.testing.assert_allclose(found, -(mean * np.log(mean)).sum(), rtol=1e-4)


def test_entropies_of_certain_bits_have_finite_gradients():
    logits = jnp.asarray([[1e4, -1e4, 0.0]])
    for function in (lambda x: jnp.sum(scalar_codes.bit_entropy(x)), scalar_codes.mean_entropy):
        value, grad = jax.jit(jax.value_and_grad(function))(logits)
        np.testing.assert_allclose(value, np.log(2), rtol=1e-5)
        assert np.isfinite(grad).all()


def test_mean_entropy_takes_any_axes():
    logits = normal(0, 2, 3, 4)
    entropy = jax.jit(scalar_codes.mean_entropy)
    np.testing.assert_allclose(entropy(logits), entropy(logits.reshape(6, 4)), rtol=1e-6)
