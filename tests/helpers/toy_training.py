"""A model, a data set and a text encoder small enough to train in a test.

Imported by tests, and by the processes that they start.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidgen.data.source import Dataset
from vidgen.model import Generator
from vidgen.train import optimizers, partitioning, trainer
from vidgen.types import Mean, TextEmbedding, VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4, channels=1, fps=4.0)
LENGTH, DIM = 3, 8
RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("pixels", None),
)


class Regressor(nn.Module):
    """Predicts the mean frame from the caption and a noisy clip."""

    hidden: int = 16
    pixel_axis: str = "pixels"

    @nn.compact
    def __call__(self, video, text):
        b = video.shape[0]
        x = jnp.concatenate([video.reshape(b, -1), text.tokens.mean(axis=1)], axis=-1)
        x = self._dense("in", x, self.hidden, (None, "embed"))
        x = nn.with_logical_constraint(jnp.tanh(x), ("batch", "embed"))
        x = self._dense("mid", x, 2 * self.hidden, ("embed", "mlp"))
        x = nn.with_logical_constraint(jnp.tanh(x), ("batch", "mlp"))
        return self._dense("out", x, video[0].size, ("mlp", self.pixel_axis)).reshape(video.shape)

    def _dense(self, name, x, width, axes):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)
        bias = nn.with_logical_partitioning(nn.initializers.zeros, (axes[1],))
        kernel = self.param(f"{name}_kernel", init, (x.shape[-1], width))
        return x @ kernel + self.param(f"{name}_bias", bias, (width,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyModel(Generator):
    """A denoising regressor."""

    name: str = "toy"
    shape: VideoShape = SHAPE
    network: Regressor = dataclasses.field(default_factory=Regressor)
    noise: float = 0.1

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        spec = jax.ShapeDtypeStruct
        return VideoBatch(
            video=spec((batch_size, *self.shape.thwc), jnp.float32),
            text=TextEmbedding(
                tokens=spec((batch_size, text_length, text_dim), jnp.float32),
                mask=spec((batch_size, text_length), jnp.bool_),
            ),
            independent_frames=spec((batch_size,), jnp.bool_),
        )

    def init(self, key, batch):
        return self.network.init(key, batch.video, batch.text)["params"]

    def loss(self, params, frozen, batch, key, *, train):
        noise = jax.random.normal(key, batch.video.shape) * self.noise
        out = self.network.apply({"params": params}, batch.video + noise, batch.text)
        error = jnp.mean((out - batch.video) ** 2, axis=(1, 2, 3, 4))
        return jnp.mean(error), {"error_max": Mean.of(jnp.max(error))}

    def generate(self, params, text, low_res, keys, *, on_step=None, known=None):
        noise = jax.vmap(lambda k: jax.random.normal(k, self.shape.thwc))(keys)
        return jnp.tanh(self.network.apply({"params": params}, noise, text))


class ToyEncoder:
    """A fixed random vector for each prompt."""

    name = "toy"
    dim = DIM
    length = LENGTH

    def __call__(self, prompts):
        rows = [np.random.default_rng(sum(p.encode())).normal(size=(LENGTH, DIM)) for p in prompts]
        tokens = np.stack(rows).astype(np.float32)
        return TextEmbedding(tokens=tokens, mask=np.ones(tokens.shape[:2], bool))


class ToyIterator:
    """Batches that are a function of their number, which is all of the state."""

    def __init__(self, batch_size, process):
        self.batch_size, self.process, self.at = batch_size, process, 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.at)
        self.at += 1
        colors = rng.integers(0, 256, size=self.batch_size, dtype=np.uint8)
        video = np.broadcast_to(
            colors[:, None, None, None, None], (self.batch_size, *SHAPE.thwc)
        ).copy()
        return {
            "video": video,
            "caption": [f"gray {c}" for c in colors],
            "independent_frames": np.zeros(self.batch_size, bool),
        }

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]

    def set_states(self, states):
        self.at = states[0]["at"]

    def close(self):
        pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyData(Dataset):
    """Stands in for `data.pipeline.Pipeline`."""

    batch_size: int = 8

    def iterator(self, *, process=(0, 1)):
        return ToyIterator(self.batch_size // process[1], process)


def spec(batch_size=8, model=None):
    return (model or ToyModel()).batch_spec(batch_size, LENGTH, DIM)


def batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.uniform(-1, 1, size=(size, *SHAPE.thwc)).astype(np.float32)
    text = ToyEncoder()([f"clip {i} of {seed}" for i in range(size)])
    return VideoBatch(video=video, text=text, independent_frames=np.zeros(size, bool))


def make_trainer(model=None, optimizer=None, mesh_shape=(-1, 1, 1), rules=RULES, **settings):
    rate = optimizers.LearningRate(peak=1e-2, warmup_steps=2)
    return trainer.Trainer(
        model=model or ToyModel(),
        partitioner=partitioning.Partitioner(rules=rules, mesh_shape=mesh_shape),
        optimizer=optimizer or optimizers.AdamW(learning_rate=rate, weight_decay=0.01),
        **settings,
    )


def run_steps(t, state, first, count, *, size=8):
    """States and losses of `count` steps from step number `first`."""
    key, losses = jax.random.key(7), []
    for n in range(first, first + count):
        state, metrics = t.train_step(state, None, t.partitioner.to_global(batch(size, n)), key)
        losses.append(float(metrics["loss"].value()))
    return state, losses


def report(mesh_shape):
    """What a few steps give on the devices of this process."""
    t = make_trainer(mesh_shape=mesh_shape)
    state = t.init_state(jax.random.key(0), spec())
    program = t.train_program(spec())
    text = (
        program.lower(state, None, spec(), jax.random.key(7), np.float32(np.inf))
        .compile()
        .as_text()
    )
    specs = {jax.tree_util.keystr(p): str(x.sharding.spec) for p, x in _leaves(state.params)}
    moments = {str(x.sharding.spec) for _, x in _leaves(state.opt_state)}
    state, losses = run_steps(t, state, 0, 5)
    found = {"losses": losses, "collectives": text.count("all-reduce("), "specs": specs}
    return found | {"moments": sorted(moments), "devices": jax.device_count()}


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


if __name__ == "__main__":
    print(json.dumps(report(tuple(int(n) for n in sys.argv[1].split(",")))))
