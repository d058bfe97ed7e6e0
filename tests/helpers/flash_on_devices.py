"""Flash attention over a mesh of 4 x 2 devices, interpreted; see test_fused_attention.py."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import pallas
from jax.sharding import AxisType

from vidgen.nn import fused_attention

RULES = (("batch", "data"), ("heads", "tensor"))
FRAMES = (("batch", None), ("frames", "data"), ("heads", "tensor"))


def error(examples, heads, rules=RULES):
    """The largest difference to plain attention, and the shape that a device's kernel sees."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(examples, 128, heads, 8)), jnp.float32) for _ in range(3)
    )
    jax.clear_caches()  # rules are no part of their keys
    seen, kernel = [], fused_attention._kernel

    def watched(scale, q, *rest):
        seen.append(list(q.shape))
        return kernel(scale, q, *rest)

    fused_attention._kernel = watched
    keys = jnp.asarray(rng.random((examples, 128)) < 0.5)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), (AxisType.Auto,) * 2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        found = jax.jit(fused_attention.flash, static_argnums=4)(q, k, v, keys, None)
    fused_attention._kernel = kernel
    plain = jax.nn.dot_product_attention(q, k, v, mask=keys[:, None, None])
    return float(jnp.max(jnp.abs(found - plain))), seen[0]


if __name__ == "__main__":
    pallas.pallas_call = functools.partial(pallas.pallas_call, interpret=True)
    largest, shape = error(4, 4)
    found = {"error": largest, "kernel": shape, "indivisible_error": error(3, 3)[0]}
    print(json.dumps(found | {"frames": error(4, 4, FRAMES)}))
