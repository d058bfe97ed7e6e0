"""Learning rates at hand-computed points, and what an update does to small parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidgen.train.optimizers import Adafactor, AdamW, LearningRate


def rates(settings, counts):
    return [float(settings(n)) for n in counts]


def test_warm_up_is_linear_and_never_zero():
    found = rates(LearningRate(peak=2.0, warmup_steps=4), [0, 1, 2, 3, 4, 1000])
    np.testing.assert_allclose(found, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    "decay, expected",
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.55, 0.1, 0.1]),
        ("cosine", [1.0, 0.55, 0.1, 0.1]),
        ("rsqrt", [1.0, np.sqrt(10 / 60), np.sqrt(10 / 110), np.sqrt(10 / 500)]),
    ],
)
def test_decay(decay, expected):
    settings = LearningRate(peak=1.0, warmup_steps=10, decay=decay, total_steps=110, floor=0.1)
    np.testing.assert_allclose(rates(settings, [10, 60, 110, 500]), expected, rtol=1e-6)


def test_cosine_quarter_point():
    settings = LearningRate(peak=1.0, decay="cosine", total_steps=100)
    np.testing.assert_allclose(float(settings(25)), (1 + np.cos(np.pi / 4)) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"peak": 1.0, "decay": "step"}, "rsqrt"),
        ({"peak": 0.0}, "positive"),
        ({"peak": 1.0, "decay": "cosine"}, "total_steps"),
        ({"peak": 1.0, "warmup_steps": -1}, "warmup_steps is -1"),
        ({"peak": 1.0, "floor": 2.0}, "fraction"),
    ],
)
def test_wrong_learning_rate(settings, words):
    with pytest.raises(ValueError, match=words):
        LearningRate(**settings)


@pytest.mark.parametrize(
    "make, settings, words",
    [
        (AdamW, {"clip_norm": 0.0}, "clip_norm"),
        (AdamW, {"beta2": 1.0}, "beta2"),
        (AdamW, {"moment_dtype": "int8"}, "bfloat16"),
        (Adafactor, {"momentum": 1.5}, "momentum"),
        (Adafactor, {"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_wrong_optimizer(make, settings, words):
    with pytest.raises(ValueError, match=words):
        make(learning_rate=LearningRate(peak=1.0), **settings)


def update(settings, params, grads):
    tx = settings.build()
    return tx.update(grads, tx.init(params), params)[0]


@pytest.mark.parametrize("make", [AdamW, Adafactor])
def test_weight_decay_spares_scales_and_biases(make):
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0), "gain": jnp.float32(3.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    settings = make(learning_rate=LearningRate(peak=0.1), weight_decay=0.5)
    updates = update(settings, params, zeros)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 3.0, rtol=1e-6)
    assert not np.any(updates["bias"]) and not np.any(updates["gain"])


def test_first_adam_step_is_the_learning_rate():
    params, grads = {"w": jnp.zeros(3)}, {"w": jnp.array([2.0, -0.5, 1.0])}
    settings = AdamW(learning_rate=LearningRate(peak=0.1), clip_norm=None)
    np.testing.assert_allclose(update(settings, params, grads)["w"], [-0.1, 0.1, -0.1], rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    """Clipped first: Adam's first moment is (1 - beta1) times the clipped gradient."""
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    tx = AdamW(learning_rate=LearningRate(peak=0.1), clip_norm=1.0, beta1=0.5).build()
    params = jax.tree.map(jnp.zeros_like, grads)
    _, state = tx.update(grads, tx.init(params), params)
    moments = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose([moments["a"][0], moments["b"][0]], [0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_adafactor_factors_large_matrices(momentum):
    settings = Adafactor(
        learning_rate=LearningRate(peak=0.1), momentum=momentum, min_factored_size=4
    )
    params = {"w": jnp.ones((4, 6)), "small": jnp.ones((2, 6))}
    shapes = [x.shape for x in jax.tree.leaves(settings.build().init(params))]
    assert (4,) in shapes and (6,) in shapes
    assert shapes.count((4, 6)) == (0 if momentum is None else 1)


def test_first_moment_can_be_half_precision():
    settings = AdamW(learning_rate=LearningRate(peak=0.1), moment_dtype="bfloat16")
    state = settings.build().init({"w": jnp.ones(3)})
    assert optax.tree_utils.tree_get(state, "mu")["w"].dtype == jnp.bfloat16
    assert optax.tree_utils.tree_get(state, "nu")["w"].dtype == jnp.float32


@pytest.mark.parametrize("make", [AdamW, Adafactor])
def test_a_quadratic_is_minimised(make):
    target = jax.random.normal(jax.random.key(0), (8, 8))
    tx = make(learning_rate=LearningRate(peak=0.05, decay="linear", total_steps=200)).build()
    params = {"w": jnp.zeros((8, 8))}

    def body(carry, _):
        params, state = carry
        grads = jax.grad(lambda p: jnp.sum((p["w"] - target) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(body, (params, tx.init(params)), None, length=200)
    assert float(jnp.max(jnp.abs(params["w"] - target))) < 0.05
