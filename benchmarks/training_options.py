"""What an option of training changes: small models with and without it, of several seeds.

    python benchmarks/training_options.py flow --seeds=3 -o options.jsonl

The world is small enough that every true clip can be listed: a white square of 2 x 2 pixels moves
left or right over a plain color, around a frame of 4 x 8 whose left and right edges meet, at one of
two heights. The text says color and direction; 96 clips are true. A model learns from them, makes
clips of drawn texts, and is read by the nearest true clip (least squared error):

    right     share whose nearest true clip has the color and direction of the text
    error     mean squared error to the nearest true clip, pixels in [-1, 1]

A Markdown table goes to standard output, means over seeds and each seed's error; one JSON line a
model and sampling to --output. The network has three dense layers, so that a model takes some ten
seconds of one core: what is compared is what stage and conditioner do, not what the U-Net can.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vidgen.diffusion import schedules
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.diffusion.schedules import expand
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.nn import embeddings
from vidgen.types import Params, TextEmbedding, VideoBatch, VideoShape

HEIGHT, WIDTH, FRAMES, BATCH = 4, 8, 4, 32
COLORS = np.array([[0.8, -0.8, -0.8], [-0.8, 0.6, -0.8], [-0.8, -0.8, 0.8]], np.float32)
WAYS, TOPS, SQUARE = (1, -1), (0, 2), 2


class DenseNetwork(nn.Module, DenoisingNetwork):
    """Three dense layers on the whole clip and all that conditions it, and z beside them.

    The output is a(λ) z + b(λ) layers, since 256 features do not carry the noise of 384 numbers.
    """

    width: int = 256

    @nn.compact
    def __call__(self, z, logsnr, cond, *, train=False):
        """Compute the raw output for noisy video z "b t h w c" at the log-SNR "b"."""
        level = embeddings.logsnr_features(logsnr, 32)
        parts = [z, cond.text.tokens, level]
        parts += [x for x in (cond.low_res, cond.known_frames) if x is not None]
        x = jnp.concatenate([jnp.reshape(part, (len(z), -1)) for part in parts], axis=1)
        for _ in range(2):
            x = nn.silu(nn.Dense(self.width)(x))
        out = jnp.reshape(nn.Dense(math.prod(z.shape[1:]))(x), z.shape)
        a, b = jnp.moveaxis(nn.Dense(2)(nn.silu(nn.Dense(64)(level))), 1, 0)
        return expand(a, z) * z + expand(1 + b, z) * out


BASE = DiffusionStage(
    shape=VideoShape(frames=FRAMES, height=HEIGHT, width=WIDTH),
    network=DenseNetwork(),
    times=schedules.LogitNormalTimes(mean=0.5, std=1.2),
    sampler=SamplerSpec(kind="ddim", steps=16),
)


class World(NamedTuple):
    """All true clips, and what the text of each says."""

    clips: np.ndarray  # n t h w c
    color: np.ndarray
    way: np.ndarray


@functools.cache
def world(frames: int = FRAMES, speed: int = 1) -> World:
    """Draw every clip of so many frames, the square moving `speed` pixels from frame to frame."""
    places = list(itertools.product(range(len(COLORS)), range(2), TOPS, range(WIDTH)))
    clips = np.empty((len(places), frames, HEIGHT, WIDTH, 3), np.float32)
    for clip, (color, way, y, x) in zip(clips, places, strict=True):
        clip[:] = COLORS[color]
        for i, frame in enumerate(clip):
            columns = (np.arange(SQUARE) + x + WAYS[way] * speed * i) % WIDTH
            frame[y : y + SQUARE, columns] = 1.0
    color, way = (np.array([place[i] for place in places]) for i in range(2))
    return World(clips, color, way)


def prompts(color: Any, way: Any) -> TextEmbedding:
    """Two tokens: one-hot color, one-hot direction."""
    first, second = 3 * jax.nn.one_hot(color, 8), 3 * jax.nn.one_hot(4 + way, 8)
    tokens = jnp.stack([first, second], axis=1)
    return TextEmbedding(tokens=tokens, mask=jnp.ones(tokens.shape[:2], bool))


def draw(key: Any, shown: World) -> VideoBatch:
    """Draw a batch; the clips of the world stay on the device."""
    which = jax.random.randint(key, (BATCH,), 0, len(shown.clips))
    clips, color, way = (jnp.asarray(array)[which] for array in shown)
    return VideoBatch(
        video=clips, text=prompts(color, way), independent_frames=jnp.zeros(BATCH, bool)
    )


def training(
    stage: DiffusionStage, steps: int, batches: Callable[..., VideoBatch]
) -> Callable[[Any], Params]:
    """Build the compiled training of a stage: from a key to the average of its last weights."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))

    def step(key, state, number):
        params, average, moments = state
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, number))
        gradient = jax.grad(
            lambda p: stage.loss(p, None, batches(batch_key), loss_key, train=True)[0]
        )(params)
        change, moments = optimizer.update(gradient, moments, params)
        params = optax.apply_updates(params, change)
        average = jax.tree.map(lambda a, p: 0.98 * a + 0.02 * p, average, params)
        return (params, average, moments), None

    def train(key):
        init_key, key = jax.random.split(key)
        params = nn.meta.unbox(stage.init(init_key, batches(init_key)))
        state = (params, params, optimizer.init(params))
        return jax.lax.scan(functools.partial(step, key), state, jnp.arange(steps))[0][1]

    return jax.jit(train)


def read(made: np.ndarray, color: np.ndarray, way: np.ndarray, true: World) -> dict[str, float]:
    """Read clips by the nearest true ones."""
    flat, clips = (np.reshape(x, (len(x), -1)).astype(np.float64) for x in (made, true.clips))
    square = (flat**2).sum(1)[:, None] - 2 * flat @ clips.T + (clips**2).sum(1)
    nearest = square.argmin(1)
    right = (true.color[nearest] == color) & (true.way[nearest] == way)
    return {"right": float(right.mean()), "error": float(square.min(1).mean() / clips.shape[1])}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the compared models.

    Attributes:
      changes: of the fields of `BASE`.
      samplers: by which it is read.
    """

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samplers: Sequence[SamplerSpec] = (SamplerSpec(kind="ddim", steps=16),)

    def rows(self, flags: argparse.Namespace) -> list[dict[str, Any]]:
        """Train a model of each seed, and read what it makes by every sampler."""
        stage, rows = dataclasses.replace(BASE, **self.changes), []
        train = training(stage, flags.steps, functools.partial(draw, shown=world()))
        made = {}
        for spec in self.samplers:
            sampled = dataclasses.replace(stage, sampler=spec)
            made[f"{spec.name}, {spec.steps} steps"] = jax.jit(sampled.generate)
        for seed in range(flags.seeds):
            params, rng = train(jax.random.key(seed)), np.random.default_rng(seed)
            color, way = (
                rng.integers(len(COLORS), size=flags.clips),
                rng.integers(2, size=flags.clips),
            )
            keys = jax.random.split(jax.random.key(1000 + seed), flags.clips)
            for name, generate in made.items():
                clips = np.asarray(generate(params, prompts(color, way), None, keys))
                rows.append({"sampling": name, "seed": seed} | read(clips, color, way, world()))
        return rows


def ladders(kind: str, *steps: int) -> list[SamplerSpec]:
    """The same sampler with several numbers of steps."""
    return [SamplerSpec(kind=kind, steps=n) for n in steps]


FLOW = {
    "parameterization": "flow",
    "loss_weight": "flow_mse",
    "schedule": schedules.RectifiedFlow(),
    "times": schedules.LogitNormalTimes(),
}
EXPERIMENTS: dict[str, dict[str, Variant]] = {
    "flow": {
        "v, cosine": Variant({}, ladders("ddim", 4, 16)),
        "flow, uniform times": Variant(
            FLOW | {"times": schedules.UniformTimes()}, ladders("euler", 4, 16)
        ),
        "flow, logit-normal times": Variant(FLOW, ladders("euler", 4, 16)),
    },
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: means over seeds, and each seed's error."""
    numbers = [n for n in rows[0] if n not in ("model", "sampling", "seed", "error")]
    head = ["model", "sampling", *numbers, "error", "of each seed"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key in dict.fromkeys((row["model"], row["sampling"]) for row in rows):
        own = [row for row in rows if (row["model"], row["sampling"]) == key]
        means = [f"{np.mean([row[n] for row in own]):.2f}" for n in numbers]
        errors = [row["error"] for row in own]
        spread = ", ".join(f"{error:.4f}" for error in errors)
        lines.append(f"| {' | '.join([*key, *means, f'{np.mean(errors):.4f}', spread])} |")
    return "\n".join(lines)


def main() -> None:
    """Run one experiment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=3, help="models of each variant; default: 3")
    parser.add_argument("--steps", type=int, default=2000, help="of training; default: 2000")
    parser.add_argument("--clips", type=int, default=128, help="read of each model; default: 128")
    parser.add_argument("-o", "--output", default="options.jsonl", help="a JSON line a row")
    flags = parser.parse_args()
    settings = {name: getattr(flags, name) for name in ("experiment", "steps", "clips")}
    rows: list[dict[str, Any]] = []
    for name, variant in EXPERIMENTS[flags.experiment].items():
        began = time.process_time()
        found = [{"model": name} | row for row in variant.rows(flags)]
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
        rows += found
        with open(flags.output, "a") as log:
            log.writelines(json.dumps(settings | row) + "\n" for row in found)
    print(table(rows))


if __name__ == "__main__":
    main()
