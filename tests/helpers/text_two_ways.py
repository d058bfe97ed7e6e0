"""One of several processes that train with T5 beside the model, and from a cache that they fill.

Run as `python text_two_ways.py FOLDER`, which gets videos, weights and both runs; prints JSON. See
test_text_processes.py.
"""

import functools
import json
import os
import pathlib
import sys
import traceback

import jax
import numpy as np

from vidgen.cli import startup
from vidgen.config import gin_utils
from vidgen.text.t5 import T5
from vidgen.train.trainer import Trainer

T5_SIZE = """# Defines: Requires: Often overridden:
from __gin__ import dynamic_registration
from vidgen.text import t5
from vidgen.text import t5_network

t5.T5.size = @t5_network.Size()
t5.T5.length = 12
t5.T5.dtype = "float32"
t5.T5.mesh = %MESH
t5_network.Size.width = 32
t5_network.Size.layers = 2
t5_network.Size.heads = 4
t5_network.Size.head_dim = 8
t5_network.Size.mlp = 64
t5_network.Size.vocabulary = 32128
"""
TRAIN = ("TRAIN_STEPS=2", "BATCH_SIZE=4", "Train.log_every=1", "base/VideoShape.frames=4")
TRAIN += ("base/VideoShape.height=8", "base/VideoShape.width=8")


def build(folder, mode, macro, *layers, **bindings):
    """A run of these files and macros."""
    files = [f"runs/{mode}.gin", "experiments/imagen_base_tiny.gin", str(folder / "small.gin")]
    files += ["mesh/fsdp.gin", "data/folder.gin", "text/t5.gin", str(folder / "t5.gin"), *layers]
    given = {"DATA_DIR": folder / "videos", "T5_DIR": folder / "t5", **bindings}
    with gin_utils.session(files, [*TRAIN, *(f"{k}='{v}'" for k, v in given.items())]):
        return gin_utils.build(gin_utils.named_by(macro))


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines]


def main():
    folder = pathlib.Path(sys.argv[1])
    # The trainers of both runs are equal: their step is traced and compiled once.
    Trainer._cached = property(functools.cache(lambda trainer: {}))
    startup.initialize_distributed()
    first = jax.process_index() == 0
    runs = {name: folder / name for name in ("beside", "cache")}
    train = build(folder, "train", "RUN", MODEL_DIR=runs["beside"])
    train()
    encoder = train.text_encoder.encoder
    assert isinstance(encoder, T5)
    kernel = encoder._program[1]["params"]["layers"]["gate"]["kernel"]
    cached = {"TEXT_CACHE": folder / "captions", "MODEL_DIR": runs["cache"]}
    build(folder, "encode", "ENCODING", **cached)()
    build(folder, "train", "RUN", "text/encoded.gin", **cached)()
    found = {
        "processes": jax.process_count(),
        "devices": [device.process_index for device in kernel.sharding.device_set],
        "part": kernel.size // np.prod(kernel.sharding.shard_shape(kernel.shape), dtype=int).item(),
        "losses": {name: losses(run) for name, run in runs.items()} if first else {},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # at a usual exit it would wait for the other, which waits for it
        traceback.print_exc()
        os._exit(1)
