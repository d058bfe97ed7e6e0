"""Trains a model for a few steps on several meshes of the devices of this process; see
test_devices.py. Run as `python losses_on_devices.py MODEL DEVICES:MESH_FILE:SHAPE ...`.
"""

import dataclasses
import json
import math
import os
import re
import sys

# A third of the time to compile; what is compared here runs for milliseconds.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] += " --xla_llvm_disable_expensive_passes=true"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from vidgen.cli import startup  # noqa: E402
from vidgen.config import gin_utils
from vidgen.imagen.distillation import ProgressiveDistillation  # noqa: E402
from vidgen.imagen.students import student  # noqa: E402
from vidgen.train import frozen as trained  # noqa: E402
from vidgen.train.train import Train  # noqa: E402

STEPS, BATCH = 3, 8
FILES = {
    "stage": ["experiments/imagen_ssr1_tiny.gin"],
    "distillation": ["experiments/imagen_ssr1_tiny.gin"],
    "tokenizer": ["experiments/phenaki_cvivit_tiny.gin", "models/phenaki/adversarial.gin"],
    "maskgit": ["experiments/phenaki_maskgit_tiny.gin"],
}
BINDINGS = {
    "tokenizer": [
        "tokenizer/tokenizer.VideoTokenizer.image_perceptual=None",
        "tokenizer/tokenizer.VideoTokenizer.video_perceptual=None",
        "FROZEN=None",
        "tokenizer/discriminator.Discriminator.width=8",
        "tokenizer/discriminator.Discriminator.max_width=16",
    ],
    "maskgit": ["TOKENIZER_DIR='unused'"],
    # One level of the two: the whole network is that of "stage".
    "distillation": [
        "ssr1/unet.VideoUNet.levels=(@ssr1/level1/blocks.LevelSpec(),)",
        "ssr1/level1/blocks.LevelSpec.stride=1",
    ],
}


def trainer_of(name, mesh):
    """The trainer that the experiment's files make, on this mesh."""
    devices, file, shape = mesh.split(":")
    bindings = [
        "MODEL_DIR='unused'",
        f"MESH_SHAPE=({shape})",
        f"Partitioner.device_count={devices}",
    ]
    bindings += BINDINGS.get(name, [])
    with gin_utils.session(["runs/train.gin", *FILES[name], f"mesh/{file}.gin"], bindings):
        trainer = gin_utils.build(Train).trainer
    if name != "distillation":
        return trainer
    model = ProgressiveDistillation(stage=student(stage=trainer.model, steps=4), steps=4)
    return dataclasses.replace(trainer, model=model)


def filled(spec, seed):
    """Numbers for these shapes, the same on every mesh."""
    rng = np.random.default_rng(seed)

    def fill(x):
        if x.dtype == bool:
            return rng.random(x.shape) < 0.8
        return rng.normal(size=x.shape, scale=0.3).astype(x.dtype)

    return jax.tree.map(fill, spec)


def frozen_of(trainer):
    """Weights of what the loss reads, as a run would hold them: over the mesh."""
    spec = trained.spec(trainer.model) or None
    if isinstance(trainer.model, ProgressiveDistillation):
        stage = trainer.model.stage
        spec = {"teacher": trainer.abstract_state(batch_of(trainer)).params}
        assert stage.guidance_input
    everywhere = NamedSharding(trainer.partitioner.mesh, PartitionSpec())
    return jax.device_put(filled(spec, 1), everywhere)


def batch_of(trainer):
    return filled(trainer.model.batch_spec(BATCH, 16, 384), 0)


def train(name, mesh, begin):
    """Losses of a few steps, and how the program and the parameters lie on the mesh.

    `begin` keeps the state to begin with, which the first mesh makes.
    """
    trainer = trainer_of(name, mesh)
    batch, key = batch_of(trainer), jax.random.key(1)
    frozen = frozen_of(trainer)
    if not begin:
        begin.append(jax.device_get(trainer.init_state(jax.random.key(0), batch)))
    places = jax.tree.map(lambda x: x.sharding, trainer.abstract_state(batch))
    state = jax.device_put(begin[0], places)
    arguments = (frozen, trainer.partitioner.to_global(batch), key, np.float32(math.inf))
    lowered = trainer.train_program(batch).lower(state, *arguments)
    step = lowered.compile()
    text = step.as_text()
    found = {
        "constraints": lowered.as_text().count("sharding_constraint"),
        "collectives": len(
            re.findall(r" (?:all-gather|all-reduce|reduce-scatter)(?:-start)?\(", text)
        ),
        "whole": [list(x.shape) for x in jax.tree.leaves(state.params) if whole(x)],
        "share": share(state.params),
        "moments_share": share(state.opt_state),
    }
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, *arguments)
        losses.append(float(metrics["loss"].value()))
    return {"losses": losses} | found


def whole(x):
    return x.sharding.is_fully_replicated


def share(tree):
    """The part of all bytes that one device holds."""
    leaves = jax.tree.leaves(tree)
    own = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
    return own / sum(x.size for x in leaves)


if __name__ == "__main__":
    startup.search_for_garbage_less_often()
    kept = []
    print(json.dumps({mesh: train(sys.argv[1], mesh, kept) for mesh in sys.argv[2:]}))
