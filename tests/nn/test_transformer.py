"""The transformer against float64 arithmetic; what it must not see; streams against the whole.

Tests of vidgen/nn/remat.py too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vidgen.nn.transformer import KV, Transformer, causal_mask

WIDTH, TEXT = 8, 6


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(**changes):
    return Transformer(**{"layers": 2, "heads": 2, "mlp": 12, "cross": True} | changes)


@pytest.fixture(scope="module")
def inputs():
    """Three sequences of five tokens, with prompts of four, two and no tokens."""
    text_mask = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]
    return {"x": normal(0, 3, 5, WIDTH), "text": normal(1, 3, 4, TEXT), "text_mask": text_mask}


@pytest.fixture(scope="module")
def boxed():
    init = functools.partial(network().init, text=jnp.zeros((3, 4, TEXT)))
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((3, 5, WIDTH)))["params"]


@pytest.fixture(scope="module")
def params(boxed):
    """Parameters without zeros, so that no branch is silent."""
    leaves, tree = jax.tree.flatten(nn.meta.unbox(boxed))
    return tree.unflatten([0.4 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@functools.partial(jax.jit, static_argnames=("module", "train"))
def run(module, params, x, *, key=None, train=False, **rest):
    rngs = {} if key is None else {"dropout": key}
    return module.apply({"params": params}, x, train=train, rngs=rngs, **rest)


# ---- arithmetic ----------------------------------------------------------------------------------


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attention(x, memory, p, logit_bias, mask):
    q, k, v = (
        np.einsum("nsd,dhe->nshe", y, p[name]["kernel"])
        for y, name in ((x, "query"), (memory, "key"), (memory, "value"))
    )
    logits = np.einsum("nqhe,nkhe->nhqk", q, k) / np.sqrt(q.shape[-1]) + logit_bias
    weights = np.where(mask, np.exp(logits), 0)
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return np.einsum("nhqk,nkhe,hed->nqd", weights, v, p["out"]["kernel"])


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(params, x, text, text_mask, bias, mask):
    """The equations of the module's docstring in float64."""
    params, x, text, bias = jax.tree.map(
        lambda a: np.asarray(a, np.float64), (params, x, text, bias)
    )
    for i in range(2):
        p = jax.tree.map(lambda a, i=i: a[i], params["blocks"])
        y = layer_norm(x, p["self_norm"])
        x = x + attention(y, y, p["self"], bias, mask)
        y = layer_norm(x, p["cross_norm"])
        x = x + attention(y, text, p["cross"], 0, np.asarray(text_mask)[:, None, None, :])
        y = layer_norm(x, p["mlp_norm"])
        hidden = gelu(y @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"])
        x = x + hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
    return layer_norm(x, params["norm"])


def test_closed_form(params, inputs):
    bias, mask = normal(5, 1, 2, 5, 5), causal_mask(5, 5)
    out, present = run(network(), params, **inputs, bias=bias, mask=mask)
    assert present is None
    np.testing.assert_allclose(out, reference(params, **inputs, bias=bias, mask=mask), atol=2e-4)


def test_gelu_is_the_tanh_form():
    np.testing.assert_allclose(gelu(1.0), 0.84119199, atol=1e-8)  # 0.84134475 with erf


def test_starts_as_the_identity(inputs):
    init = jax.jit(network().init)(jax.random.key(0), inputs["x"], text=inputs["text"])
    out, _ = run(network(), nn.meta.unbox(init)["params"], **inputs)
    plain = {"scale": np.ones(WIDTH), "bias": np.zeros(WIDTH)}
    np.testing.assert_allclose(out, layer_norm(np.asarray(inputs["x"]), plain), atol=1e-5)


def test_names_of_the_parameters(boxed):
    assert boxed["blocks"]["self"]["query"]["kernel"].names == (
        *("layers", "embed", "heads", "head_dim"),
    )
    assert boxed["blocks"]["cross"]["key"]["kernel"].names[1] == "text"
    leaves = jax.tree.leaves(boxed["blocks"], is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(leaf.names[0] == "layers" and leaf.value.shape[0] == 2 for leaf in leaves)


@pytest.mark.parametrize("head_dim", [None, 3])
def test_width_of_a_head(head_dim):
    module = network(cross=False, head_dim=head_dim)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 5, WIDTH)))
    kernel = nn.meta.unbox(shapes)["params"]["blocks"]["self"]["query"]["kernel"]
    assert kernel.shape == (2, WIDTH, 2, head_dim or WIDTH // 2)


# ---- what may be seen ----------------------------------------------------------------------------


def test_causal_mask():
    np.testing.assert_array_equal(causal_mask(4, 4)[0, 0], np.tri(4, dtype=bool))
    np.testing.assert_array_equal(causal_mask(2, 5), causal_mask(5, 5)[:, :, 3:])
    narrow = np.tri(5, dtype=bool) & ~np.tri(5, k=-3, dtype=bool)
    np.testing.assert_array_equal(causal_mask(5, 5, window=2)[0, 0], narrow)


def test_later_tokens_do_not_matter_to_the_last_bit(params, inputs):
    mask = causal_mask(5, 5)
    out, _ = run(network(), params, **inputs, mask=mask)
    changed = inputs | {"x": inputs["x"].at[:, 3:].mul(-7)}
    again, _ = run(network(), params, **changed, mask=mask)
    np.testing.assert_array_equal(out[:, :3], again[:, :3])
    assert np.abs(out - again)[:, 3:].min() > 0


def test_padding_of_the_text_does_not_matter_to_the_last_bit(params, inputs):
    out, _ = run(network(), params, **inputs)
    hidden = ~inputs["text_mask"][..., None]
    changed = inputs | {"text": jnp.where(hidden, 1e4, inputs["text"])}
    np.testing.assert_array_equal(out, run(network(), params, **changed)[0])


def test_text_without_tokens_adds_nothing(params, inputs):
    out, _ = run(network(), params, **inputs)
    without, _ = run(network(), params, inputs["x"])
    np.testing.assert_allclose(out[2], without[2], atol=1e-6)
    assert np.abs(out - without)[:2].max() > 1e-2


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(1, 1, 3), (2, 3)])
@pytest.mark.parametrize("window", [None, 1])
def test_chunks_equal_the_whole(params, inputs, chunks, window):
    bias = normal(5, 1, 2, 5, 5)
    rest = {name: inputs[name] for name in ("text", "text_mask")}
    mask = causal_mask(5, 5, window=window)
    whole, _ = run(network(), params, **inputs, bias=bias, mask=mask)
    past, done = KV.empty(2, 3, 2, WIDTH // 2), 0
    for queries in chunks:
        end, keys = done + queries, past.positions + queries
        out, past = run(
            *(network(), params, inputs["x"][:, done:end]),
            bias=bias[:, :, done:end, end - keys : end],
            mask=causal_mask(queries, keys, window=window),
            past=past,
            **rest,
        )
        np.testing.assert_allclose(out, whole[:, done:end], atol=2e-5)
        assert past.positions == keys
        past = past if window is None else past.last(window)
        done = end


def test_the_last_positions():
    kv = KV(k=normal(0, 2, 3, 5, 2, 4), v=normal(1, 2, 3, 5, 2, 4))
    np.testing.assert_array_equal(kv.last(2).k, kv.k[:, :, 3:])
    np.testing.assert_array_equal(kv.last(9).v, kv.v)


# ---- how it is run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def value_and_grad(params, inputs):
    @functools.cache
    def of(remat, unroll):
        module = network(remat=remat, unroll=unroll)

        def loss(params):
            return jnp.sum(run(module, params, **inputs, mask=causal_mask(5, 5))[0] ** 3)

        return jax.jit(jax.value_and_grad(loss))(params)

    return of


@pytest.mark.parametrize(
    "remat, unroll", [("full", False), ("products", False), ("none", True), ("dots", True)]
)
def test_remat_and_unroll_change_nothing(value_and_grad, remat, unroll):
    plain, found = value_and_grad("none", False), value_and_grad(remat, unroll)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), plain, found)


def test_every_parameter_learns(value_and_grad):
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(value_and_grad("none", False))) > 0


def test_bfloat16(params, inputs):
    out, past = run(
        network(dtype="bfloat16"), params, **inputs, past=KV.empty(2, 3, 2, 4, "bfloat16")
    )
    assert out.dtype == past.k.dtype == jnp.bfloat16
    exact, _ = run(network(), params, **inputs)
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.1)


def test_dropout_acts_in_training_alone(params, inputs):
    module, key = network(dropout=0.5), jax.random.key(0)
    plain, _ = run(network(), params, **inputs)
    np.testing.assert_array_equal(run(module, params, **inputs)[0], plain)
    one = run(module, params, **inputs, key=key, train=True)[0]
    assert np.abs(one - plain).max() > 1e-2
    np.testing.assert_array_equal(run(module, params, **inputs, key=key, train=True)[0], one)
    other = run(module, params, **inputs, key=jax.random.key(1), train=True)[0]
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layers": 0}, "layers is 0; it must be >= 1"),
        ({"dtype": "float64"}, "'float64'; choose one of .*bfloat16"),
        ({"heads": 3}, "3 heads do not divide the width 8"),
    ],
)
def test_wrong_settings_say_so(changes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network(**changes).init, jax.random.key(0), jnp.zeros((1, 2, WIDTH)))
