"""Self-conditioning: what the network is told in training and in sampling, and an exact case."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.config import gin_utils
from vidgen.diffusion import guidance, schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.students import student
from vidgen.train.train import Train
from vidgen.types import TextMix, VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=2, width=2)


@dataclasses.dataclass(frozen=True)
class Fake(DenoisingNetwork):
    """A network that is one Python function of (params, z, logsnr, cond)."""

    function: Callable[..., Any]

    def init(self, rngs, *args, **kwargs):
        return {}

    def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
        return self.function(variables, z, logsnr, cond)


def stage(function, **settings):
    given = {"shape": SHAPE, "self_conditioning": 0.5, "parameterization": "x0"}
    return DiffusionStage(network=Fake(function), loss_weight="x_mse", **given | settings)


def batch(b=4):
    video = tiny.normal(0, b, *SHAPE.thwc)
    return VideoBatch(video=video, text=tiny.text(b), independent_frames=jnp.zeros(b, bool))


def plus_one(params, z, logsnr, cond):
    """One more than the estimate that it is told."""
    return cond.estimate.video + params


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_share_of_the_batches_is_told_what_the_network_makes_without(rate):
    """The output is 1 with an estimate of 0, and 2 with that of 1; the video is 0."""
    data = batch().replace(video=jnp.zeros((4, *SHAPE.thwc)))
    model = stage(plus_one, self_conditioning=rate)
    losses = jax.vmap(lambda key: model.loss(jnp.ones(()), None, data, key, train=True)[0])
    found = np.asarray(jax.jit(losses)(jax.random.split(jax.random.key(0), 1000)))
    assert set(found.tolist()) == ({4.0} if rate == 1 else {1.0, 4.0})
    assert np.mean(np.equal(found, 4.0)) == pytest.approx(rate, abs=0.05)


def test_no_gradient_flows_through_the_estimate():
    """d (p + p')² / dp of the output p + p' with p' held is 2 · 2 p, not 2 · 2 · 2 p."""
    data = batch().replace(video=jnp.zeros((4, *SHAPE.thwc)))
    model = stage(plus_one, self_conditioning=1.0)
    slope = jax.grad(lambda p: model.loss(p, None, data, jax.random.key(0), train=True)[0])
    assert float(slope(jnp.float32(3.0))) == pytest.approx(2 * (3 + 3), rel=1e-6)


@pytest.mark.parametrize("kind", ["ddim", "ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_sampling_tells_each_step_the_estimate_before(kind, weight):
    """Each step adds one to the estimate, from 0 on: N steps make N."""
    spec = SamplerSpec(kind=kind, steps=5)
    model = stage(plus_one, sampler=spec, guidance=GuidanceSpec(weight=weight))
    keys = jax.random.split(jax.random.key(0), 3)
    made = model.generate(jnp.ones(()), tiny.text(3), None, keys)
    np.testing.assert_allclose(made, 5.0, rtol=1e-5)
    steps = []
    again = model.generate(
        jnp.ones(()), tiny.text(3), None, keys, on_step=lambda *step: steps.append(step)
    )
    np.testing.assert_array_equal(again, made)
    assert len(steps) == 5


def test_clips_keep_their_own_estimates_in_pairs_and_mixtures():
    """The first estimate of a clip is its own z; it must come back to it, not to a neighbor."""

    def first_z(params, z, logsnr, cond):
        is_first = jnp.all(cond.estimate.video == 0, axis=(1, 2, 3, 4), keepdims=True)
        return jnp.where(is_first, z, cond.estimate.video)

    model = stage(
        first_z, sampler=SamplerSpec(kind="ddim", steps=4), guidance=GuidanceSpec(weight=1.0)
    )
    keys, text = jax.random.split(jax.random.key(0), 3), tiny.text(3)
    alone = np.asarray(model.generate(None, text, None, keys))
    assert np.abs(alone[0] - alone[1]).min() > 0
    mix = TextMix(first=text, second=tiny.text(3, seed=9), weight=jnp.full(3, 0.25))
    np.testing.assert_allclose(model.generate(None, mix, None, keys), alone, atol=1e-5)


def test_an_exact_estimate_makes_an_exact_sample():
    """A denoiser that answers with its estimate once it has one keeps the first x̂ to the end."""

    def kept(params, z, logsnr, cond):
        alpha = schedules.alpha_sigma(schedules.expand(logsnr, z))[0]
        of_z = alpha * z  # E(x | z) of N(0, 1)
        known = jnp.any(cond.estimate.video != 0, axis=(1, 2, 3, 4), keepdims=True)
        return jnp.where(known, cond.estimate.video, of_z)

    model = stage(kept, sampler=SamplerSpec(kind="ddim", steps=6))
    keys = jax.random.split(jax.random.key(0), 2)
    levels = model.sampler.logsnrs(model.schedule)
    _, z, _ = model._start(None, tiny.text(2), None, keys, None)
    first = schedules.alpha_sigma(jnp.float32(levels[0]))[0] * z
    np.testing.assert_allclose(
        model.generate(None, tiny.text(2), None, keys), first, rtol=1e-5, atol=1e-9
    )


def test_off_the_network_and_what_it_makes_are_as_they_were():
    net, given = tiny.network(), tiny.inputs()
    with_estimate = dataclasses.replace(stage(plus_one), network=net)
    without = dataclasses.replace(with_estimate, self_conditioning=0.0)
    data = VideoBatch(
        video=given[0], text=given[2].text, independent_frames=given[2].independent_frames
    )
    shapes = [
        {jax.tree_util.keystr(k): v.shape for k, v in jax.tree.flatten_with_path(found)[0]}
        for found in (
            jax.eval_shape(model.init, jax.random.key(0), data)
            for model in (without, with_estimate)
        )
    ]
    (stem,) = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert shapes[0].keys() == shapes[1].keys() and "stem" in stem
    assert (shapes[0][stem][-2], shapes[1][stem][-2]) == (3, 6)


def test_gin_reaches_it_and_wrong_values_are_explained():
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin"]
    setting = "base/DiffusionStage.self_conditioning=0.5"
    with gin_utils.session(files, ["MODEL_DIR='m'", setting]):
        assert gin_utils.build(Train).trainer.model.self_conditioning == 0.5
    with pytest.raises(ValueError, match=r"self_conditioning is 1.5.*\[0, 1\]"):
        stage(plus_one, self_conditioning=1.5)
    with pytest.raises(ValueError, match="base .*self-conditioned.*student"):
        student(stage=stage(plus_one))


def test_one_evaluation_by_itself_has_no_estimate():
    cond = guidance.pair(
        *(2 * [stage(plus_one).conditioner.for_training(batch(2), jax.random.key(0))[1]])
    )
    z, logsnr = tiny.normal(0, 4, *SHAPE.thwc), jnp.zeros(4)
    np.testing.assert_array_equal(stage(plus_one).denoise(jnp.ones(()), cond, z, logsnr), 1.0)
