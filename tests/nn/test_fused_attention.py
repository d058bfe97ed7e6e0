"""Attention by blocks and by the TPU's kernel (interpreted) against the plain products."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from vidgen.nn import fused_attention
from vidgen.train import flops

HERE = pathlib.Path(__file__).parent


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

    (_, out), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
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


def test_few_tokens_are_plain_products():
    plain = jax.make_jaxpr(jax.nn.dot_product_attention)(*heads(64, 64))
    found = jax.make_jaxpr(fused_attention.dot_product_attention)(*heads(64, 64))
    assert str(found) == str(plain)


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
    monkeypatch.setattr(fused_attention, "_platform", lambda: platform)
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

    monkeypatch.setattr(fused_attention, "_platform", lambda: "gpu")
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
    found = on_devices(8, HERE / "flash_on_devices.py")
    assert found["error"] < 1e-4
    assert found["kernel"] == [1, 128, 2, 8]  # of 4 examples over 4 devices, of 4 heads over 2
    assert found["indivisible_error"] < 1e-4


# ---- compiled for a TPU that is not here ---------------------------------------------------------


@pytest.mark.parametrize("topology", ["v5e:2x2"])
def test_a_tpu_compiles_the_kernel_and_needs_a_fraction_of_the_memory(topology):
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # or there are no sizes
    command = [sys.executable, str(HERE / "flash_for_tpu.py"), topology]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["plain"]["kernels"] == 0
    for fused in found["fused"]:
        assert fused["kernels"] == 3  # forward, and two of the gradient
    assert found["fused"][1]["bytes"] < found["plain"]["bytes"] / 4
