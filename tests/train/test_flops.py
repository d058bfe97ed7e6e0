"""FLOP counts against hand-counted multiply-adds."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from vidgen.model import Model
from vidgen.train import flops
from vidgen.types import VideoShape


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, kernel, stride=1, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def test_matrix_product():
    assert flops.count(jnp.matmul, spec(3, 5), spec(5, 7)) == 2 * 3 * 5 * 7


def test_batched_product_with_two_contracted_axes():
    got = flops.count(
        lambda a, b: jnp.einsum("bijk,bjkl->bil", a, b), spec(2, 3, 4, 5), spec(2, 4, 5, 6)
    )
    assert got == 2 * 2 * 3 * 4 * 5 * 6


def test_elementwise_work_is_not_counted():
    assert flops.count(lambda x: jnp.tanh(x) + x.sum(), spec(100)) == 0


def test_convolution():
    assert flops.count(conv, spec(2, 8, 8, 3), spec(3, 3, 3, 16)) == 2 * (2 * 8 * 8 * 16) * (9 * 3)


def test_grouped_convolution():
    got = flops.count(lambda x, k: conv(x, k, groups=4), spec(2, 8, 8, 12), spec(3, 3, 3, 16))
    assert got == 2 * (2 * 8 * 8 * 16) * (9 * 3)


def test_gradient_of_a_product_is_twice_the_product_more():
    grad = jax.value_and_grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1))
    assert flops.count(grad, spec(3, 5), spec(5, 7)) == 3 * (2 * 3 * 5 * 7)


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (4, 1), (1, 4)])
def test_gradient_of_a_convolution_is_twice_the_convolution_more(stride, groups):
    def loss(x, k):
        return jnp.sum(conv(x, k, stride, groups) ** 2)

    grad = jax.value_and_grad(loss, argnums=(0, 1))
    out = 2 * (8 // stride) ** 2 * 16
    once = 2 * out * 9 * (12 // groups)
    kernel = spec(3, 3, 12 // groups, 16)
    assert flops.count(grad, spec(2, 8, 8, 12), kernel) == 3 * once


def test_scan_counts_every_turn_forward_and_backward():
    def loss(weights, x):
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
        return jnp.sum(x)

    once = 2 * 3 * 5 * 5
    arguments = spec(6, 5, 5), spec(3, 5)
    assert flops.count(loss, *arguments) == 6 * once
    assert flops.count(jax.value_and_grad(loss, argnums=(0, 1)), *arguments) == 6 * 3 * once


def test_nested_loops_multiply():
    def inner(x, w):
        return lax.scan(lambda x, _: (x @ w, None), x, length=4)[0]

    def outer(x, w):
        return lax.fori_loop(0, 3, lambda _, x: inner(x, w), x)

    assert flops.count(outer, spec(2, 5), spec(5, 5)) == 12 * (2 * 2 * 5 * 5)


def test_vmap_counts_every_example():
    function = jax.vmap(jnp.matmul, in_axes=(0, None))
    assert flops.count(function, spec(9, 3, 5), spec(5, 7)) == 9 * (2 * 3 * 5 * 7)


def test_remat_counts_what_is_computed_again():
    def block(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def loss(function):
        return jax.value_and_grad(lambda x, w: jnp.sum(function(x, w)), argnums=(0, 1))

    once = 2 * 3 * 5 * 5
    plain = flops.count(loss(block), spec(3, 5), spec(5, 5))
    again = flops.count(loss(jax.checkpoint(block)), spec(3, 5), spec(5, 5))
    assert plain == 2 * 3 * once
    assert again == plain + 2 * once  # both products are needed for their tanh


def test_a_shared_jitted_function_counts_at_each_call():
    twice = jax.jit(lambda x, w: x @ w)
    function = jax.jit(lambda x, w: twice(twice(x, w), w))
    assert flops.count(function, spec(3, 5), spec(5, 5)) == 2 * (2 * 3 * 5 * 5)


def test_cond_counts_its_widest_branch():
    def function(p, x, w):
        return lax.cond(p, lambda x: x @ w, lambda x: (x @ w) @ w, x)

    got = flops.count(function, jax.ShapeDtypeStruct((), bool), spec(3, 5), spec(5, 5))
    assert got == 2 * (2 * 3 * 5 * 5)


def test_while_counts_its_body_once():
    def function(x, w):
        return lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ w, x)

    assert flops.count(function, spec(3, 5), spec(5, 5)) == 2 * 3 * 5 * 5


def test_custom_derivatives_are_looked_into():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

    @jax.custom_jvp
    def square(x):
        return x @ x

    square.defjvp(lambda x, dx: (square(*x), dx[0] @ x[0] + x[0] @ dx[0]))
    once = 2 * 5 * 5 * 5
    assert flops.count(product, spec(5, 5), spec(5, 5)) == once
    assert flops.count(square, spec(5, 5)) == once
    grad = jax.value_and_grad(lambda x, w: jnp.sum(product(x, w)), argnums=(0, 1))
    assert flops.count(grad, spec(5, 5), spec(5, 5)) == 3 * once


def test_shard_map_counts_all_devices():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    function = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, jax.sharding.PartitionSpec()), out_specs=rows
    )
    assert flops.count(jax.jit(function), spec(8, 5), spec(5, 7)) == 2 * 8 * 5 * 7


class Linear(Model):
    """One matrix, and a frozen one that needs no gradient."""

    def init(self, key, batch):
        return {"w": jnp.zeros((5, 7))}

    def loss(self, params, frozen, batch, key, *, train):
        return jnp.mean((batch @ params["w"] @ frozen) ** 2), {}

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        return spec(batch_size, 5)


def test_a_model_needs_no_gradient_of_its_data():
    model = Linear(name="linear", shape=VideoShape(frames=1, height=1, width=5, fps=1.0))
    batch, frozen = spec(3, 5), spec(7, 11)
    params = {"w": spec(5, 7)}
    first, second = 2 * 3 * 5 * 7, 2 * 3 * 7 * 11
    assert flops.forward(model, params, frozen, batch) == first + second
    # Backwards: dL/dw, and dL/d(hidden) through the frozen matrix.
    assert flops.loss_and_gradient(model, params, frozen, batch) == 2 * first + 2 * second


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert flops.peak(kind) == peak
