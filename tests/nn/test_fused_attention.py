"""Attention by blocks and by the TPU's kernel (interpreted) against the plain products.

Tests of vidgen/nn/platforms.py too.
"""

import functools
import json
import subprocess
import sys

import compiled_programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from places import HELPERS

from vidgen.nn import fused_attention, platforms
from vidgen.train import flops


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def heads(queries, keys):
    return tuple(normal(seed, 2, size, 3, 8) for seed, size in enumerate((queries, keys, keys)))


def mask_of(kind, queries, keys):
    """Masks by which axes they have; every query sees some key."""
    if kind == "none":
        return None
    shape = {"keys": (2, 1, 1, keys), "all": (2, 3, queries, keys), "causal": (1, 1, queries, keys)}
    mask = np.random.default_rng(7).random(shape[kind]) < 0.5
    mask[..., 0] = True
    return jnp.asarray(mask)


def value_and_gradients(attention, q, k, v):
    """The output, and the gradients of a sum that no symmetry makes zero."""

    def loss(q, k, v):
        out = attention(q, k, v)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

    whole = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))  # one program to compile
    (_, out), gradients = whole(q, k, v)
    return out, *gradients


def assert_same(found, expected, tolerance=2e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("queries, block", [(12, 4), (13, 4), (5, 5), (5, 1)])
@pytest.mark.parametrize("kind", ["none", "keys", "all", "causal"])
def test_blocks_are_the_whole(queries, block, kind):
    q, k, v = heads(queries, 7)
    bias, mask = normal(3, 1, 3, queries, 7), mask_of(kind, queries, 7)
    blocks = functools.partial(
        fused_attention.by_blocks, bias=bias, mask=mask, scale=0.5, block=block
    )
    plain = functools.partial(jax.nn.dot_product_attention, bias=bias, mask=mask, scale=0.5)
    assert_same(value_and_gradients(blocks, q, k, v), value_and_gradients(plain, q, k, v))


def memory_of_gradient(attention, length):
    """Bytes that the gradient of attention of so many tokens works in."""
    x = jax.ShapeDtypeStruct((1, length, 1, 8), "float32")
    gradient = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v) ** 2), (0, 1, 2))
    return jax.jit(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


def test_many_tokens_take_blocks_and_a_fraction_of_the_memory():
    length = 4096
    logits = 4 * length**2
    assert memory_of_gradient(jax.nn.dot_product_attention, length) > logits
    assert memory_of_gradient(fused_attention.dot_product_attention, length) < logits / 3


@pytest.mark.parametrize("queries, keys", [(16, 12), (128, 130)])  # as a batch, head by head
@pytest.mark.parametrize("kind", ["none", "keys", "all", "causal"])
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_a_cpu_are_plain_attention(queries, keys, kind, biased):
    mask, bias = mask_of(kind, queries, keys), normal(3, 1, 3, queries, keys) if biased else None

    def run(attention):
        def loss(q, k, v, bias):
            out = attention(q, k, v, bias=bias, mask=mask, scale=0.5)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        which = (0, 1, 2, 3) if biased else (0, 1, 2)
        whole = jax.jit(jax.value_and_grad(loss, which, has_aux=True))
        (_, out), slopes = whole(*heads(queries, keys), bias)
        return out, *slopes

    ours = run(fused_attention.dot_product_attention)
    assert_same(ours, run(jax.nn.dot_product_attention), tolerance=1e-5)


def test_products_of_a_cpu_in_float64_are_the_softmax_itself():
    """Float64 reaches what rounding hides: 1e-12."""
    with jax.enable_x64(True):
        q, k, v = (x.astype("float64") for x in heads(130, 128))
        logits = np.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(8)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = np.einsum("nhqk,nkhd->nqhd", weights, v)
        found = fused_attention.dot_product_attention(q, k, v)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("size", [16, 128])
def test_products_of_a_cpu_in_half_precision(size):
    exact = heads(size, size)
    q, k, v = (x.astype("bfloat16") for x in exact)
    found = fused_attention.dot_product_attention(q, k, v)
    assert found.dtype == jnp.bfloat16
    plain = jax.nn.dot_product_attention(*exact)
    np.testing.assert_allclose(found.astype("float32"), plain, atol=0.03)


@pytest.mark.parametrize("size", [16, 128])
def test_a_query_without_keys_is_finite_and_hides_no_other(size):
    """Its value is no matter, but `attend` multiplies it by zero."""
    q, k, v = heads(size, size)
    mask = (jnp.arange(size) > 0)[None, None, :, None] & jnp.ones((1, 1, 1, size), bool)
    found = value_and_gradients(
        functools.partial(fused_attention.dot_product_attention, mask=mask), q, k, v
    )
    assert all(np.isfinite(x).all() for x in found)
    np.testing.assert_allclose(
        found[0][:, 1:], jax.nn.dot_product_attention(q, k, v)[:, 1:], atol=1e-5
    )


def test_logits_far_from_zero_do_not_overflow():
    """The largest is taken off before the exponential: 1e4 stays finite and picks one key."""
    q, k, v = heads(128, 128)
    found = fused_attention.dot_product_attention(q, k, v, scale=1e4)
    best = jnp.argmax(jnp.einsum("nqhd,nkhd->nhqk", q, k), axis=-1)
    rows = jnp.take_along_axis(jnp.swapaxes(v, 1, 2), best[..., None], axis=2)
    np.testing.assert_allclose(jnp.swapaxes(found, 1, 2), rows, atol=1e-3)


def test_a_cpu_holds_the_logits_of_one_head_alone():
    """Of 8 examples and 8 heads: all logits would be 64 times as many."""
    length = 512
    x = jax.ShapeDtypeStruct((8, length, 8, 8), "float32")

    def temporary(attention):
        slope = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v) ** 2), (0, 1, 2))
        return jax.jit(slope).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(jax.nn.dot_product_attention) > 64 * 4 * length**2
    assert temporary(fused_attention.dot_product_attention) < 64 * 4 * length**2 / 4


# ---- the kernel of a TPU, interpreted ------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas kernels run as plain JAX: a kernel of a TPU on any machine."""
    run = functools.partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(pallas, "pallas_call", run)


@pytest.mark.parametrize("queries, keys", [(256, 128), (100, 130)])
@pytest.mark.parametrize("masked", [False, True])
def test_flash_is_plain_attention(interpreted, queries, keys, masked):
    q, k, v = heads(queries, keys)
    mask = mask_of("keys", queries, keys) if masked else None
    plain = functools.partial(jax.nn.dot_product_attention, mask=mask)
    seen = None if mask is None else mask[:, 0, 0]
    flash = functools.partial(fused_attention.flash, keys=seen, scale=None)
    assert_same(value_and_gradients(flash, q, k, v), value_and_gradients(plain, q, k, v), 1e-4)


@pytest.mark.parametrize(
    "platform, settings, kernel",
    [
        ("tpu", {}, "pallas_call"),
        ("tpu", {"mask": "keys"}, "pallas_call"),
        ("tpu", {"mask": "causal"}, None),
        ("tpu", {"bias": True}, None),
        ("cpu", {}, None),
        ("gpu", {}, None),  # float32
    ],
)
def test_the_kernel_is_taken_where_it_fits(monkeypatch, platform, settings, kernel):
    monkeypatch.setattr(platforms, "current", lambda: platform)
    bias = normal(3, 1, 3, 512, 512) if settings.get("bias") else None
    mask = mask_of(settings.get("mask", "none"), 512, 512)
    attention = functools.partial(fused_attention.dot_product_attention, bias=bias, mask=mask)
    found = str(jax.make_jaxpr(attention)(*heads(512, 512)))
    assert ("pallas_call" in found) == (kernel == "pallas_call")


def test_cudnn_takes_what_it_can(monkeypatch):
    asked = []

    def attention(*qkv, implementation=None, **settings):
        asked.append(implementation)
        return qkv[0]

    monkeypatch.setattr(platforms, "current", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    wide = jnp.zeros((1, 512, 1, 64))
    for q, implementation in (
        (wide.astype("bfloat16"), "cudnn"),
        (wide, None),
        (wide[..., :12].astype("bfloat16"), None),
        (wide[:, :64].astype("bfloat16"), None),
    ):
        fused_attention.dot_product_attention(q, q, q)
        assert asked.pop() == implementation


def test_a_kernel_counts_as_the_products_it_makes():
    q, k, v = heads(512, 512)
    plain = flops.count(jax.nn.dot_product_attention, q, k, v)
    found = flops.count(lambda *qkv: fused_attention.flash(*qkv, None, None), q, k, v)
    assert found == plain == 2 * 2 * 2 * 3 * 512 * 512 * 8


# ---- over a mesh ---------------------------------------------------------------------------------


def test_every_device_has_its_examples_and_heads(on_devices):
    found = on_devices(8, "flash_on_devices.py")
    assert found["error"] < 1e-4
    assert found["kernel"] == [1, 128, 2, 8]  # of 4 examples over 4 devices, of 4 heads over 2
    assert found["indivisible_error"] < 1e-4
    error, shape = found["frames"]  # of one clip of 4 frames, over 4 devices
    assert error < 1e-4 and shape == [1, 128, 2, 8]


# ---- compiled for a TPU that is not here ---------------------------------------------------------


@pytest.mark.parametrize("topology", ["v5e:2x2"])
def test_a_tpu_compiles_the_kernel_and_needs_a_fraction_of_the_memory(topology):
    env = compiled_programs.environment_with_libtpu()
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # or there are no sizes
    command = [sys.executable, str(HELPERS / "flash_for_tpu.py"), topology]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["plain"]["kernels"] == 0
    for fused in found["fused"]:
        assert fused["kernels"] == 3  # forward, and two of the gradient
    assert found["fused"][1]["bytes"] < found["plain"]["bytes"] / 4
