"""What an option of training changes: small models with and without it, of several seeds.

    python benchmarks/training_options.py flow --seeds=2 -o options.jsonl

The world is small enough that every true clip can be listed: a white square of 2 x 2 pixels moves
left or right over a plain color, around a frame of 4 x 8 whose left and right edges meet, at one of
two heights. The text says color and direction; 96 clips are true. A model learns from them, makes
clips of drawn texts, and is read by the nearest true clip (least squared error):

    right     share whose nearest true clip has the color and direction of the text, and moves as
              far in a frame as the frame rate says
    error     mean squared error to the nearest true clip, pixels in [-1, 1]

Experiments: `flow` (rectified flow), `self_conditioning`, `long` (videos of 12 frames in 5 chunks
of 4 that share 2, by a base that is shown earlier frames and by one that is not), `fps` (clips at
4 and 8 frames a second, the rate told or not).

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
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.diffusion.schedules import expand
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.earlier_frames import EarlierFrames
from vidgen.imagen.stage import DiffusionStage
from vidgen.nn import embeddings
from vidgen.types import Known, Params, TextEmbedding, VideoBatch, VideoShape

HEIGHT, WIDTH, FRAMES, BATCH = 4, 8, 4, 32
FPS, CONTEXT = 8.0, 2  # a rate at which a square moves one pixel a frame; frames that chunks share
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
        parts += [] if cond.estimate is None else [cond.estimate.video]
        parts += [] if cond.fps is None else [embeddings.rate_features(cond.fps, 16)]
        x = jnp.concatenate([jnp.reshape(part, (len(z), -1)) for part in parts], axis=1)
        for _ in range(2):
            x = nn.silu(nn.Dense(self.width)(x))
        out = jnp.reshape(nn.Dense(math.prod(z.shape[1:]))(x), z.shape)
        a, b = jnp.moveaxis(nn.Dense(2)(nn.silu(nn.Dense(64)(level))), 1, 0)
        return expand(a, z) * z + expand(1 + b, z) * out


BASE = DiffusionStage(
    shape=VideoShape(frames=FRAMES, height=HEIGHT, width=WIDTH, fps=FPS),
    network=DenseNetwork(),
    times=schedules.LogitNormalTimes(mean=0.5, std=1.2),
    sampler=SamplerSpec(kind="ddim", steps=16),
)


class World(NamedTuple):
    """All true clips, and what each shows."""

    clips: np.ndarray  # n t h w c
    color: np.ndarray
    way: np.ndarray
    speed: np.ndarray


@functools.cache
def world(frames: int = FRAMES, speeds: Sequence[int] = (1,)) -> World:
    """Draw every clip of so many frames; a speed is in pixels from frame to frame."""
    places = list(itertools.product(speeds, range(len(COLORS)), range(2), TOPS, range(WIDTH)))
    clips = np.empty((len(places), frames, HEIGHT, WIDTH, 3), np.float32)
    for clip, (speed, color, way, y, x) in zip(clips, places, strict=True):
        clip[:] = COLORS[color]
        for i, frame in enumerate(clip):
            columns = (np.arange(SQUARE) + x + WAYS[way] * speed * i) % WIDTH
            frame[y : y + SQUARE, columns] = 1.0
    speed, color, way = (np.array([place[i] for place in places]) for i in range(3))
    return World(clips, color, way, speed)


def prompts(color: Any, way: Any) -> TextEmbedding:
    """Two tokens: one-hot color, one-hot direction."""
    first, second = 3 * jax.nn.one_hot(color, 8), 3 * jax.nn.one_hot(4 + way, 8)
    tokens = jnp.stack([first, second], axis=1)
    return TextEmbedding(tokens=tokens, mask=jnp.ones(tokens.shape[:2], bool))


def draw(key: Any, shown: World, told: bool) -> VideoBatch:
    """Draw a batch, with frame rates if the model is told; the clips stay on the device."""
    which = jax.random.randint(key, (BATCH,), 0, len(shown.clips))
    clips, color, way, speed = (jnp.asarray(array)[which] for array in shown)
    return VideoBatch(
        video=clips,
        text=prompts(color, way),
        independent_frames=jnp.zeros(BATCH, bool),
        fps=FPS / speed if told else None,
    )


def training(
    stage: DiffusionStage, steps: int, batches: Callable[..., VideoBatch]
) -> Callable[[Any], Params]:
    """Build the compiled training of a stage: from a key to the average of its last weights."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(100, steps // 2), steps)
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


def clips_of(stage: DiffusionStage, chunks: int) -> Callable[..., Any]:
    """Build the compiled sampling of clips, each going on `chunks` times from its last frames."""

    def generate(params, text, keys):
        video = stage.generate(params, text, None, keys)
        for chunk in range(chunks):
            beginning = jnp.pad(
                video[:, -CONTEXT:], ((0, 0), (0, FRAMES - CONTEXT)) + 3 * ((0, 0),)
            )
            mask = jnp.broadcast_to(jnp.arange(FRAMES) < CONTEXT, (len(video), FRAMES))
            known = Known(video=beginning, mask=mask[:, :, None, None, None])
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, chunk)
            clip = stage.generate(params, text, None, own, known=known)
            video = jnp.concatenate([video, clip[:, CONTEXT:]], axis=1)
        return video

    return jax.jit(generate)


def read(made: np.ndarray, color: Any, way: Any, speed: float, true: World) -> dict[str, float]:
    """Read clips by the nearest true ones."""
    flat, clips = (np.reshape(x, (len(x), -1)).astype(np.float64) for x in (made, true.clips))
    square = (flat**2).sum(1)[:, None] - 2 * flat @ clips.T + (clips**2).sum(1)
    nearest = square.argmin(1)
    right = (true.color[nearest] == color) & (true.way[nearest] == way)
    right &= true.speed[nearest] == speed
    return {"right": float(right.mean()), "error": float(square.min(1).mean() / clips.shape[1])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the compared models.

    Attributes:
      changes: of the fields of `BASE`.
      samplings: what is changed to make clips, by the name in the table.
      speeds: of the squares that it learns from.
      chunks: how often a clip goes on.
    """

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samplings: Mapping[str, Mapping[str, Any]]
    speeds: Sequence[int] = (1,)
    chunks: int = 0

    def rows(self, flags: argparse.Namespace) -> list[dict[str, Any]]:
        """Train a model of each seed, and read what it makes by every sampling."""
        stage, rows = dataclasses.replace(BASE, **self.changes), []
        shown = world(speeds=self.speeds)
        train = training(
            stage, flags.steps, functools.partial(draw, shown=shown, told=stage.fps_condition)
        )
        made = {}
        for name, changes in self.samplings.items():
            sampled = dataclasses.replace(stage, **changes)
            made[name] = (clips_of(sampled, self.chunks), FPS / sampled.shape.fps)
        true = world(FRAMES + self.chunks * (FRAMES - CONTEXT), self.speeds)
        for seed in range(flags.seeds):
            params, rng = train(jax.random.key(seed)), np.random.default_rng(seed)
            color, way = (rng.integers(count, size=flags.clips) for count in (len(COLORS), 2))
            keys = jax.random.split(jax.random.key(1000 + seed), flags.clips)
            for name, (generate, speed) in made.items():
                clips = np.asarray(generate(params, prompts(color, way), keys))
                rows.append({"sampling": name, "seed": seed} | read(clips, color, way, speed, true))
        return rows


def ladders(kind: str, *steps: int) -> dict[str, dict[str, Any]]:
    """The same sampler with several numbers of steps."""
    return {f"{kind}, {n} steps": {"sampler": SamplerSpec(kind=kind, steps=n)} for n in steps}


def at_rate(fps: float) -> dict[str, Any]:
    """Ask for a frame rate."""
    return {"shape": dataclasses.replace(BASE.shape, fps=fps)}


FLOW = {
    "parameterization": "flow",
    "loss_weight": "flow_mse",
    "schedule": schedules.RectifiedFlow(),
    "times": schedules.LogitNormalTimes(),
}
UNIFORM = FLOW | {"times": schedules.UniformTimes()}
DRAWN = {"guidance": GuidanceSpec(reconstruction=5.0)}
EXPERIMENTS: dict[str, dict[str, Variant]] = {
    "flow": {
        "v, cosine": Variant(samplings=ladders("ddim", 4, 16)),
        "flow, uniform times": Variant(changes=UNIFORM, samplings=ladders("euler", 4, 16)),
        "flow, logit-normal times": Variant(changes=FLOW, samplings=ladders("euler", 4, 16)),
    },
    "self_conditioning": {
        "off": Variant(samplings=ladders("ddim", 4, 16)),
        "on": Variant(changes={"self_conditioning": 0.5}, samplings=ladders("ddim", 4, 16)),
    },
    "long": {
        "shown nothing": Variant(samplings={"replaced": {}, "drawn, 5": DRAWN}, chunks=4),
        "shown frames": Variant(
            changes={"conditioner": EarlierFrames(frames=CONTEXT)},
            samplings={"shown": {}},
            chunks=4,
        ),
    },
    "fps": {
        "not told": Variant(samplings={"8 fps": {}, "4 fps": at_rate(4.0)}, speeds=(1, 2)),
        "told": Variant(
            changes={"fps_condition": True},
            samplings={"8 fps": {}, "4 fps": at_rate(4.0)},
            speeds=(1, 2),
        ),
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
    parser.add_argument("--model", help="one row's model; default: all")
    parser.add_argument("--seeds", type=int, default=2, help="models of each variant; default: 2")
    parser.add_argument("--steps", type=int, default=1500, help="of training; default: 1500")
    parser.add_argument("--clips", type=int, default=192, help="read of each model; default: 192")
    parser.add_argument("-o", "--output", default="options.jsonl", help="a JSON line a row")
    flags = parser.parse_args()
    settings = {name: getattr(flags, name) for name in ("experiment", "steps", "clips")}
    rows: list[dict[str, Any]] = []
    for name, variant in EXPERIMENTS[flags.experiment].items():
        if flags.model not in (None, name):
            continue
        began = time.process_time()
        found = [{"model": name} | row for row in variant.rows(flags)]
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
        rows += found
        with open(flags.output, "a") as log:
            log.writelines(json.dumps(settings | row) + "\n" for row in found)
    print(table(rows))


if __name__ == "__main__":
    main()
