"""Attention that never holds all its logits: the platform's kernel, or blocks of queries.

    TPU      flash attention in Pallas        no bias; a mask hides a key from all queries
    CUDA     cuDNN's, through jax.nn          neither bias nor mask, in 16 bits
    CPU      exp(q·kᵀ - max)·v / sum, head by head, and once more in the backward pass
    any      the same of blocks of queries, where even one head has many logits

`jax.nn.dot_product_attention` alone chooses no kernel and holds all logits on every platform. The
mesh in which a program is traced says for which platform, so a plan for TPUs has their kernel.
Small attention runs as plain products, which are as fast then. All are the same up to rounding,
with the softmax in float32. A kernel sees one device's share of the examples and of the heads, and
all their tokens: what a mesh cuts of those is gathered before it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

from vidgen.nn import platforms

# [guess] Logits of a head from which on a kernel runs, and where there is none, blocks do (which
# cost time): 512 x 512 and 2048 x 2048 tokens, 1 and 16 MiB of float32 for each head of an example.
KERNEL_FROM = 2**18
BLOCKS_FROM = 2**22
_BLOCK_LOGITS = 2**20  # of a head, in a block of queries
# Logits of a head from which on a CPU takes head after head: 128 x 128. XLA:CPU's batched products
# are slow at larger ones (2 x 576 tokens, 8 heads of 32 features, forward and gradient: 15 and 83
# ms as a batch, 10 and 49 by heads); at 64 x 64 a batch is faster (13 against 18 ms the gradient).
_HEADS_FROM = 2**14
_HIDDEN = -1e30  # in place of a logit that a mask hides: finite, or a row of them would not be
_LANES = 128  # tokens come in multiples of this on a TPU


def dot_product_attention(
    q: Float[Array, "n q h d"],
    k: Float[Array, "m k h d"],
    v: Float[Array, "m k h d"],
    *,
    bias: Float[Array, "#n h q k"] | None = None,
    mask: Bool[Array, "#m #h #q k"] | None = None,
    scale: float | None = None,
) -> Float[Array, "n q h d"]:
    """Compute attention by the kernel that fits platform and sizes.

    Args:
      q: queries.
      k: keys, of as many rows; or of fewer, each for n / m rows of queries in succession.
      v: values.
      bias: added to the logits; None where there are fewer rows of keys.
      mask: True where a query may look; the result of a query that sees no key is undefined.
      scale: factor of the logits; None is 1/√d.

    Returns:
      The values of each query, as `jax.nn.dot_product_attention` gives them.

    Raises:
      ValueError: there are fewer rows of keys, and a bias.
    """
    if len(k) < len(q):
        if bias is not None:
            raise ValueError(f"A bias needs keys for each of {len(q)} rows, got {len(k)}.")
        return shared_keys(q, k, v, mask, scale)
    logits = q.shape[1] * k.shape[1]
    platform = platforms.current() if logits >= KERNEL_FROM and bias is None else ""
    if platform == "tpu" and (mask is None or mask.shape[1:3] == (1, 1)):
        return flash(q, k, v, None if mask is None else mask[:, 0, 0], scale)
    if platform in ("gpu", "cuda") and mask is None and _cudnn_takes(q):
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
    if logits >= BLOCKS_FROM:
        return by_blocks(q, k, v, bias, mask, scale, block=max(1, _BLOCK_LOGITS // k.shape[1]))
    return products(q, k, v, bias, mask, scale)


def shared_keys(
    q: Float[Array, "n q h d"],
    k: Float[Array, "m k h d"],
    v: Float[Array, "m k h d"],
    mask: Bool[Array, "#m #h #q k"] | None,
    scale: float | None,
) -> Float[Array, "n q h d"]:
    """Compute attention where n / m rows of queries in succession have the same keys.

    On a CPU keys are not repeated for products of a batch: XLA (jax 0.10.2) can take such a product
    and the repetition into one YNNPACK graph, which then reads behind the keys (16 frames of 16 x
    16 pixels, 12 keys, one head of 8: wrong values, and others at each call). Whether it does so
    depends on what is around them; `optimization_barrier` prevents it in some programs only.

    Args:
      q: queries.
      k: keys.
      v: values.
      mask: True where a query may look; None is everywhere.
      scale: factor of the logits; None is 1/√d.

    Returns:
      The values of each query, as of `dot_product_attention` with the keys repeated.
    """
    rows = len(q) // len(k)
    head_by_head = q.shape[1] * k.shape[1] >= _HEADS_FROM and platforms.is_one_device()
    if platforms.current() == "cpu" and not head_by_head:
        together = jnp.moveaxis(q.reshape(-1, rows, *q.shape[1:]), 3, 1)  # m h rows q d
        k, v = (jnp.swapaxes(x, 1, 2)[:, :, None] for x in (k, v))
        out = _heads_first(scale, together, k, v, None, None if mask is None else mask[:, :, None])
        return jnp.moveaxis(out, 1, 3).reshape(q.shape)
    k, v = (jnp.repeat(x, rows, axis=0) for x in (k, v))
    if mask is not None and len(mask) > 1:
        mask = jnp.repeat(mask, rows, axis=0)
    return dot_product_attention(q, k, v, mask=mask, scale=scale)


def products(
    q: Float[Array, "n q h d"],
    k: Float[Array, "n k h d"],
    v: Float[Array, "n k h d"],
    bias: Float[Array, "#n h q k"] | None,
    mask: Bool[Array, "#n #h #q k"] | None,
    scale: float | None,
) -> Float[Array, "n q h d"]:
    """Compute attention as matrix products, in the order that the platform runs well.

    Args:
      q: queries.
      k: keys.
      v: values.
      bias: added to the logits; None adds nothing.
      mask: True where a query may look; None is everywhere.
      scale: factor of the logits; None is 1/√d.

    Returns:
      The values of each query; undefined for a query that sees no key.
    """
    if platforms.current() != "cpu":
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=scale)
    # Where a caller has repeated keys: it spares some programs what `shared_keys` tells of.
    q, k, v = jax.lax.optimization_barrier(tuple(jnp.swapaxes(x, 1, 2) for x in (q, k, v)))
    # Of examples that lie on several devices a loop would gather one after the other.
    if q.shape[2] * k.shape[2] >= _HEADS_FROM and platforms.is_one_device():
        head = jax.checkpoint(functools.partial(_heads_first, scale))
        heads = functools.partial(_one_by_one, head)
        return jnp.swapaxes(_one_by_one(heads, q, k, v, bias, mask), 1, 2)
    return jnp.swapaxes(_heads_first(scale, q, k, v, bias, mask), 1, 2)


def _heads_first(
    scale: float | None,
    q: Float[Array, "*n q d"],
    k: Float[Array, "*#n k d"],
    v: Float[Array, "*#n k d"],
    bias: Float[Array, "*#n q k"] | None,
    mask: Bool[Array, "*#n #q k"] | None,
) -> Float[Array, "*n q d"]:
    """Compute attention of heads that lie before their tokens; divide by the sum at the end."""
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    kind = jnp.promote_types(q.dtype, jnp.float32)
    logits = factor * jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=kind)
    logits = logits if bias is None else logits + bias
    logits = logits if mask is None else jnp.where(mask, logits, _HIDDEN)
    most = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - most)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("...qk,...kd->...qd", weights, v, preferred_element_type=kind)
    return (out / total).astype(q.dtype)


def _one_by_one(function: Callable[..., Array], *arrays: Array | None) -> Array:
    """Map a function over the first axis of the arrays; an array of one row serves them all."""
    length = len(arrays[0])  # type: ignore[arg-type]
    rows = {i: x for i, x in enumerate(arrays) if x is not None and len(x) == length}

    def at(row: dict[int, Array]) -> Array:
        return function(*(row[i] if i in row else _only(x) for i, x in enumerate(arrays)))

    return jax.lax.map(at, rows)


def _only(x: Array | None) -> Array | None:
    return None if x is None else x[0]


def by_blocks(
    q: Float[Array, "n q h d"],
    k: Float[Array, "n k h d"],
    v: Float[Array, "n k h d"],
    bias: Float[Array, "#n h q k"] | None,
    mask: Bool[Array, "#n #h #q k"] | None,
    scale: float | None,
    *,
    block: int,
) -> Float[Array, "n q h d"]:
    """Compute attention of some queries at a time, so that never all logits are held.

    With n blocks, each takes every n-th query: where a mesh cuts the queries into runs, each device
    then has a part of every block.

    Args:
      q: queries.
      k: keys.
      v: values.
      bias: added to the logits; None adds nothing.
      mask: True where a query may look; None is everywhere.
      scale: factor of the logits; None is 1/√d.
      block: about how many queries make a block.

    Returns:
      The values of each query, as of `products`.
    """
    length = q.shape[1]
    count = -(-length // block)

    @jax.checkpoint
    def attend(parts: tuple[Array, Array | None, Array | None]) -> Array:
        some, bias_of, mask_of = parts
        return products(some, k, v, bias_of, mask_of, scale)

    def cut(x: Array | None, axis: int) -> Array | None:
        """Make the blocks of x a new first axis."""
        if x is None:
            return None
        if x.shape[axis] == 1 != length:  # the same for all queries
            return jnp.broadcast_to(x, (count, *x.shape))
        x = _padded(x, axis, count)
        x = x.reshape(*x.shape[:axis], -1, count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis + 1, 0)

    out = jax.lax.map(attend, (cut(q, 1), cut(bias, 2), cut(mask, 2)))
    out = jnp.moveaxis(out, 0, 2)
    return out.reshape(len(q), -1, *q.shape[2:])[:, :length]


def flash(
    q: Float[Array, "n q h d"],
    k: Float[Array, "n k h d"],
    v: Float[Array, "n k h d"],
    keys: Bool[Array, "#n k"] | None,
    scale: float | None,
) -> Float[Array, "n q h d"]:
    """Compute flash attention on a TPU, by JAX's kernel in Pallas.

    Args:
      q: queries.
      k: keys.
      v: values.
      keys: False on keys that no query may see; None hides none.
      scale: factor of the logits; None is 1/√d.

    Returns:
      The values of each query, as of `products`.
    """
    length, memory = q.shape[1], k.shape[1]
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (_padded(x, 1, _LANES) for x in (q, k, v))
    kernel = functools.partial(_kernel, factor)
    if keys is None and k.shape[1] == memory:
        return _on_each_device(kernel, q, k, v)[:, :length]
    keys = jnp.ones((1, memory), bool) if keys is None else keys
    keys = jnp.broadcast_to(_padded(keys, 1, _LANES), k.shape[:2])
    return _on_each_device(kernel, q, k, v, keys)[:, :length]


def _kernel(scale: float, q: Array, k: Array, v: Array, keys: Array | None = None) -> Array:
    # Imported late: Pallas takes a second, and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    segments = None
    if keys is not None:  # a query sees the keys of its own segment, 1
        ones = jnp.ones(q.shape[:2], jnp.int32)
        segments = tpu.SegmentIds(q=ones, kv=keys.astype(jnp.int32))
    rows, columns = (next(b for b in (512, 256, 128) if x.shape[1] % b == 0) for x in (q, k))
    sizes = tpu.BlockSizes(
        block_b=1,
        **dict.fromkeys(("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq"), rows),
        **dict.fromkeys(("block_k_major", "block_k", "block_k_major_dkv", "block_k_dkv"), columns),
        **dict.fromkeys(("block_k_major_dq", "block_k_dq"), columns),
    )
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = tpu.flash_attention(
        *heads_first,
        segment_ids=segments,
        sm_scale=scale,
        block_sizes=sizes,
    )
    return jnp.swapaxes(out, 1, 2)


def _on_each_device(kernel: Callable[..., Array], q: Array, *rest: Array) -> Array:
    """Run a kernel on the share of the examples and heads that each device of the mesh has."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Manual in mesh.axis_types:
        return kernel(q, *rest)
    names = spmd.logical_to_mesh_axes(("batch", "frames", "heads")) or (None,) * 3
    batch, frames, heads = ((to,) if isinstance(to, str) else tuple(to or ()) for to in names)
    spec = PartitionSpec(
        *(
            axes if axes and size % _ways(mesh, axes) == 0 else None
            for axes, size in ((batch + frames, len(q)), ((), 0), (heads, q.shape[2]))
        )
    )
    specs = tuple(spec if x.ndim == 4 else PartitionSpec(*spec[:1]) for x in (q, *rest))
    return jax.shard_map(kernel, in_specs=specs, out_specs=spec, check_vma=False)(q, *rest)


def _ways(mesh: AbstractMesh, axes: tuple[str, ...]) -> int:
    """Count the devices along these mesh axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def _padded(x: Array, axis: int, multiple: int) -> Array:
    """Pad an axis with zeros (False) to the next multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)


def _cudnn_takes(q: Array) -> bool:
    """Whether cuDNN has a kernel: 16 bits, heads of a multiple of 8 and at most 128 features."""
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
