"""Trains a small stage for a few steps on however many devices there are; prints the losses.

Run as `python stage_losses.py MESH_FILE`; see test_multidevice.py.
"""

import json
import sys

import jax
import numpy as np
import tiny_unet

from vidgen import gin_utils
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.stage import DiffusionStage
from vidgen.train.optimizers import AdamW, LearningRate
from vidgen.train.partitioning import Partitioner
from vidgen.train.trainer import Trainer
from vidgen.types import VideoBatch, VideoShape

LEVELS = (
    LevelSpec(width=16, blocks=1, temporal="conv"),
    LevelSpec(
        width=16,
        blocks=1,
        stride=2,
        spatial="attention",
        text="attention",
        temporal="attention",
        head_dim=8,
    ),
)


def batch(size):
    return VideoBatch(
        video=np.asarray(tiny_unet.normal(3, size, 2, 8, 8, 3)),
        text=jax.tree.map(np.asarray, tiny_unet.text(size)),
        independent_frames=np.arange(size) % 2 == 1,
    )


def main(mesh_file):
    with gin_utils.session([mesh_file]):
        partitioner = gin_utils.build(Partitioner)
    stage = DiffusionStage(
        shape=VideoShape(frames=2, height=8, width=8), network=tiny_unet.network(LEVELS)
    )
    trainer = Trainer(
        model=stage,
        partitioner=partitioner,
        optimizer=AdamW(learning_rate=LearningRate(peak=1e-3)),
        ema_decay=0.9,
    )
    examples = batch(8)
    state = trainer.init_state(jax.random.key(0), examples)
    losses = []
    for _ in range(3):
        state, metrics = trainer.train_step(
            state, None, partitioner.to_global(examples), jax.random.key(1)
        )
        losses.append(float(metrics["loss"].value()))
    split = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
    print(json.dumps({"devices": jax.device_count(), "losses": losses, "split": split}))


if __name__ == "__main__":
    main(sys.argv[1])
