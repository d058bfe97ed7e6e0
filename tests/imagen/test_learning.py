"""A tiny stage learns, in seconds, what a clip of two words looks like and where it moves."""

import dataclasses
import functools

import compiled_programs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_unet as tiny
from flax import linen as nn

from vidgen.diffusion import schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

SHAPE = VideoShape(frames=4, height=8, width=8)
COLORS = np.array([[0.8, -0.8, -0.8], [-0.8, 0.6, -0.8], [-0.8, -0.8, 0.8]], np.float32)
RIGHT, LEFT = 0, 1
STEPS = 280

LEVEL = LevelSpec(width=48, blocks=1, text="attention", temporal="attention+conv", head_dim=16)
MODEL = DiffusionStage(
    shape=SHAPE,
    network=tiny.network([LEVEL], patch=2, cond_width=128, frame_positions=4, pixel_positions=4),
    times=schedules.LogitNormalTimes(mean=0.5, std=1.2),
    guidance=GuidanceSpec(weight=1.0, threshold="static"),
    sampler=SamplerSpec(kind="ddim", steps=16),
)


def clips(color, way, rng):
    """A white 3x3 square that moves one pixel a frame over a plain color."""
    video = np.empty((len(color), *SHAPE.thwc), np.float32)
    video[:] = COLORS[color][:, None, None, None]
    for clip, to in zip(video, way, strict=True):
        y, x = rng.integers(2, 4), rng.integers(1, 3)
        for i, frame in enumerate(clip):
            left = x + (i if to == RIGHT else 3 - i)
            frame[y : y + 3, left : left + 3] = 1.0
    return video


def prompts(color, way):
    """Two tokens: one-hot color, one-hot direction."""
    tokens = np.zeros((len(color), 2, 8), np.float32)
    tokens[np.arange(len(color)), 0, color] = 3
    tokens[np.arange(len(color)), 1, 4 + way] = 3
    return TextEmbedding(tokens=jnp.asarray(tokens), mask=jnp.ones((len(color), 2), bool))


def draw(rng, b=10):
    color, way = rng.integers(len(COLORS), size=b), rng.integers(2, size=b)
    return VideoBatch(
        video=jnp.asarray(clips(color, way, rng)),
        text=prompts(color, way),
        independent_frames=jnp.zeros(b, bool),
    )


def nearest_color(video):
    """Of the median pixel of each clip."""
    middle = np.median(video.reshape(len(video), -1, 3), axis=1)
    return np.argmin(((middle[:, None] - COLORS) ** 2).sum(-1), axis=1)


def direction(video, color):
    """By the slope of the square's center of mass."""
    weight = np.abs(video - COLORS[color][:, None, None, None]).mean(-1)
    weight = np.where(weight > 0.4, weight, 0)
    x = (weight.sum(2) * np.arange(SHAPE.width)).sum(-1) / (weight.sum((2, 3)) + 1e-6)
    return np.where(x @ [-1.5, -0.5, 0.5, 1.5] > 0, RIGHT, LEFT)


@dataclasses.dataclass
class Trained:
    params: dict
    losses: np.ndarray


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    params = nn.meta.unbox(jax.jit(MODEL.init)(jax.random.key(0), draw(rng)))
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0, 4e-3, 20, STEPS, 1e-4))

    @functools.partial(jax.jit, compiler_options=compiled_programs.RUNS_LONG)
    def step(params, state, batch, key):
        gradient = jax.value_and_grad(MODEL.loss, has_aux=True)
        (loss, _), gradient = gradient(params, None, batch, key, train=True)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for i in range(STEPS):
        params, state, loss = step(params, state, draw(rng), jax.random.key(i))
        losses.append(loss)
    return Trained(params, np.asarray(losses))


@pytest.fixture(scope="module")
def samples(trained):
    """(videos, colors, ways) of 24 prompts: each of the 6 four times."""
    color, way = np.arange(24) % 3, np.arange(24) // 3 % 2
    text, keys = prompts(color, way), jax.random.split(jax.random.key(5), 24)
    generate = jax.jit(lambda text, keys: MODEL.generate(trained.params, text, None, keys))
    order = np.random.default_rng(1).permutation(24)
    found = np.asarray(generate(text, keys))
    shuffled = generate(jax.tree.map(lambda x: x[order], text), keys[order])
    np.testing.assert_allclose(shuffled, found[order], atol=1e-4)  # neighbours do not matter
    return found, color, way


def test_readers_read_true_clips():
    color, way = np.arange(24) % 3, np.arange(24) // 3 % 2
    video = clips(color, way, np.random.default_rng(2))
    np.testing.assert_array_equal(nearest_color(video), color)
    np.testing.assert_array_equal(direction(video, color), way)


@pytest.mark.learning
def test_loss_falls(trained):
    assert np.isfinite(trained.losses).all()
    assert trained.losses[:5].mean() > 0.7  # near the mean square of the target
    assert trained.losses[-50:].mean() < 0.2


@pytest.mark.learning
def test_backgrounds_follow_the_prompt(samples):
    video, color, _ = samples
    assert (nearest_color(video) == color).mean() > 0.9


@pytest.mark.learning
def test_motion_follows_the_prompt(samples):
    video, color, way = samples
    assert (direction(video, color) == way).mean() > 0.85
