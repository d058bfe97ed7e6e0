"""The step: microbatches, averages, metrics, determinism, and one against eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training as toy

from vidgen.train import flops, optimizers
from vidgen.train.guard import DivergencePolicy
from vidgen.train.partitioning import unbox
from vidgen.train.state import TrainState

RATE = optimizers.LearningRate(peak=1e-2, warmup_steps=2)


# Equal ones are one, whose step is traced once.
trainer_of = functools.cache(toy.make_trainer)


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_fresh_state():
    t = trainer_of()
    state = t.init_state(jax.random.key(3), toy.spec())
    assert int(state.step) == 0
    assert_equal(state.ema, state.params)
    expected = jax.jit(toy.ToyModel().init)(jax.random.key(3), toy.batch())
    assert_equal(state.params, unbox(expected))
    assert toy.make_trainer(ema_decay=None).init_state(jax.random.key(3), toy.spec()).ema is None


def test_abstract_state_describes_the_state():
    t = toy.make_trainer(optimizer=optimizers.Adafactor(learning_rate=RATE, min_factored_size=8))
    abstract, state = t.abstract_state(toy.spec()), t.init_state(jax.random.key(0), toy.spec())
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding)


def test_one_step_is_gradient_then_optimizer_then_average():
    t = toy.make_trainer(ema_decay=0.999)
    state = t.init_state(jax.random.key(0), toy.spec())
    params, opt_state = jax.tree.map(jnp.copy, (state.params, state.opt_state))
    batch, key = toy.batch(), jax.random.key(7)
    new, metrics = t.train_step(state, None, t.partitioner.to_global(batch), key)

    loss_fn = functools.partial(toy.ToyModel().loss, train=True)
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, _), grads = grad_fn(params, None, batch, jax.random.fold_in(key, 0))
    updates, _ = t.tx.update(grads, opt_state, params)
    expected = optax.apply_updates(params, updates)
    for x, y in zip(leaves(new.params), leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    for x, y, z in zip(leaves(new.ema), leaves(params), leaves(expected), strict=True):
        np.testing.assert_allclose(x, 0.1 * y + 0.9 * z, rtol=1e-5, atol=1e-6)
    assert int(new.step) == 1
    np.testing.assert_allclose(metrics["loss"].value(), loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"].value(), RATE(0))
    np.testing.assert_allclose(metrics["grad_norm"].value(), optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"].value(), optax.tree.norm(updates), rtol=1e-4)


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_equal_the_whole_batch(count):
    quiet = toy.ToyModel(noise=0.0)  # noise is drawn for each microbatch: not comparable
    states, losses = [], []
    for microbatches in (1, count):
        t = trainer_of(model=quiet, microbatches=microbatches)
        state, found = toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec()), 0, 3)
        states.append(state)
        losses.append(found)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for x, y in zip(leaves(states[0].params), leaves(states[1].params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_microbatches_have_noise_of_their_own():
    noisy = toy.ToyModel(noise=10.0)
    batch = jax.tree.map(lambda x: np.repeat(x[:1], 8, axis=0), toy.batch())
    t = toy.make_trainer(model=noisy, microbatches=8)
    state = t.init_state(jax.random.key(0), toy.spec())
    _, metrics = t.train_step(state, None, t.partitioner.to_global(batch), jax.random.key(7))
    # error_max is the mean over eight microbatches of one example: equal to the loss, and the
    # loss of one noise draw alone would be another number.
    np.testing.assert_allclose(metrics["error_max"].value(), metrics["loss"].value(), rtol=1e-5)
    assert float(metrics["error_max"].weight) == 8
    one = jax.tree.map(lambda x: x[:1], batch)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), 0)
    params = t.init_state(jax.random.key(0), toy.spec()).params
    first, _ = noisy.loss(params, None, one, key, train=True)
    assert abs(float(first) - float(metrics["loss"].value())) > 1e-3


def test_batch_that_cannot_be_cut():
    with pytest.raises(ValueError, match="8 .* 3 microbatches"):
        toy.make_trainer(microbatches=3).train_program(toy.batch())


def test_noise_differs_between_steps_and_repeats_between_runs():
    t = trainer_of()
    runs = [toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec()), 0, 3) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    batch = t.partitioner.to_global(toy.batch())
    state = t.init_state(jax.random.key(0), toy.spec())
    losses = []
    for step in (0, 1):
        copy = jax.tree.map(jnp.copy, state).replace(step=jnp.int32(step))
        losses.append(float(t.train_step(copy, None, batch, jax.random.key(7))[1]["loss"].value()))
    assert losses[0] != losses[1]


def test_learns():
    t = trainer_of()
    _, losses = toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec()), 0, 60)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_eval_step_uses_the_key_as_it_is():
    t = trainer_of()
    params = t.init_state(jax.random.key(0), toy.spec()).params
    batch, key = toy.batch(), jax.random.key(5)
    found = t.eval_step(params, None, t.partitioner.to_global(batch), key)
    expected, _ = jax.jit(functools.partial(toy.ToyModel().loss, train=False))(
        params, None, batch, key
    )
    np.testing.assert_allclose(found["loss"].value(), expected, rtol=1e-5)


def test_frozen_reaches_the_loss():
    class Scaled(toy.ToyModel):
        def loss(self, params, frozen, batch, key, *, train):
            loss, metrics = super().loss(params, None, batch, key, train=train)
            return loss * frozen["scale"], metrics

    losses = []
    for scale in (1.0, 3.0):
        t = toy.make_trainer(model=Scaled())
        state = t.init_state(jax.random.key(0), toy.spec())
        batch = t.partitioner.to_global(toy.batch())
        frozen = {"scale": jnp.float32(scale)}
        losses.append(t.train_step(state, frozen, batch, jax.random.key(7))[1]["loss"].value())
    np.testing.assert_allclose(losses[1], 3 * losses[0], rtol=1e-5)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"microbatches": 0}, "microbatches is 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        toy.make_trainer(**settings)


def test_step_compiles_once():
    t = toy.make_trainer()
    toy.run_steps(t, t.init_state(jax.random.key(0), toy.spec()), 0, 4)
    assert t.train_program(toy.spec()).function._cache_size() == 1


def test_program_can_be_counted():
    t = toy.make_trainer(model=toy.ToyModel(noise=0.0))
    state = t.abstract_state(toy.spec())
    program = t.train_program(toy.spec())
    traced = program.trace(state, None, toy.spec(), jax.random.key(0), np.float32(1))
    # Three dense layers, batch 8: forward, gradient of kernels, gradient of inputs but the first.
    sizes = [40 * 16, 16 * 32, 32 * 32]
    assert flops.count_jaxpr(traced.jaxpr) == 2 * 8 * (3 * sum(sizes) - sizes[0])


TOY = "toy_training.py"


@pytest.mark.multidevice
def test_eight_devices_give_the_losses_of_one(on_devices):
    one, eight = toy.report((-1, 1, 1)), on_devices(8, TOY, "2,-1,2")
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5)
    assert one["collectives"] == 0 and eight["collectives"] > 0
    # Parameters and Adam's moments lie as the rules say.
    both = str(jax.sharding.PartitionSpec("fsdp", "tensor"))
    assert eight["specs"]["['mid_kernel']"] == both
    assert both in eight["moments"]


def test_state_survives_flattening():
    state = trainer_of().init_state(jax.random.key(0), toy.spec())
    leaves_, structure = jax.tree.flatten(state)
    assert isinstance(jax.tree.unflatten(structure, leaves_), TrainState)


class Infinite(toy.ToyModel):
    """The loss is infinite, its gradient is not."""

    def loss(self, params, frozen, batch, key, *, train):
        loss, metrics = super().loss(params, frozen, batch, key, train=train)
        return loss + jnp.inf, metrics


def test_an_infinite_loss_is_skipped_without_a_limit_too():
    t = toy.make_trainer(model=Infinite(), guard=DivergencePolicy(policy="skip"))
    state = t.init_state(jax.random.key(0), toy.spec())
    before = jax.device_get(state.params)
    batch = t.partitioner.to_global(toy.batch())
    state, metrics = t.train_step(state, None, batch, jax.random.key(1))
    assert float(metrics["skipped"].value()) == 1.0 and np.isfinite(metrics["grad_norm"].value())
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(old, new)
