"""Muon's update of one matrix by hand, and which axes of real networks make up matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_training as toy

from vidgen.nn.transformer import Transformer
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.muon import Muon, matrices
from vidgen.train.optimizers import LearningRate
from vidgen.train.partitioning import unbox


def update(params, grads, **settings):
    tx = Muon(learning_rate=LearningRate(peak=0.1), clip_norm=None, **settings).build()
    return tx.update(grads, tx.init(params), params)[0]


@pytest.mark.parametrize("shape", [(6, 6), (12, 4), (3, 4, 12)])
def test_all_singular_values_of_an_update_are_alike(shape):
    """Newton and Schulz's polynomial brings them to 0.7 to 1.2, whatever those of the gradient."""
    params = {"layer": {"kernel": jnp.zeros(shape)}}
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(0), p.shape), params)
    step = np.asarray(update(params, grads)["layer"]["kernel"])
    size = 0.1 * 0.2 * np.sqrt(max(shape[-2:]))
    values = np.linalg.svd(step, compute_uv=False) / size
    assert values.min() > 0.6 and values.max() < 1.25
    u, _, v = np.linalg.svd(np.asarray(grads["layer"]["kernel"]), full_matrices=False)
    np.testing.assert_allclose(step, -size * u @ v, atol=0.35 * size)


def test_vectors_and_tables_are_adams():
    params = {"norm": {"scale": jnp.ones(4)}, "table": {"embedding": jnp.ones((8, 3))}}
    grads = jax.tree.map(lambda p: 0.01 + jnp.arange(p.size, dtype=float).reshape(p.shape), params)
    tx = optax.nadam(0.1, b2=0.99)
    expected = tx.update(grads, tx.init(params), params)[0]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), update(params, grads), expected
    )


def test_weight_decay_shrinks_matrices_alone():
    params = {"a": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    grads = jax.tree.map(jnp.zeros_like, params)
    step = update(params, grads, weight_decay=0.5)["a"]
    np.testing.assert_allclose(step["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(step["bias"], 0.0)


def axes_by_name(module, *args):
    params = unbox(jax.eval_shape(module.init, jax.random.key(0), *args)["params"])
    axes = matrices(params)
    leaves = jax.tree_util.tree_leaves_with_path(
        axes, is_leaf=lambda x: x is None or hasattr(x, "output_axis")
    )
    return {
        "/".join(key.key for key in path): (leaf.reduction_axis, leaf.output_axis)
        for path, leaf in leaves
        if leaf is not None
    }


def test_matrices_of_a_transformer():
    """Stacked blocks are matrices beside each other, and so are the heads of no layer."""
    axes = axes_by_name(Transformer(3, 2, 32), jnp.zeros((1, 5, 16)))
    assert axes == {
        "blocks/mlp_in/kernel": ((1,), (2,)),
        "blocks/mlp_out/kernel": ((1,), (2,)),
        "blocks/self/query/kernel": ((1,), (2, 3)),
        "blocks/self/key/kernel": ((1,), (2, 3)),
        "blocks/self/value/kernel": ((1,), (2, 3)),
        "blocks/self/out/kernel": ((1, 2), (3,)),
    }


def test_a_dense_layer_named_out_is_no_attention():
    kernel = jnp.zeros((3, 16, 32))
    assert matrices({"out": {"kernel": kernel}})["out"]["kernel"].reduction_axis == (1,)


def test_matrices_of_a_convolution_are_its_taps():
    axes = matrices({"conv": {"kernel": jnp.zeros((2, 3, 3, 8, 16))}})["conv"]["kernel"]
    assert (axes.reduction_axis, axes.output_axis) == ((3,), (4,))


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"momentum": 1.0}, "1.0"), ({"clip_norm": 0.0}, "0.0"), ({"beta2": -1.0}, "-1.0")],
)
def test_settings_out_of_range(settings, value):
    with pytest.raises(ValueError, match=rf"Muon\.{next(iter(settings))} is {value}"):
        Muon(learning_rate=LearningRate(peak=1.0), **settings)


class Layers(toy.ToyModel):
    """The toy with the names that Linen gives to layers."""

    def init(self, key, batch):
        params = {}
        for name, leaf in super().init(key, batch).items():
            layer, _, kind = name.rpartition("_")
            params.setdefault(layer, {})[kind] = leaf
        return params

    def loss(self, params, frozen, batch, key, *, train):
        flat = {f"{layer}_{kind}": x for layer, part in params.items() for kind, x in part.items()}
        return super().loss(flat, frozen, batch, key, train=train)


def test_the_momentum_lies_like_its_parameters_and_resumes_exactly(tmp_path):
    t = toy.make_trainer(model=Layers(), optimizer=Muon(learning_rate=LearningRate(peak=1e-2)))
    spec = toy.spec(model=t.model)
    places = {p.path: p for p in t.partitioner.placements(t.boxed_params(spec))}
    state = t.init_state(jax.random.key(0), spec)
    lying = [
        leaf.sharding.spec == places[path].spec
        for name, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        for path in places
        if jax.tree_util.keystr(name).endswith(path) and leaf.shape == places[path].shape
    ]
    assert all(lying) and len(lying) >= len(places)
    assert any("fsdp" in place.spec for place in places.values())
    state, losses = toy.run_steps(t, state, 0, 3)
    assert np.isfinite(losses).all()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state)
        checkpointer.wait()
        state = jax.device_get(state)
        restored, _ = checkpointer.restore(t.abstract_state(spec))
    assert toy.run_steps(t, state, 3, 2)[1] == toy.run_steps(t, restored, 3, 2)[1]
