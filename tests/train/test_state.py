"""The averaged weights against their closed form, and the Model protocol.

Tests of vidgen/model.py too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vidgen.model import Model
from vidgen.train import state as training


def test_toy_model_is_a_model():
    assert isinstance(toy.ToyModel(), Model)
    assert not isinstance(object(), Model)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_decay_warms_up_to_its_limit(decay):
    counts = np.arange(200)
    found = [float(training.ema_decay_at(jnp.int32(n), decay)) for n in counts]
    np.testing.assert_allclose(found, np.minimum(decay, (1 + counts) / (10 + counts)), rtol=1e-6)


def test_average_is_the_weighted_sum_of_all_weights():
    decay, steps = 0.6, 12
    weights = np.random.default_rng(0).normal(size=(steps + 1, 3))
    ema = {"w": jnp.asarray(weights[0], jnp.float32)}
    for n in range(steps):
        new = {"w": jnp.asarray(weights[n + 1], jnp.float32)}
        ema = training.ema_update(ema, new, jnp.int32(n), decay)
    d = np.array([min(decay, (1 + n) / (10 + n)) for n in range(steps)])
    # theta_k entered with 1 - d(k-1) and was then multiplied by every later d.
    coefficients = [np.prod(d)] + [(1 - d[k]) * np.prod(d[k + 1 :]) for k in range(steps)]
    assert np.isclose(sum(coefficients), 1.0)
    np.testing.assert_allclose(ema["w"], np.asarray(coefficients) @ weights, rtol=2e-5, atol=1e-6)


def test_inference_prefers_the_average():
    state = training.TrainState(step=jnp.int32(0), params={"w": 1}, opt_state=(), ema={"w": 2})
    assert state.inference_params() == {"w": 2}
    assert state.replace(ema=None).inference_params() == {"w": 1}


def test_average_keeps_its_dtype():
    ema = {"w": jnp.ones(2, jnp.float32)}
    out = training.ema_update(ema, {"w": jnp.ones(2, jnp.bfloat16)}, jnp.int32(3), 0.9)
    assert jax.tree.map(lambda x: x.dtype, out) == {"w": jnp.float32}
