"""Compiles attention of many tokens for a TPU; prints how. See test_fused_attention.py."""

import json
import os
import sys

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ |= {"TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5p-8"}
os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import tpu_programs  # noqa: E402
from flax import linen as nn  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec  # noqa: E402

from vidgen.nn import fused_attention  # noqa: E402


def compiled(attention, head_dim, mesh):
    """Of the gradient over 1,500 tokens, of which some are masked, in bfloat16."""
    cut = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((16, 1500, 8, head_dim), "bfloat16", sharding=cut)
    mask = jax.ShapeDtypeStruct((16, 1, 1, 1500), "bool", sharding=cut)

    def loss(q, k, v, mask):
        return jnp.sum(attention(q, k, v, mask=mask).astype("float32") ** 2)

    with jax.set_mesh(mesh), nn.logical_axis_rules((("batch", "data"), ("heads", None))):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, mask)
    compile_or_read = tpu_programs.kept(lambda lowered, _: (lowered.compile(), ""))
    program, _ = compile_or_read(lowered, "tpu")
    return {
        "kernels": lowered.as_text().count("tpu_custom_call"),
        "bytes": program.memory_analysis().temp_size_in_bytes,
    }


def main():
    devices = np.array(topologies.get_topology_desc(sys.argv[1], "tpu").devices)
    mesh = Mesh(devices.reshape(-1), ("data",), axis_types=(AxisType.Auto,))
    fused = [compiled(fused_attention.dot_product_attention, d, mesh) for d in (32, 64)]
    plain = compiled(jax.nn.dot_product_attention, 64, mesh)
    print(json.dumps({"fused": fused, "plain": plain}))


if __name__ == "__main__":
    main()
