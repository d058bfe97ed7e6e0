"""Guidance of a stage: away from a prompt, by another rule, and what a student refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
from constant_clips import Fake

from vidgen.diffusion import sampling
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.diffusion.schedules import alpha_sigma, diffuse, expand
from vidgen.imagen.denoiser import Denoiser
from vidgen.imagen.guided import _Halves
from vidgen.imagen.learned import Learned
from vidgen.imagen.stage import DiffusionStage
from vidgen.nn import platforms
from vidgen.types import Conditioning, Known, TextEmbedding, TextMix, VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)
MEAN, STD = 0.2, 0.3


def prompts(*values):
    """Prompts of one token; None has none."""
    tokens = jnp.array([0.0 if v is None else v for v in values]).reshape(-1, 1, 1)
    return TextEmbedding(tokens=tokens, mask=jnp.array([[v is not None] for v in values]))


def said(z, logsnr, cond):
    """x̂ is the number of the prompt, 0 without one, and a slope over the width besides."""
    number = jnp.sum(jnp.where(cond.text.mask[..., None], cond.text.tokens, 0), (1, 2))
    return expand(number, z) * jnp.linspace(0.5, 1.5, z.shape[3])[:, None] + 0 * z


def stage(function=said, steps=3, kind="ddim", student=False, learned=None, **guidance):
    return DiffusionStage(
        shape=SHAPE,
        network=Fake(function),
        parameterization="x0",
        sampler=SamplerSpec(kind=kind, steps=steps),
        guidance=GuidanceSpec(**guidance),
        guidance_input=student,
        learned=learned,
    )


def made(model, text, count=2, **more):
    keys = jax.random.split(jax.random.key(3), count)
    return np.asarray(jax.jit(model.generate)({}, text, None, keys, **more))


def numbers(model, text, count=2, **more):
    return made(model, text, count, **more).mean((1, 2, 3, 4))


# ---- both halves ---------------------------------------------------------------------------------


def test_halves_in_turn_are_those_of_one_batch(monkeypatch):
    """On one CPU; over several devices, and elsewhere, the network sees all clips at once."""
    sizes = []

    def network(z, logsnr, cond):
        sizes.append(len(z))
        return said(z, logsnr, cond) + 0.1 * z * expand(logsnr, z)

    halves = _Halves(Denoiser(Fake(network), "x0"))
    one_clip = jnp.zeros(6, bool)
    cond = Conditioning(text=prompts(1, None, 2, None, 3, None), independent_frames=one_clip)
    z, logsnr = tiny.normal(0, 6, *SHAPE.thwc), jnp.linspace(-1, 1, 6)
    in_turn = halves({}, cond, z, logsnr, jnp.int32(0))
    assert sizes == [3]  # traced once
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
        assert halves({}, cond, z, logsnr, jnp.int32(0)).shape == z.shape
    monkeypatch.setattr(platforms, "current", lambda: "tpu")
    at_once = halves({}, cond, z, logsnr, jnp.int32(0))
    assert sizes == [3, 6, 6]
    np.testing.assert_allclose(in_turn, at_once, rtol=1e-6)


# ---- negative prompts ----------------------------------------------------------------------------


def test_a_negative_prompt_stands_where_no_text_was():
    """(1 + w) a - w b, for each clip."""
    model, text = stage(weight=2.0), prompts(0.5, 0.25)
    np.testing.assert_allclose(numbers(model, text), [1.5, 0.75], rtol=1e-5)
    away = prompts(0.1, -0.2)
    np.testing.assert_allclose(numbers(model, text, negative=away), [1.3, 1.15], rtol=1e-5)
    nothing = made(model, text, negative=prompts(None, None))
    np.testing.assert_array_equal(nothing, made(model, text))


def test_a_clip_without_a_prompt_is_guided_away_too():
    model = stage(weight=2.0)
    found = numbers(model, prompts(None, None), negative=prompts(0.1, None))
    np.testing.assert_allclose(found, [-0.2, 0.0], rtol=1e-5, atol=1e-7)


def test_both_prompts_of_a_transition_are_guided_away():
    mix = TextMix(first=prompts(0.1, 0.1), second=prompts(0.3, 0.3), weight=jnp.array([0.0, 0.5]))
    found = numbers(stage(weight=1.0), mix, negative=prompts(0.05, 0.05))
    np.testing.assert_allclose(found, [0.15, 0.35], rtol=1e-5)  # 2 a - b, and halfway to 2 c - b


def test_a_student_refuses_a_negative_prompt():
    model = stage(weight=1.0, student=True)
    with pytest.raises(ValueError, match="--negative: .*base .*distilled student"):
        model.generate({}, prompts(0.1), None, jax.random.split(jax.random.key(0), 1),
                       negative=prompts(0.2))  # fmt: skip


# ---- other rules ---------------------------------------------------------------------------------


def test_rescaling_brings_the_spread_back():
    plain, guided, text = stage(), stage(weight=4.0), prompts(0.2, 0.4)
    back = stage(weight=4.0, rescale=0.75)
    spread = [made(model, text).std((1, 2, 3, 4)) for model in (plain, guided, back)]
    np.testing.assert_allclose(spread[2], 0.75 * spread[0] + 0.25 * spread[1], rtol=1e-4)


def test_projection_leaves_what_lies_along_the_prediction():
    """Here guidance only makes the prediction larger, so that nothing of it is left."""
    text = prompts(0.2, 0.4)
    found = made(stage(weight=4.0, parallel=0.0), text)
    np.testing.assert_allclose(found, made(stage(), text), rtol=1e-5, atol=1e-6)
    half = made(stage(weight=4.0, parallel=0.5), text)
    np.testing.assert_allclose(half, 3 * found, rtol=1e-5)


def test_the_interval_is_of_noise_levels():
    """The last step is at the cleanest level and returns its x̂: guided only if that is inside."""
    text = prompts(0.2, 0.4)
    last = float(np.exp(-0.5 * stage().sampler.logsnrs(stage().schedule)[-2]))
    inside = numbers(stage(weight=1.0, interval=(0.0, last * 1.01)), text)
    outside = numbers(stage(weight=1.0, interval=(last * 1.01, np.inf)), text)
    np.testing.assert_allclose(inside, [0.4, 0.8], rtol=1e-5)
    np.testing.assert_allclose(outside, [0.2, 0.4], rtol=1e-5)
    model = stage(weight=1.0, interval=(0.0, last * 1.01))
    assert model.evaluations == 4 and stage(weight=1.0).evaluations == 6


def test_a_student_is_told_the_least_weight_outside_of_the_interval():
    def told(z, logsnr, cond):
        return expand(cond.guidance_weight, z) + 0 * z

    last = float(np.exp(-0.5 * stage().sampler.logsnrs(stage().schedule)[-2]))
    for interval, expected in (((0.0, last * 1.01), 1.5), ((last * 1.01, np.inf), 0.0)):
        model = stage(told, weight=1.5, student=True, interval=interval)
        np.testing.assert_allclose(numbers(model, prompts(0.1, 0.1)), expected)
        assert model.evaluations == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rescale": 0.7}, "--guidance_rescale: .*base .*distilled student"),
        ({"parallel": 0.0}, "--guidance_parallel: .*base .*distilled student"),
        ({"norm": 1.0}, "--guidance_norm: .*base .*distilled student"),
        ({"momentum": -0.5}, "--guidance_momentum: .*base .*distilled student"),
        (
            {"interval": (0.1, 2.0), "learned": Learned(weight_range=(1.0, 4.0))},
            "--guidance_interval: .* no weight below 1",
        ),
    ],
)
def test_what_a_student_cannot_do_is_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        stage(weight=1.0, student=True, **settings)


# ---- from the middle of the schedule -------------------------------------------------------------


def gaussian(z, logsnr, cond):
    """The exact x̂ of pixels of N(MEAN, STD²)."""
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return MEAN + STD**2 * alpha / (alpha**2 * STD**2 + sigma**2) * (z - alpha * MEAN)


def flow(z, start):
    """Where the exact path of such a pixel from a log-SNR ends, at the data."""
    alpha, sigma = alpha_sigma(jnp.asarray(start))
    return MEAN + STD / np.sqrt(alpha**2 * STD**2 + sigma**2) * (z - alpha * MEAN)


@pytest.mark.parametrize("strength", [0.25, 0.75])
def test_a_video_is_changed_along_the_exact_flow(strength):
    model = stage(gaussian, steps=128, kind="dpmpp_3m")
    sampler = dataclasses.replace(model.sampler, strength=strength, spacing="logsnr")
    model = dataclasses.replace(model, sampler=sampler)
    video = jnp.asarray(np.random.default_rng(0).normal(MEAN, STD, (2, *SHAPE.thwc)), jnp.float32)
    found = made(model, prompts(None, None), init=video)
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(3), 2))[:, 1]
    level = sampler.logsnrs(model.schedule)[sampler.first]
    start = diffuse(video, sampling.initial_noise(keys, SHAPE.thwc), jnp.asarray(level))
    np.testing.assert_allclose(found, flow(start, level), atol=2e-3)


@functools.cache
def distance(strength):
    """Root mean square of what a strength changes."""
    sampler = SamplerSpec(kind="ddim", steps=64, strength=strength)
    model = dataclasses.replace(stage(gaussian), sampler=sampler)
    video = jnp.full((1, *SHAPE.thwc), 0.3)
    return float(np.sqrt(np.mean((made(model, prompts(None), 1, init=video) - 0.3) ** 2)))


def test_more_strength_changes_more():
    assert distance(0.02) < 0.05 < distance(0.5) < distance(0.95)
    assert distance(0.95) == pytest.approx(STD, rel=0.3)  # nearly a sample of its own


def test_known_content_has_the_noise_of_the_sample_and_not_the_video(tmp_path):
    """The known frame comes out, beside a video to begin with."""
    sampler = SamplerSpec(kind="ancestral", steps=4, strength=0.5)
    model = dataclasses.replace(stage(gaussian), sampler=sampler)
    video = jnp.full((1, *SHAPE.thwc), 0.3)
    mask = jnp.array([True, False]).reshape(1, 2, 1, 1, 1)
    known = Known(video=jnp.full_like(video, -0.7), mask=mask)
    found = made(model, prompts(None), 1, init=video, known=known)
    np.testing.assert_array_equal(found[:, 0], np.float32(-0.7))


def test_resampling_is_for_known_content_alone():
    text, calls = prompts(0.1), []
    mask = jnp.array([True, False]).reshape(1, 2, 1, 1, 1)
    known = Known(video=jnp.zeros((1, *SHAPE.thwc)), mask=mask)
    again = SamplerSpec(kind="ancestral", steps=5, resample=3, resample_jump=2)
    model = dataclasses.replace(stage(gaussian), sampler=again)
    once = dataclasses.replace(model, sampler=dataclasses.replace(again, resample=1))
    np.testing.assert_array_equal(made(model, text, 1), made(once, text, 1))
    assert np.abs(made(model, text, 1, known=known) - made(once, text, 1, known=known)).max() > 0.01
    keys = jax.random.split(jax.random.key(3), 1)
    model.generate({}, text, None, keys, known=known, on_step=lambda *now: calls.append(now[:2]))
    assert calls[-1] == (13, 13) and len(calls) == 13  # two runs of two steps thrice, and the last


def test_a_strength_and_a_video_go_together():
    keys, text = jax.random.split(jax.random.key(0), 1), prompts(0.1)
    with pytest.raises(ValueError, match="stage base: .*strength is 1.0"):
        stage().generate({}, text, None, keys, init=jnp.zeros((1, *SHAPE.thwc)))
    half = dataclasses.replace(stage(), sampler=SamplerSpec(kind="ddim", steps=4, strength=0.5))
    with pytest.raises(ValueError, match="stage base: .*strength is 0.5"):
        half.generate({}, text, None, keys)


def test_the_program_of_a_step_remembers_what_the_sampler_does():
    """`vidgen plan` compiles it."""
    model = dataclasses.replace(
        stage(weight=1.0, momentum=-0.5), network=tiny.network(tiny.ONE_LEVEL),
        sampler=SamplerSpec(kind="dpmpp_3m", steps=2),
    )  # fmt: skip
    params = jax.eval_shape(model.init, jax.random.key(0), model.batch_spec(1, 4, 5))
    program, arguments = model.step_spec(params, 1, 4, 5)
    _, (first, second), (momentum,) = program.trace(*arguments).out_info
    assert first.shape == second.shape == momentum.shape == (1, *SHAPE.thwc)
