"""Distributions of fresh parameters: the same by JAX and by NumPy, with the variance of fan-in."""

import math

import jax
import numpy as np
import pytest

from vidgen.nn import initializers

KEY = jax.random.key(0)


def both(initializer, shape):
    distribution = initializer(shape)
    return (
        np.asarray(distribution.draw(KEY, shape)),
        distribution.fill(np.random.default_rng(0), shape),
    )


@pytest.mark.parametrize("shape, axes", [((200, 4, 50), (0,)), ((4, 50, 200), (0, 1))])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_variance_is_scale_over_fan_in(shape, axes, scale):
    for values in both(initializers.fan_in(scale, axes), shape):
        expected = scale / math.prod(shape[i] for i in axes)
        np.testing.assert_allclose(np.var(values), expected, rtol=0.03)


def test_all_axes_but_the_last_are_inputs_by_default():
    shape = (3, 3, 20, 60)
    assert initializers.fan_in()(shape) == initializers.fan_in(axes=(0, 1, 2))(shape)
    for values in both(initializers.fan_in(), shape):
        np.testing.assert_allclose(np.var(values), 1 / 180, rtol=0.03)


def test_nothing_is_further_than_two_standard_deviations():
    for values in both(initializers.truncated_normal(0.02), (100, 100)):
        assert 0.0399 < np.max(np.abs(values)) <= 0.04
        # the cut keeps .87963 of the standard deviation (closed form of the truncated normal)
        np.testing.assert_allclose(np.std(values), 0.02 * 0.87963, rtol=0.02)
    for values in both(initializers.normal(0.02), (100, 100)):
        np.testing.assert_allclose(np.std(values), 0.02, rtol=0.02)
        assert np.mean(np.abs(values) > 0.04) == pytest.approx(0.0455, abs=0.008)


def test_constants():
    cases = [(initializers.zeros, 0), (initializers.ones, 1), (initializers.fan_in(0.0), 0)]
    for initializer, value in cases:
        for values in both(initializer, (3, 4)):
            np.testing.assert_array_equal(values, np.full((3, 4), value, np.float32))
            assert values.dtype == np.float32
    assert [x.shape for x in both(initializers.zeros, ())] == [(), ()]
