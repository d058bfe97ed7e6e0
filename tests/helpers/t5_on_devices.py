"""T5 over a mesh of eight devices against one: prints JSON. Run by test_t5.py."""

import json
import pathlib
import sys

import jax
import numpy as np
import t5_folders

from vidgen.config import gin_utils
from vidgen.text.t5 import T5
from vidgen.text.t5_network import Size
from vidgen.train.partitioning import Partitioner

SIZE = Size(width=32, layers=3, heads=4, mlp=64, head_dim=8, vocabulary=32128)


def main():
    folder = pathlib.Path(sys.argv[1])
    t5_folders.write_safetensors(folder, t5_folders.arrays(SIZE), shards=2)
    with gin_utils.session(["mesh/fsdp.gin"]):
        mesh = gin_utils.build(Partitioner, mesh_shape=(1, 8, 1))
    given = {"path": str(folder), "size": SIZE, "length": 12}
    prompts = ["a tiger moving right", "an octopus", ""]
    one, many = T5(**given)(prompts), T5(**given, mesh=mesh)(prompts)
    params = T5(**given, mesh=mesh).load()
    shards = {
        jax.tree_util.keystr(path, simple=True, separator="/"): [
            list(leaf.shape),
            list(leaf.addressable_shards[0].data.shape),
        ]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    print(
        json.dumps(
            {
                "difference": float(np.abs(one.tokens - many.tokens).max()),
                "largest": float(np.abs(one.tokens).max()),
                "shards": shards,
            }
        )
    )


if __name__ == "__main__":
    main()
