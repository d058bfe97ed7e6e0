"""Attention against float64 arithmetic, and what must never be attended to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vidgen.nn import attention, embeddings


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_params(module, *args):
    """Parameters without zeros, so that no branch is silent."""
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), *args))
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def softmax_attention(q, k, v, bias, mask):
    """The equation of the module's docstring in float64."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in (q, k, v, bias))
    logits = np.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1]) + bias
    weights = np.where(mask, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return np.einsum("nhqk,nkhd->nqhd", weights, v)


@pytest.fixture(scope="module")
def heads():
    return tuple(normal(seed, 2, size, 3, 8) for seed, size in ((0, 5), (1, 7), (2, 7)))


def test_closed_form(heads):
    bias = normal(3, 1, 3, 5, 7)
    mask = np.random.default_rng(4).random((2, 1, 5, 7)) < 0.6
    assert mask.any(-1).all()
    found = attention.attend(*heads, bias=bias, mask=jnp.asarray(mask))
    np.testing.assert_allclose(found, softmax_attention(*heads, bias, mask), atol=1e-5)
    found = attention.attend(*heads)
    np.testing.assert_allclose(found, softmax_attention(*heads, np.zeros(1), True), atol=1e-5)


@pytest.mark.parametrize("clips", [1, 2])
def test_rows_of_queries_that_share_keys_are_as_if_each_had_its_own(clips):
    """Three rows of queries for each of keys, the last of two clips with none that it may see."""
    q = normal(0, 3 * clips, 5, 2, 8)
    k, v = normal(1, clips, 7, 2, 8), normal(2, clips, 7, 2, 8)
    mask = np.random.default_rng(4).random((clips, 1, 1, 7)) < 0.6
    if clips > 1:
        mask[-1] = False
    own = [np.repeat(x, 3, axis=0) for x in (k, v)]
    expected = softmax_attention(q, *own, np.zeros(1), np.repeat(mask, 3, axis=0))
    found = attention.attend(q, k, v, mask=jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    expected = softmax_attention(q, *own, np.zeros(1), True)
    np.testing.assert_allclose(attention.attend(q, k, v), expected, atol=1e-5)


def test_a_fully_masked_query_gives_zero(heads):
    mask = np.ones((2, 1, 5, 7), bool)
    mask[1, 0, 2] = False
    found = np.asarray(attention.attend(*heads, mask=jnp.asarray(mask)))
    np.testing.assert_array_equal(found[1, 2], 0)
    np.testing.assert_allclose(found, softmax_attention(*heads, np.zeros(1), mask), atol=1e-5)


def test_masked_keys_do_not_matter_to_the_last_bit(heads):
    q, k, v = heads
    mask = jnp.arange(7)[None, None, None, :] < jnp.array([4, 0])[:, None, None, None]
    hidden = ~mask[:, 0, 0, :, None, None]
    attend = jax.jit(lambda k, v: attention.attend(q, k, v, mask=mask))
    np.testing.assert_array_equal(
        attend(k, v), attend(jnp.where(hidden, 1e4, k), jnp.where(hidden, -1e4, v))
    )


def test_softmax_is_float32_in_bfloat16():
    # Logits 100 and 100.25: bfloat16 has no number between 100 and 100.5.
    q = jnp.array([16.0, 1, 0, 0], jnp.bfloat16).reshape(1, 1, 1, 4)
    k = jnp.array([[12.5, 0, 0, 0], [12.5, 0.5, 0, 0]], jnp.bfloat16).reshape(1, 2, 1, 4)
    v = jnp.eye(4, dtype=jnp.bfloat16)[:2].reshape(1, 2, 1, 4)
    found = attention.attend(q, k, v)
    assert found.dtype == jnp.bfloat16
    expected = 1 / (1 + np.exp(-0.25))
    np.testing.assert_allclose(float(found[0, 0, 0, 1]), expected, rtol=2**-8)


def test_fully_masked_queries_have_finite_gradients(heads):
    mask = jnp.zeros((2, 1, 5, 7), bool)
    loss = jax.jit(jax.grad(lambda q: attention.attend(q, *heads[1:], mask=mask).sum()))
    grads = loss(heads[0])
    np.testing.assert_array_equal(grads, 0)


# ---- over frames ---------------------------------------------------------------------------------


def test_frame_mask():
    mask = attention.frame_mask(jnp.array([False, True]), 3, 2)
    assert mask.shape == (4, 1, 3, 3)  # pixels of one example lie together
    np.testing.assert_array_equal(mask[:2], True)
    np.testing.assert_array_equal(mask[2:, 0], np.broadcast_to(np.eye(3, dtype=bool), (2, 3, 3)))


@pytest.fixture(scope="module")
def relative():
    """(bias of any number of frames, its table) for 2 heads."""
    module = attention.RelativeBias(2)
    table = normal(0, 2, 32)
    return (lambda length: np.asarray(module.apply({"params": {"bias": table}}, length))), table


def test_bias_depends_on_distance_alone(relative):
    bias, table = relative
    found = bias(9)
    assert found.shape == (1, 2, 9, 9)
    np.testing.assert_array_equal(found[:, :, 3:, 3:], found[:, :, :-3, :-3])
    np.testing.assert_array_equal(found[0, :, 4, 6], table[:, 16 + 2])
    np.testing.assert_array_equal(found[0, :, 6, 4], table[:, 2])


def test_longer_clips_use_the_same_biases(relative):
    bias, table = relative
    np.testing.assert_array_equal(bias(200)[:, :, 70:78, 70:78], bias(8))
    np.testing.assert_array_equal(bias(200)[0, :, 0, 199], table[:, 31])


def test_causal_bias_of_the_last_of_many_frames():
    module = attention.RelativeBias(2, causal=True)
    table = normal(0, 2, 32)
    params = {"params": {"bias": table}}
    whole = np.asarray(module.apply(params, 40))
    np.testing.assert_array_equal(module.apply(params, 3, 40), whole[:, :, 37:])
    np.testing.assert_array_equal(whole[0, :, 39, 39 - 20], table[:, 17])  # 19 and 20 share it


@pytest.fixture(scope="module")
def temporal():
    """A compiled TemporalAttention with random parameters, trained on 4 frames."""
    module = attention.TemporalAttention(2)
    x = normal(0, 2, 4, 2, 2, 16)
    params = random_params(module, x, jnp.zeros(2, bool))
    apply = jax.jit(module.apply)
    return lambda x, independent: np.asarray(apply(params, x, jnp.asarray(independent)))


def test_temporal_attention_starts_at_zero():
    x = normal(0, 1, 3, 2, 2, 8)
    module = attention.TemporalAttention(2)
    found, _ = jax.jit(module.init_with_output)(jax.random.key(0), x, jnp.zeros(1, bool))
    np.testing.assert_array_equal(found, 0)


def test_independent_frames_see_only_themselves(temporal):
    x = normal(1, 2, 4, 2, 2, 16)
    found = temporal(x, [True, False])
    order = np.array([2, 0, 3, 1])
    permuted = temporal(x[:, order], [True, False])
    np.testing.assert_allclose(permuted[0], found[0, order], atol=1e-6)
    assert np.abs(permuted[1] - found[1, order]).max() > 0.01
    other = temporal(x.at[:, 3].set(normal(2, 2, 2, 2, 16)), [True, False])
    np.testing.assert_array_equal(other[0, :3], found[0, :3])
    assert np.abs(other[1, :3] - found[1, :3]).max() > 0.01


def test_temporal_attention_never_mixes_pixels(temporal):
    # The norm before it looks at the whole frame; a change that keeps its statistics shows the
    # rest: swap two pixels.
    x = normal(1, 2, 4, 2, 2, 16)
    swapped = x.at[:, :, 0].set(x[:, :, 1]).at[:, :, 1].set(x[:, :, 0])
    found = temporal(x, [False, False])
    np.testing.assert_allclose(temporal(swapped, [False, False]), found[:, :, ::-1], atol=1e-5)


def test_temporal_attention_tells_before_from_after(temporal):
    x = normal(1, 2, 4, 2, 2, 16)
    found = temporal(x, [False, False])
    backwards = temporal(x[:, ::-1], [False, False])
    assert np.abs(backwards - found[:, ::-1]).max() > 0.01


def test_temporal_attention_of_a_longer_clip(temporal):
    x = normal(1, 2, 4, 2, 2, 16)
    longer = jnp.concatenate([x, normal(2, 2, 5, 2, 2, 16)], axis=1)
    assert temporal(longer, [False, False]).shape == longer.shape
    alone = temporal(longer, [True, True])
    np.testing.assert_allclose(alone[:, :4], temporal(x, [True, True]), atol=1e-6)


def test_spatial_attention_never_mixes_frames():
    module = attention.SpatialAttention(2)
    x = normal(0, 2, 3, 2, 4, 16)
    params = random_params(module, x)
    apply = jax.jit(module.apply)
    found = np.asarray(apply(params, x))
    changed = np.asarray(apply(params, x.at[1, 2].set(normal(1, 2, 4, 16))))
    same = np.ones((2, 3), bool)
    same[1, 2] = False
    np.testing.assert_array_equal(changed[same], found[same])
    assert np.abs(changed[1, 2] - found[1, 2]).max() > 0.01
    shuffled = apply(params, x[:, :, ::-1, ::-1])
    np.testing.assert_allclose(shuffled, found[:, :, ::-1, ::-1], atol=1e-5)  # it has no positions


# ---- over text -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text():
    mask = jnp.arange(6)[None] < jnp.array([6, 3, 0])[:, None]
    return normal(5, 3, 6, 12), mask


def text_attention():
    module, x = attention.TextAttention(2), normal(0, 3, 2, 2, 2, 16)
    return module, lambda params, text, mask: module.apply(params, x, text, mask), (x,)


def text_pool():
    module = attention.AttentionPool(24, queries=3, head_dim=8)
    return module, module.apply, ()


@pytest.mark.parametrize("reader", [text_attention, text_pool])
def test_only_real_tokens_are_read(reader, text):
    tokens, mask = text
    module, apply, before = reader()
    params = random_params(module, *before, tokens, mask)
    apply = jax.jit(apply)
    found = np.asarray(apply(params, tokens, mask))
    padded = jnp.where(mask[:, :, None], tokens, 1000.0)
    np.testing.assert_array_equal(apply(params, padded, mask), found)
    np.testing.assert_array_equal(found[2], 0)
    real = np.asarray(apply(params, tokens.at[:, 1].add(1.0), mask))
    assert np.abs(real - found)[:2].reshape(2, -1).max(1).min() > 0.01
    np.testing.assert_array_equal(real[2], 0)


@pytest.mark.parametrize("reader", [text_attention, text_pool])
def test_a_text_for_each_frame_is_as_if_every_frame_were_a_clip(reader, text):
    """b = 3, t = 2: frame f of clip i has text 3 f + i, one of them empty."""
    tokens, mask = text
    module, apply, before = reader()
    params = random_params(module, *before, tokens, mask)
    framed = jnp.stack([tokens, tokens[::-1]], axis=1), jnp.stack([mask, mask[::-1]], axis=1)
    run = jax.jit(module.apply)
    found = run(params, *before, *framed)
    for frame in range(2):
        inputs = [x[:, frame : frame + 1] for x in before]
        alone = run(params, *inputs, *(x[:, frame] for x in framed))
        np.testing.assert_allclose(found[:, frame], alone.reshape(found[:, frame].shape), atol=1e-6)
    same = run(params, *before, *(jnp.stack([x, x], axis=1) for x in text))
    clip = apply(params, *text)
    clip = clip if before else jnp.stack([clip, clip], axis=1)
    np.testing.assert_allclose(same, clip, atol=1e-6)


def test_text_attention_starts_at_zero(text):
    module, _, before = text_attention()
    found, _ = jax.jit(module.init_with_output)(jax.random.key(0), *before, *text)
    np.testing.assert_array_equal(found, 0)


def test_pool_reads_tokens_in_any_order(text):
    module, apply, _ = text_pool()
    tokens = text[0]
    mask = jnp.ones((3, 6), bool)
    params = random_params(module, tokens, mask)
    np.testing.assert_allclose(
        apply(params, tokens[:, ::-1], mask), apply(params, tokens, mask), atol=1e-5
    )


def test_buckets_match_the_table(relative):
    bias, table = relative
    index = embeddings.relative_buckets(5, 5)
    np.testing.assert_array_equal(bias(5)[0], np.asarray(table)[:, index])


@pytest.mark.parametrize(
    "heads, frames, pixels, tokens", [(1, 2, 2304, 5), (1, 2, 2304, 7), (2, 3, 256, 80)]
)
def test_a_compiled_program_reads_a_text_that_frames_share_as_single_operations_do(
    heads, frames, pixels, tokens
):
    """XLA:CPU fused the repetition of the keys over two frames of 48 x 48 into wrong products.

    Of 256 pixels and 80 tokens the heads are taken one by one.
    """
    module, height = attention.TextAttention(heads, norm="channel"), int(pixels**0.5)
    x, text = normal(0, 1, frames, height, height, 8 * heads), normal(1, 1, tokens, 12)
    args = x, text, jnp.ones((1, tokens), bool)
    params = random_params(module, *args)
    expected = module.apply(params, *args)
    np.testing.assert_allclose(jax.jit(module.apply)(params, *args), expected, atol=1e-5)
