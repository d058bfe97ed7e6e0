"""Targets and losses of distillation against closed forms; phases, and students that learn.

Tests of vidgen/imagen/students.py too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_unet as tiny

from vidgen.diffusion import parameterization, samplers, schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import SpatialUpsample
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.distillation import (
    GuidanceDistillation,
    ProgressiveDistillation,
    two_step_target,
)
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.students import StudentSchedule, student
from vidgen.model import Student
from vidgen.train.partitioning import unbox
from vidgen.types import VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)
COSINE = schedules.Cosine()
# The DDIM map of the Gaussian teacher from pure noise to data with 64 steps.
SLOPE, INTERCEPT = 0.38897080427, 0.49999117037


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def gaussian(z, logsnr, mean=0.5, std=0.4):
    """The exact denoiser of data N(mean, std²)."""
    logsnr = logsnr.reshape(logsnr.shape + (1,) * (z.ndim - logsnr.ndim))
    alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
    variance = jax.nn.sigmoid(logsnr) * std**2 + jax.nn.sigmoid(-logsnr)
    return mean + std**2 * alpha / variance * (z - alpha * mean)


def level(u):
    return COSINE(jnp.asarray(u, jnp.float64 if jax.config.jax_enable_x64 else jnp.float32))


def paper_target(z, t, mid, s):
    """The target as progressive distillation prints it, in numpy's double precision."""

    def amplitudes(logsnr):
        return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))

    def ddim(z, x0, t, s):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = amplitudes(t), amplitudes(s)
        return alpha_s * x0 + sigma_s * (z - alpha_t * x0) / sigma_t

    def denoise(z, logsnr):
        alpha, sigma = amplitudes(logsnr)
        return 0.5 + 0.16 * alpha / (0.16 * alpha**2 + sigma**2) * (z - alpha * 0.5)

    half = ddim(z, denoise(z, t), t, mid)
    end = ddim(half, denoise(half, mid), mid, s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = amplitudes(t), amplitudes(s)
    return (end - sigma_s / sigma_t * z) / (alpha_s - sigma_s / sigma_t * alpha_t)


# ---- the target ----------------------------------------------------------------------------------


def test_published_example(x64):
    t, mid, s = level(0.75), level(0.625), level(0.5)
    z = jnp.full((1, 1), 0.3)
    x0 = two_step_target(gaussian, z, t, mid, s)
    eps = parameterization.eps_from_x0(x0, z, t)
    assert float(x0[0, 0]) == pytest.approx(0.5100448874, abs=1e-9)
    assert float(eps[0, 0]) == pytest.approx(0.1134396390, abs=1e-9)
    v = parameterization.by_name("v").target(x0, eps, t)
    assert float(v[0, 0]) == pytest.approx(-0.4278017518, abs=1e-9)
    landed = samplers.ddim_step(z, x0, t, s)
    assert float(landed[0, 0]) == pytest.approx(0.4408701366, abs=1e-9)


def test_last_interval_is_the_second_prediction(x64):
    z = jnp.full((1, 1), 0.3)
    x0 = two_step_target(gaussian, z, level(0.25), level(0.125), jnp.asarray(jnp.inf))
    assert float(x0[0, 0]) == pytest.approx(0.3972741758, abs=1e-9)


def test_target_is_the_printed_formula_where_that_is_stable(x64):
    z = tiny.normal(1, 50, 3).astype(jnp.float64)
    t, mid, s = jnp.sort(jax.random.uniform(jax.random.key(0), (3, 50), jnp.float64, -6, 6), axis=0)
    found = jax.jit(two_step_target, static_argnums=0)(gaussian, z, t, mid, s)
    expected = paper_target(*(np.asarray(a) for a in (z, t[:, None], mid[:, None], s[:, None])))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("steps", [1, 8, 1024, 8192])
def test_float32_is_as_good_as_double(steps):
    """Close to data the printed formula loses all digits; a mean of two predictions loses none."""
    i = np.unique(np.geomspace(1, steps, 30).astype(int))
    u = np.stack([i, i - 0.5, i - 1]) / steps
    z = np.full((len(i), 1), 0.3)

    def target(dtype):
        def run(z, u):
            return two_step_target(gaussian, z, *map(COSINE, u))

        return jax.jit(run)(jnp.asarray(z, dtype), jnp.asarray(u, dtype))

    single = target(jnp.float32)
    with jax.enable_x64(True):
        double = target(jnp.float64)
    np.testing.assert_allclose(single, double, atol=5e-6)


def test_constant_teacher_is_its_own_target():
    """Whatever the levels, also at the ends of the schedule."""
    levels = [level([1.0, 0.5, 0.1]), level([0.9, 0.4, 0.05]), jnp.array([-1.0, 2.0, jnp.inf])]
    z = tiny.normal(0, 3, 4)
    found = two_step_target(lambda z, logsnr: jnp.full_like(z, 0.7), z, *levels)
    np.testing.assert_allclose(found, 0.7, rtol=1e-6)


# ---- halving a Gaussian teacher in closed form ---------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Affine:
    """A denoiser that knows N levels, u = i/N, with x̂ = slope z + intercept at each."""

    slopes: Any
    intercepts: Any

    def __call__(self, z, logsnr, step=None):
        known = level(jnp.arange(1, len(self.slopes) + 1) / len(self.slopes))
        nearest = jnp.argmin(jnp.abs(logsnr[:, None] - known), axis=1)
        return self.slopes[nearest, None] * z + self.intercepts[nearest, None]

    @classmethod
    def of(cls, function, count):
        """The affine function that gives `function`'s values at z = 0 and z = 1."""
        i = jnp.arange(1.0, count + 1)
        zero, one = jax.jit(lambda i: [function(jnp.full((count, 1), z), i) for z in (0.0, 1.0)])(i)
        return cls((one - zero)[:, 0], zero[:, 0])


def sampled(denoiser):
    """(slope, intercept) of the map from noise to data by DDIM; numpy compiles nothing."""
    slopes, intercepts = np.asarray(denoiser.slopes), np.asarray(denoiser.intercepts)
    ladder = np.asarray(level(jnp.arange(len(slopes) + 1) / len(slopes)))
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-ladder))), np.sqrt(1 / (1 + np.exp(ladder)))
    z = np.array([0.0, 1.0])
    for i in range(len(slopes), 0, -1):
        x0 = slopes[i - 1] * z + intercepts[i - 1]
        z = alpha[i - 1] * x0 + sigma[i - 1] / sigma[i] * (z - alpha[i] * x0)
    return x0[1] - x0[0], x0[0]  # the last step returns the prediction itself


def progressive(steps, **changes):
    return ProgressiveDistillation(stage=make_student(steps=steps), steps=steps, **changes)


def test_halving_a_gaussian_teacher_to_one_step_keeps_its_map(x64):
    denoiser: Any = Affine.of(lambda z, i: gaussian(z, level(i / 64)), 64)
    assert sampled(denoiser) == pytest.approx((SLOPE, INTERCEPT), abs=1e-10)
    for steps in (32, 16, 8, 4, 2, 1):
        levels = progressive(steps).step_levels
        denoiser = Affine.of(
            lambda z, i, d=denoiser, levels=levels: two_step_target(d, z, *levels(i)), steps
        )
        assert sampled(denoiser) == pytest.approx((SLOPE, INTERCEPT), abs=1e-10)


def test_stochastic_student_jumps_as_far_as_two_steps(x64):
    """From every t = i/N: two steps of the teacher, and from 1/N one."""
    steps = 8
    levels = progressive(steps, stochastic=True).step_levels(jnp.arange(1.0, steps + 1))
    z = tiny.normal(0, steps, 1).astype(jnp.float64)
    target = two_step_target(gaussian, z, *levels)
    assert float(target[0, 0]) == float(gaussian(z[:1], levels.t[:1])[0, 0])
    ladder = level(jnp.arange(0.0, steps + 1) / steps)
    for i in range(2, steps + 1):
        t, mid, s = (ladder[j][None] for j in (i, i - 1, i - 2))
        one = z[i - 1 : i]
        half = samplers.ddim_step(one, gaussian(one, t), t, mid)
        end = (
            gaussian(half, mid) if i == 2 else samplers.ddim_step(half, gaussian(half, mid), mid, s)
        )
        landed = target[i - 1 : i] if i == 2 else samplers.ddim_step(one, target[i - 1 : i], t, s)
        np.testing.assert_allclose(landed, end, rtol=1e-12)


@pytest.mark.parametrize("stochastic", [False, True])
def test_levels_are_those_of_the_grid_and_evenly_drawn(stochastic):
    model = progressive(4, stochastic=stochastic)
    draw = jax.vmap(lambda key: model.levels(key, 8).t)
    t = jax.jit(draw)(jax.random.split(jax.random.key(0), 300)).ravel()
    values, counts = np.unique(np.round(t, 4), return_counts=True)
    np.testing.assert_allclose(values, np.sort(level(jnp.arange(1, 5) / 4)), atol=1e-4)
    assert counts.tolist() == [600] * 4  # two of eight each: the draws are stratified


# ---- losses --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fake(DenoisingNetwork):
    """A network that is one Python function of (params, z, logsnr, cond)."""

    function: Callable[..., Any]

    def init(self, rngs, *args, **kwargs):
        return {"weight": jnp.zeros(())}

    def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
        assert not train and rngs is None  # targets are a function of what is seen: no dropout
        return self.function(variables, z, logsnr, cond)


def prompt_value(cond):
    """A number per example; 0 for the null prompt."""
    return (
        jnp.where(cond.text.mask[:, :, None], cond.text.tokens, 0).sum((1, 2)).reshape(-1, *[1] * 4)
    )


def make_stage(function=None, **changes):
    network = tiny.network(tiny.ONE_LEVEL) if function is None else Fake(function)
    return DiffusionStage(**{"network": network, "shape": SHAPE} | changes)


def make_student(function=None, *, steps=8, kind="ddim", **changes):
    return student(stage=make_stage(function, **changes), steps=steps, kind=kind)


def batch(b=8, shape=SHAPE):
    return VideoBatch(
        video=tiny.normal(0, b, *shape.thwc),
        text=tiny.text(b),
        independent_frames=jnp.zeros(b, bool),
    )


def loss_of(model, params, teacher, data, seed=0):
    def loss(key):
        return model.loss(params, {"teacher": teacher}, data, key, train=True)

    found, metrics = jax.jit(loss)(jax.random.key(seed))
    return float(found), metrics


def by_weight(cond):
    """(1 + w) times the prompt for a student; the prompt for a teacher."""
    if cond.guidance_weight is None:
        return prompt_value(cond)
    return (1 + cond.guidance_weight.reshape(-1, *[1] * 4)) * prompt_value(cond)


@pytest.mark.parametrize("name", ["v", "x0", "edm", "flow", "eps"])
def test_guidance_loss_of_the_guided_model_is_zero(name):
    """The unconditional half of this teacher is 0, so the guided one is (1 + w) times the text."""
    model = GuidanceDistillation(
        stage=make_student(lambda p, z, logsnr, cond: z + by_weight(cond), parameterization=name)
    )
    loss, metrics = loss_of(model, None, None, batch())
    assert loss == pytest.approx(0, abs=1e-9)
    assert set(metrics) == {"loss_noisy", "loss_middle", "loss_clean"}


def test_guidance_loss_is_the_weighted_distance():
    """A student that ignores w misses w times the prompt; E w² = 4²/3 for w ~ U[0, 4]."""
    model = GuidanceDistillation(
        stage=make_student(lambda p, z, logsnr, cond: z + prompt_value(cond))
    )
    data = batch(64)
    losses = jax.vmap(lambda key: model.loss(None, {"teacher": None}, data, key, train=True)[0])
    found = jax.jit(losses)(jax.random.split(jax.random.key(0), 200)).mean()
    expected = 16 / 3 * jnp.mean(prompt_value(data) ** 2)
    assert float(found) == pytest.approx(float(expected), rel=0.03)


def test_guidance_without_weight_is_the_teacher_bit_for_bit():
    """A real network: what reads w begins at zero, so the student begins as its teacher."""
    teacher_stage = make_stage()
    made = student(stage=teacher_stage, guidance_head=True)
    model = GuidanceDistillation(stage=made, weight_range=(0.0, 0.0))
    data = batch(2)
    z, logsnr, cond = tiny.inputs(2, *SHAPE.thwc[:3])
    told = cond.replace(guidance_weight=jnp.zeros(2))
    teacher = tiny.random_params(teacher_stage.network, z, logsnr, cond)

    @jax.jit  # compiles these layers alone
    def fresh(key):
        params = unbox(model.init(key, data))["params"]
        return {name: params[name] for name in set(params) - set(teacher["params"])}

    own = fresh(jax.random.key(0))
    assert set(own) == {"guidance_weight", "guidance_head"}
    params = {"params": teacher["params"] | own}
    expected = jax.jit(teacher_stage.denoise)(teacher, cond, z, logsnr)
    assert np.abs(expected).max() > 0.1
    for weight in (0.0, 3.0):  # until it has learned, it does not look at w at all
        told = cond.replace(guidance_weight=jnp.full(2, weight))
        found = jax.jit(model.stage.denoise)(params, told, z, logsnr)
        np.testing.assert_array_equal(found, expected)
    assert loss_of(model, params, teacher, data)[0] == pytest.approx(0, abs=1e-9)


def test_both_see_the_same_augmented_video_and_the_student_keeps_its_text():
    seen = []

    def note(params, z, logsnr, cond):
        seen.append((z, logsnr, cond))
        return z

    stage = make_student(note, conditioner=SpatialUpsample())
    data = batch(4)

    @jax.jit
    def run(key):
        seen.clear()
        GuidanceDistillation(stage=stage).loss(None, {"teacher": None}, data, key, train=True)
        return list(seen)

    teacher, own = run(jax.random.key(0))
    for half in (0, 1):
        both = jax.tree.map(lambda x, half=half: x[half::2], teacher)
        np.testing.assert_array_equal(both[0], own[0])
        np.testing.assert_array_equal(both[1], own[1])
        np.testing.assert_array_equal(both[2].low_res, own[2].low_res)
        np.testing.assert_array_equal(both[2].aug_logsnr, own[2].aug_logsnr)
    np.testing.assert_array_equal(own[2].text.mask, data.text.mask)
    np.testing.assert_array_equal(teacher[2].text.mask[0::2], data.text.mask)
    assert not teacher[2].text.mask[1::2].any()
    assert teacher[2].guidance_weight is None


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["v", "x0", "edm", "flow"])
def test_progressive_target_in_any_output_space(name, stochastic):
    """A step of what the student should output lands where the teacher's two steps land."""
    head = parameterization.by_name(name)

    def network(params, z, logsnr, cond):
        # A Gaussian teacher that leans to its weight and its text, as an output of this kind.
        x0 = gaussian(z, logsnr) + 0.1 * by_weight(cond)
        return head.target(x0, parameterization.eps_from_x0(x0, z, logsnr), logsnr)

    stage = make_student(network, steps=4, parameterization=name)
    model = ProgressiveDistillation(stage=stage, steps=4, stochastic=stochastic)
    levels = model.step_levels(jnp.array([3.0, 4.0]))
    z, _, cond = tiny.inputs(2, *SHAPE.thwc[:3])
    weight = jnp.array([0.5, 2.0])
    told = cond.replace(guidance_weight=weight)
    out = jax.jit(model.target)(None, cond, weight, z, levels)
    landed = samplers.ddim_step(z, head.to_x0(out, z, levels.t), levels.t, levels.s)
    half = samplers.ddim_step(z, stage.denoise(None, told, z, levels.t), levels.t, levels.mid)
    second = stage.denoise(None, told, half, levels.mid)
    expected = samplers.ddim_step(half, second, levels.mid, levels.s)
    np.testing.assert_allclose(landed, expected, rtol=2e-4, atol=2e-4)


def test_a_student_learns_the_exact_target():
    """Two slopes and two intercepts against a Gaussian teacher of four steps."""

    def network(params, z, logsnr, cond):
        if params is None:
            return gaussian(z, logsnr)
        early = (logsnr < -5)[:, None, None, None, None]  # t = 1; the other level is t = 1/2
        slope = jnp.where(early, *params["slopes"])
        return slope * z + jnp.where(early, *params["intercepts"])

    stage = make_student(network, steps=2, parameterization="x0")
    model = ProgressiveDistillation(stage=stage, steps=2)
    tx, data = optax.adam(0.05), batch(16)
    params = {"slopes": jnp.zeros(2), "intercepts": jnp.zeros(2)}

    def step(carry, key):
        params, state = carry
        (loss, _), grads = jax.value_and_grad(
            lambda p: model.loss(p, {"teacher": None}, data, key, train=True), has_aux=True
        )(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(jax.random.key(0), 400)
    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), keys))
    (learned, _), losses = run(params)
    assert losses[-1] < 1e-3 * losses[0]
    exact = Affine.of(lambda z, i: two_step_target(gaussian, z, *model.step_levels(i)), 2)
    np.testing.assert_allclose(learned["slopes"][::-1], exact.slopes, atol=0.01)
    np.testing.assert_allclose(learned["intercepts"][::-1], exact.intercepts, atol=0.01)


# ---- students and their phases -------------------------------------------------------------------


def test_student_of_a_stage():
    stage = make_stage(sampler=SamplerSpec(kind="ancestral", steps=256, gamma=0.1), name="ssr1")
    made = student(stage=stage, steps=4, kind="ddim")
    assert made.guidance_input and made.name == "ssr1"
    assert (made.sampler.kind, made.sampler.steps) == ("ddim", 4)
    changes = {"guidance_input": False, "learned": None, "sampler": stage.sampler}
    assert dataclasses.replace(made, **changes) == stage


def test_student_generates_with_its_weight():
    """Each step's weight of oscillating guidance reaches the network; one evaluation a step."""
    seen = []

    def note(params, z, logsnr, cond):
        assert z.shape[0] == 2
        seen.append(cond.guidance_weight)
        return z * 0 + cond.guidance_weight.reshape(-1, *[1] * 4)

    spec = GuidanceSpec(weight=3.0, low=1.0, constant_fraction=0.5)
    made = make_student(note, steps=4, parameterization="x0", guidance=spec)
    keys = jax.random.split(jax.random.key(0), 2)
    video = jax.jit(made.generate)(None, tiny.text(2), None, keys)
    np.testing.assert_array_equal(video, 1.0)  # weights 3, 3, 3, 1; the last step returns x̂
    assert len(seen) == 1  # traced once, in a scan


def test_phases():
    made = make_student(steps=2, kind="stochastic")
    course = StudentSchedule(student=made, start_steps=8, train_steps=7, guidance_train_steps=3)
    phases = course.phases()
    assert [(p.name, p.train_steps) for p in phases] == [
        ("01_guidance", 3),
        ("02_steps_4", 7),
        ("03_steps_2", 7),
        ("04_stochastic_2", 7),
    ]
    assert [p.model.stage.sampler.steps for p in phases] == [8, 4, 2, 2]
    assert [p.model.stage.sampler.kind for p in phases] == ["ddim"] * 3 + ["stochastic"]
    assert not phases[0].model.teacher.guidance_input
    assert all(p.model.teacher.guidance_input for p in phases[1:])
    assert phases[-1].model.stage == made
    for phase in phases:
        assert isinstance(phase.model, Student)


def test_phases_for_ddim_end_with_the_last_halving():
    made = make_student(steps=4)
    names = [p.name for p in StudentSchedule(student=made, start_steps=8, train_steps=1).phases()]
    assert names == ["01_guidance", "02_steps_4"]
    names = [p.name for p in StudentSchedule(student=made, start_steps=4, train_steps=1).phases()]
    assert names == ["01_guidance"]


def make_course(**changes):
    made = make_student(steps=8, guidance=changes.pop("guidance", GuidanceSpec()))
    return StudentSchedule(**{"student": made, "train_steps": 1} | changes)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: student(stage=make_student()), "base .*distilled student; .*be a teacher"),
        (
            lambda: student(stage=make_stage(), kind="ancestral"),
            "'ancestral'.*'ddim', 'stochastic'",
        ),
        (lambda: make_course(start_steps=4), r"START_STEPS is 4\b.* 32, 64 or 128"),
        (lambda: make_course(start_steps=24), "START_STEPS is 24"),
        (lambda: make_course(start_steps=20), "START_STEPS is 20"),
        (lambda: make_course(train_steps=0), "StudentSchedule.train_steps is 0"),
        (lambda: make_course(guidance_train_steps=0), "guidance_train_steps is 0; .* >= 1"),
        (
            lambda: make_course(guidance=GuidanceSpec(weight=9.0)),
            "guidance 9.0.*GUIDANCE_RANGE, 0 to 4",
        ),
        (lambda: make_course(weight_range=(2.0, 4.0)), "guidance 0.0.*GUIDANCE_RANGE, 2 to 4"),
        (lambda: make_course(weight_range=(4.0, 0.0)), r"\(4.0, 0.0\).*low <= high"),
        (lambda: make_course(weight_range=(4.0,)), r"\(4.0,\).*\(low, high\)"),
        (lambda: GuidanceDistillation(stage=make_stage()), "is no student"),
        (
            lambda: GuidanceDistillation(stage=make_student(), weight_range=(-1.0, 1.0)),
            "0 <= low <= high",
        ),
        (lambda: progressive(0), "SamplerSpec.steps is 0"),
        (lambda: progressive(1, stochastic=True), "steps is 1.*>= 2 .*stochastic"),
        (
            lambda: ProgressiveDistillation(stage=make_student(parameterization="eps"), steps=2),
            "eps output .*v output",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
