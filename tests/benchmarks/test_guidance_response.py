"""How far a student follows its guidance weight: closed forms, and a student that learns it."""

import dataclasses
import functools
import sys
from typing import Any

import compiled_programs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_unet as tiny
from places import ROOT

from vidgen.diffusion import parameterization
from vidgen.diffusion.schedules import alpha_sigma, expand
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.distillation import GuidanceDistillation
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.students import student
from vidgen.train.partitioning import unbox
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

sys.path.insert(0, str(ROOT / "benchmarks"))

from guidance_response import guidance_response  # noqa: E402

V = parameterization.by_name("v")


def guided(z, logsnr, text):
    """The exact conditional and unconditional v of pixels c + n, where c is 1 or -1, n ~ N(0, 1).

    The text is c, of each channel, and -c. What is known of z has variance α² + σ² = 1 around αc,
    so that the unconditional mean of c is tanh αz.
    """
    alpha, caption = expand(alpha_sigma(logsnr)[0], z), text.tokens[:, 0, None, None, None, :3]
    known = expand(text.mask[:, 0], z)
    mean = jnp.where(known, caption, jnp.tanh(alpha * z))
    x0 = mean + alpha * (z - alpha * mean)
    return V.target(x0, parameterization.eps_from_x0(x0, z, logsnr), logsnr)


@dataclasses.dataclass(frozen=True)
class ExactTeacher(DenoisingNetwork):
    """A network that is exact as long as it is told no guidance weight, and else `learner`."""

    learner: Any

    def init(self, *args, **kwargs):
        return self.learner.init(*args, **kwargs)

    def apply(self, params, z, logsnr, cond, *, train):
        if cond.guidance_weight is None:
            return guided(z, logsnr, cond.text)
        return self.learner.apply(params, z, logsnr, cond, train=train)

    def clone(self, **changes):
        return ExactTeacher(self.learner.clone(**changes))


@dataclasses.dataclass(frozen=True)
class Answer(DenoisingNetwork):
    """A student that makes `slope` of the teacher's change, and `aside` of something else."""

    slope: float
    aside: float = 0.0

    def init(self, *args, **kwargs):
        return {}

    def apply(self, params, z, logsnr, cond, *, train):
        own = guided(z, logsnr, cond.text)
        null = dataclasses.replace(cond.text, mask=jnp.zeros_like(cond.text.mask))
        added = own - guided(z, logsnr, null)
        # Sign changes in half of the examples: orthogonal to what guidance adds.
        other = added * expand(1 - 2 * (jnp.arange(len(z)) // 2 % 2), z)
        return own + expand(cond.guidance_weight, z) * (self.slope * added + self.aside * other)


def batch(key, size):
    """Videos of one pixel, with captions."""
    caption_key, noise_key = jax.random.split(key)
    c = jax.random.rademacher(caption_key, (size, 3), jnp.float32)
    return VideoBatch(
        video=c[:, None, None, None] + jax.random.normal(noise_key, (size, 1, 1, 1, 3)),
        text=TextEmbedding(
            tokens=jnp.concatenate([c, -c], axis=-1)[:, None], mask=jnp.ones((size, 1), bool)
        ),
        independent_frames=jnp.zeros(size, bool),
    )


def stages(learner, **changes):
    """A student and its teacher."""
    shape = VideoShape(frames=1, height=1, width=1)
    teacher = DiffusionStage(network=ExactTeacher(learner), shape=shape)
    return student(stage=teacher, **changes), teacher


def measured(made, params, teacher, **changes):
    data = [batch(jax.random.key(9), 512)]
    settings = {"weights": (0.0, 2.0)} | changes
    return guidance_response(made, params, teacher, None, data, **settings)


@pytest.mark.parametrize("slope, aside", [(1.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.0, 0.0)])
def test_response_is_the_share_and_the_angle(slope, aside):
    made, teacher = stages(Answer(slope, aside))
    found = measured(made, None, teacher, logsnrs=(-5.0, 1.0), weights=(0.5, 2.0))
    assert [row.logsnr for row in found] == [-5.0, 1.0]
    for row in found:
        assert row.slope == pytest.approx(slope, abs=0.1 * aside + 1e-4)
        assert row.cosine == pytest.approx(slope / max(np.hypot(slope, aside), 1e-9), abs=0.1)
        assert row.student == pytest.approx(np.hypot(slope, aside) * row.teacher, rel=0.1)


def test_response_of_the_teacher_is_what_guidance_adds():
    """Without information on c beside its text: x̂(text) - x̂() = c - tanh αz, and α, z αc -> 0."""
    made, teacher = stages(Answer(1.0))
    (row,) = measured(made, None, teacher, logsnrs=(-18.0,))
    assert row.teacher == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0)])
def test_weights_must_differ(weights):
    made, teacher = stages(Answer(1.0))
    with pytest.raises(ValueError, match="low < high"):
        measured(made, None, teacher, weights=weights)
    with pytest.raises(ValueError, match="guidance_input"):
        measured(teacher, None, teacher)


def test_student_learns_to_follow_its_weight():
    """With the weight in the conditioning vector alone, the slopes were .63 to .82."""
    level = LevelSpec(width=32, blocks=1)
    net = tiny.network((level,), cond_layers=1, pool_queries=1, norm="channel")
    made, teacher = stages(net, guidance_head=True)
    model = GuidanceDistillation(stage=made, weight_range=(0.0, 2.0))
    params = unbox(jax.jit(model.init)(jax.random.key(0), batch(jax.random.key(0), 2)))
    updates = 400
    tx = optax.adam(optax.linear_schedule(1e-2, 0, updates), b2=0.99)

    @functools.partial(jax.jit, compiler_options=compiled_programs.RUNS_LONG)
    def step(params, state, key):
        data_key, loss_key = jax.random.split(key)
        data = batch(data_key, 128)
        grads, _ = jax.grad(model.loss, has_aux=True)(
            params, {"teacher": None}, data, loss_key, train=True
        )
        changes, state = tx.update(grads, state)
        return optax.apply_updates(params, changes), state

    state = tx.init(params)  # XLA runs convolutions inside a scan many times slower
    for key in jax.random.split(jax.random.key(1), updates):
        params, state = step(params, state, key)
    levels = (-8.0, -6.0, -4.0, -2.0, 0.0, 1.0, 2.0, 2.9)
    for row in measured(made, params, teacher, logsnrs=levels):
        assert 0.8 <= row.slope <= 1.2, row
        assert row.cosine > 0.9, row
