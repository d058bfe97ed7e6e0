"""Learning rates at hand-computed points, and what an update does to small parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training as toy

from vidgen.train.checkpoints import Checkpointer
from vidgen.train.optimizers import (
    SGD,
    Adafactor,
    AdamW,
    Grouped,
    LearningRate,
    decayed,
    global_norm,
)


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
        ({"peak": 0.0}, "peak is 0.0"),
        ({"peak": 1.0, "decay": "cosine"}, "total_steps"),
        ({"peak": 1.0, "warmup_steps": -1}, "warmup_steps is -1"),
        ({"peak": 1.0, "floor": 2.0}, "floor is 2.0"),
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


def sized_tree(seed, *, scale=1.0):
    """Small leaves, a leaf of no axes, one of no elements, and one over the size of small ones."""
    rng, shapes = np.random.default_rng(seed), [(3, 2), (), (0, 4), (5,), (130, 128)]
    return {
        f"leaf{i}": jnp.asarray(scale * rng.normal(size=s), "float32") for i, s in enumerate(shapes)
    }


def test_global_norm_is_that_of_all_elements():
    tree = sized_tree(0)
    every = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree.values()])
    np.testing.assert_allclose(global_norm(tree), np.sqrt(np.sum(every**2)), rtol=1e-6)
    assert float(global_norm({})) == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1e3, np.inf, np.nan])
def test_clipped_updates_and_state_are_those_of_optax(scale):
    params, grads = sized_tree(1), sized_tree(2, scale=scale)
    rate = LearningRate(peak=0.1)
    found = SGD(learning_rate=rate, clip_norm=0.5).build()
    expected = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(rate))
    state = found.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(expected.init(params))
    updates, _ = found.update(grads, state, params)
    wanted, _ = expected.update(grads, expected.init(params), params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), updates, wanted)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"moment_dtype": "bfloat16"}])
def test_adamw_is_that_of_optax(settings):
    rate = LearningRate(peak=0.1, decay="linear", total_steps=2)  # 0 at the third update
    names = {"moment_dtype": "mu_dtype"}
    options = {names.get(name, name): value for name, value in settings.items()}
    theirs = optax.adamw(rate, **({"b2": 0.99, "weight_decay": 0.0, "mask": decayed} | options))
    ours = AdamW(learning_rate=rate, clip_norm=None, **settings).build()
    params = sized_tree(3)
    states = [tx.init(params) for tx in (ours, theirs)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for step in range(3):
        grads = sized_tree(4 + step)
        found, states[0] = ours.update(grads, states[0], params)
        expected, states[1] = theirs.update(grads, states[1], params)
        same = functools.partial(np.testing.assert_allclose, rtol=2e-6)
        jax.tree.map(same, (found, states[0]), (expected, states[1]))


def test_norm_and_clipping_compile_few_kernels_for_many_small_leaves():
    grads = {str(n): jnp.full((n,), 2.0) for n in range(1, 41)}
    tx = SGD(learning_rate=LearningRate(peak=1.0), clip_norm=1.0).build()

    def step(grads):
        updates, _ = tx.update(grads, tx.init(grads))
        return updates, global_norm(grads)

    text = jax.jit(step).lower(grads).compile().as_text()
    assert text.count(" fusion(") < 1.5 * len(grads)  # one a leaf, and a few


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


# ---- an optimizer for each part ------------------------------------------------------------------


def two_parts():
    return {
        "generator": {"w": jnp.full((2, 2), 3.0)},
        "discriminator": {"w": jnp.full((2, 2), 3.0), "b": jnp.zeros(2)},
    }


def grouped(**groups):
    default = {
        "generator": AdamW(learning_rate=LearningRate(peak=0.1)),
        "discriminator": SGD(learning_rate=LearningRate(peak=0.5)),
    }
    return Grouped(groups=default | groups)


def test_each_group_has_the_update_of_its_own_optimizer():
    params = two_parts()
    grads = jax.tree.map(lambda x: jnp.full_like(x, 2.0), params)
    found = update(grouped(), params, grads)
    alone = update(grouped().groups["generator"], params["generator"], grads["generator"])
    np.testing.assert_array_equal(found["generator"]["w"], alone["w"])
    np.testing.assert_array_equal(found["discriminator"]["w"], np.full((2, 2), -1.0))
    np.testing.assert_array_equal(found["discriminator"]["b"], [-1.0, -1.0])


def test_each_group_is_clipped_by_its_own_norm():
    rate = LearningRate(peak=1.0)
    parts = {"a": SGD(learning_rate=rate, clip_norm=1.0), "b": SGD(learning_rate=rate)}
    grads = {"a": {"w": jnp.array([3.0, 4.0])}, "b": {"w": jnp.array([300.0, 400.0])}}
    found = update(Grouped(groups=parts), jax.tree.map(jnp.zeros_like, grads), grads)
    np.testing.assert_allclose(found["a"]["w"], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(found["b"]["w"], [-300.0, -400.0])


def test_moments_are_kept_for_the_own_group_only():
    parts = dict.fromkeys(
        ("generator", "discriminator"), AdamW(learning_rate=LearningRate(peak=1.0))
    )
    params = two_parts()
    state = Grouped(groups=parts).build().init(params)
    kept = sum(x.size for x in jax.tree.leaves(state) if jnp.ndim(x))
    assert kept == 2 * sum(x.size for x in jax.tree.leaves(params))


def test_groups_that_the_model_lacks_are_left_out():
    params = {"generator": two_parts()["generator"]}
    grads = jax.tree.map(jnp.ones_like, params)
    assert jax.tree.structure(update(grouped(), params, grads)) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "params, words",
    [
        ({"generator": jnp.zeros(2), "critic": jnp.zeros(2)}, "no optimizer.*'critic'.*generator"),
        (jnp.zeros(2), "top-level names"),
    ],
)
def test_parts_without_an_optimizer(params, words):
    with pytest.raises(ValueError, match=words):
        grouped().build().init(params)


@pytest.mark.parametrize("groups, words", [({}, "empty"), ({"a": 0.1}, "a float")])
def test_wrong_groups(groups, words):
    with pytest.raises(ValueError, match=words):
        Grouped(groups=groups)


def test_the_logged_learning_rate_is_that_of_the_first_group():
    assert float(grouped().learning_rate(0)) == np.float32(0.1)


def test_gradient_descent_on_half_a_square_is_a_moving_average():
    values = np.asarray(jax.random.normal(jax.random.key(0), (20,)))
    tx = SGD(learning_rate=LearningRate(peak=0.1)).build()
    params, expected = {"a": jnp.float32(0.0)}, 0.0
    state = tx.init(params)
    for value in values:
        grads = jax.grad(lambda p, m: 0.5 * (p["a"] - m) ** 2)(params, value)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        expected = 0.9 * expected + 0.1 * value
    np.testing.assert_allclose(params["a"], expected, rtol=1e-5)


class TwoParts(toy.ToyModel):
    """The toy with its last layer as a part of its own."""

    def init(self, key, batch):
        flat = super().init(key, batch)
        last = {name: flat.pop(name) for name in ("out_kernel", "out_bias")}
        return {"generator": flat, "discriminator": last}

    def loss(self, params, frozen, batch, key, *, train):
        flat = params["generator"] | params["discriminator"]
        return super().loss(flat, frozen, batch, key, train=train)


@pytest.mark.parametrize("second", [AdamW, Adafactor, SGD])
def test_groups_train_and_lie_like_their_parameters(second):
    last = second(learning_rate=LearningRate(peak=1e-2))
    t = toy.make_trainer(model=TwoParts(), optimizer=grouped(discriminator=last))
    boxed = t.boxed_params(toy.spec(model=t.model))
    lying = {p.path: p for p in t.partitioner.placements(boxed)}
    assert any("fsdp" in p.spec for p in lying.values())
    state, moments = t.init_state(jax.random.key(0), toy.spec(model=t.model)), 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        like = next((p for p in lying if jax.tree_util.keystr(path).endswith(p)), None)
        if like and leaf.shape == lying[like].shape:
            assert leaf.sharding.spec == lying[like].spec
            moments += 1
    assert moments >= len(jax.tree.leaves(state.params["generator"]))
    before = jax.device_get(state.params)
    state, losses = toy.run_steps(t, state, 0, 5)
    assert np.isfinite(losses).all()
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True):
        assert np.any(x != y)


def test_groups_go_on_from_a_checkpoint_exactly(tmp_path):
    t = toy.make_trainer(model=TwoParts(), optimizer=grouped())
    state, _ = toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec(model=t.model)), 0, 2)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state)
        checkpointer.wait()
        host = jax.device_get(state)
        restored, _ = checkpointer.restore(t.abstract_state(toy.spec(model=t.model)))
    assert jax.tree.structure(restored) == jax.tree.structure(host)
    for x, y in zip(jax.tree.leaves(host), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(x, np.asarray(y))
    assert toy.run_steps(t, state, 2, 2)[1] == toy.run_steps(t, restored, 2, 2)[1]
