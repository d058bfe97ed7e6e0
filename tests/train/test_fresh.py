"""Fresh parameters drawn on the host: by path and key alone, on any mesh, in their sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from vidgen.nn import axes, initializers
from vidgen.train import fresh

KEY = jax.random.key(5)
PARTS = {"a": initializers.normal(0.5), "b": initializers.fan_in(), "c": initializers.ones}


def boxed(key=KEY):
    shapes = {"a": (64, 32), "b": (64, 32), "c": (7,)}
    names = {"a": ("embed", "mlp"), "b": ("embed", "mlp"), "c": ("norm",)}
    return {k: axes.partitioned(PARTS[k], names[k])(key, shapes[k]) for k in PARTS}


def drawn(key=KEY):
    abstract = jax.eval_shape(boxed)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = dict.fromkeys(PARTS, NamedSharding(mesh, PartitionSpec()))
    return fresh.draw(abstract, key, where)


def test_every_array_has_its_own_distribution_and_randomness():
    params = drawn()
    np.testing.assert_allclose(np.std(params["a"]), 0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(params["b"]), 64**-0.5, rtol=0.05)
    np.testing.assert_array_equal(params["c"], np.ones(7))
    assert abs(np.corrcoef(params["a"].ravel(), params["b"].ravel())[0, 1]) < 0.1


def test_the_key_decides():
    first, again, other = drawn(), drawn(), drawn(jax.random.key(6))
    np.testing.assert_array_equal(first["a"], again["a"])
    assert abs(np.corrcoef(first["a"].ravel(), other["a"].ravel())[0, 1]) < 0.1


def test_boxes_of_others_do_not_say():
    assert fresh.is_described(jax.eval_shape(boxed))
    assert not fresh.is_described({"a": nn.LogicallyPartitioned(jnp.zeros(3), ("embed",))})
    assert not fresh.is_described({"a": jnp.zeros(3)})


class Described(toy.Regressor):
    """The toy network with boxes that say what they are drawn from."""

    def _dense(self, name, x, width, names):
        return axes.dense(width, names, name=name)(x)


@pytest.mark.parametrize("network", [toy.Regressor(), Described()])
def test_fresh_state(network):
    """Averaged weights are equal, in memory of their own; moments are zero."""
    trainer = toy.make_trainer(model=toy.ToyModel(network=network))
    state = trainer.init_state(KEY, toy.spec())
    abstract = trainer.abstract_state(toy.spec())
    for leaf, of in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (of.shape, of.dtype, of.sharding)
    for mean, leaf in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(mean, leaf)
        assert mean.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    state, losses = toy.run_steps(trainer, state, 0, 60)
    assert losses[-1] < 0.5 * losses[0]
