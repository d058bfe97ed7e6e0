"""Programs over four devices whose collectives are known; see plan/test_collectives.py."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vidgen.plan import collectives


def received(function, *arguments):
    """(shape, spec) of each argument; what a device receives."""
    mesh = jax.make_mesh((4,), ("d",), (AxisType.Auto,))
    out = NamedSharding(mesh, PartitionSpec())
    specs = [
        jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in arguments
    ]
    text = jax.jit(function, out_shardings=out).lower(*specs).compile().as_text()
    return collectives.received(text)


def main():
    whole, cut = ((8, 8), ()), ((8, 8), ("d",))
    layers = ((5, 8, 8), (None, "d"))

    def gather(x):
        return jax.lax.with_sharding_constraint(x, PartitionSpec())

    def loop(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ gather(w)), None), x, weights)[0]

    mesh = jax.make_mesh((4,), ("d",), (AxisType.Auto,))
    with jax.set_mesh(mesh):
        found = {
            "all-gather": received(lambda w: w, cut),
            "five in a loop": received(loop, whole, layers),
            "all-reduce": received(lambda a, b: a.T @ b, cut, cut),
            "none": received(lambda x: x + 1, whole),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
