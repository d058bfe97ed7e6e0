"""A model with one dense layer to fine-tune; and what a few steps of LoRA give on these devices.

Imported by tests, and by the processes that they start.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import toy_training as toy

from vidgen.nn import axes, initializers
from vidgen.train import lora, weights
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.lora import LoRA, LoraBase, LoraModel
from vidgen.train.state import named_leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine(toy.ToyModel):
    """frame = W mean(text) + bias, with W named as a dense kernel of vidgen's own is."""

    def init(self, key, batch):
        shape = (toy.DIM, toy.SHAPE.height * toy.SHAPE.width * toy.SHAPE.frames)
        kernel = axes.partitioned(initializers.fan_in(), ("embed", "mlp"))(key, shape)
        bias = axes.partitioned(initializers.zeros, ("mlp",))(key, shape[1:])
        return {"dense": {"kernel": kernel, "bias": bias}}

    def loss(self, params, frozen, batch, key, *, train):
        out = batch.text.tokens.mean(axis=1) @ params["dense"]["kernel"] + params["dense"]["bias"]
        return jnp.mean((out.reshape(batch.video.shape) - batch.video) ** 2), {}


def report(mesh_shape, folder):
    """Trains in `folder`, merges, and says what came out."""
    plain = toy.make_trainer(Affine(), mesh_shape=mesh_shape, ema_decay=None)
    with Checkpointer(f"{folder}/base") as checkpointer:
        checkpointer.save(0, plain.init_state(jax.random.key(0), toy.spec()))
    model = LoraModel(base=Affine(), lora=LoRA(rank=2))
    trainer = toy.make_trainer(model, mesh_shape=mesh_shape, ema_decay=None)
    frozen = LoraBase(
        model=model,
        base_dir=f"{folder}/base",
        model_dir=f"{folder}/run",
        text_encoder=toy.ToyEncoder(),
        mesh=trainer.partitioner,
    )()
    state, losses = trainer.init_state(jax.random.key(1), toy.spec()), []
    for n in range(4):
        batch = trainer.partitioner.to_global(toy.batch(8, n))
        state, metrics = trainer.train_step(state, frozen, batch, jax.random.key(7))
        losses.append(float(metrics["loss"].value()))
    with Checkpointer(f"{folder}/run") as checkpointer:
        checkpointer.save(4, state)
    with weights.open_weights(f"{folder}/run") as reader:
        merged = reader.restore_params(plain.abstract_state(toy.spec()).params)
    record = json.loads(Path(folder, "run", "lora.json").read_text())
    return {
        "losses": losses,
        "fingerprint": record["fingerprint"],
        "sums": [float(np.abs(np.asarray(x)).sum()) for x in jax.tree.leaves(merged)],
        "specs": {n: str(x.sharding.spec) for n, x in named_leaves(state.params).items()},
        "base": str(frozen[lora.BASE]["dense"]["kernel"].sharding.spec),
        "merged": str(merged["dense"]["kernel"].sharding.spec),
    }


if __name__ == "__main__":
    shape, folder = sys.argv[1:]
    print(json.dumps(report(tuple(int(n) for n in shape.split(",")), folder)))
