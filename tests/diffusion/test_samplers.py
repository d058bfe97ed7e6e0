"""Sampling steps against closed forms of Gaussian data, and the loop over them.

Tests of vidgen/diffusion/sampling.py too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.diffusion import guidance, samplers, sampling, schedules
from vidgen.diffusion.sampler_step import StepLevels
from vidgen.diffusion.samplers import (
    Ancestral,
    Ddim,
    DpmSolverPP2M,
    Euler,
    Sampler,
    SamplerSpec,
    StochasticNStep,
)
from vidgen.diffusion.sampling import sample
from vidgen.diffusion.schedules import Cosine, LinearBetas, RectifiedFlow, alpha_sigma, expand

KINDS = ("ddim", "ancestral", "stochastic", "dpmpp_2m", "euler")
every_kind = pytest.mark.parametrize("kind", KINDS)


def some_keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def ladder(steps, **settings):
    return SamplerSpec(kind="ddim", steps=steps, **settings).logsnrs(Cosine())


def curved(z, logsnr, step):
    """A denoiser that is not affine and mixes the positions of an example."""
    return jnp.tanh(z + 0.3 * z.mean(axis=tuple(range(1, z.ndim)), keepdims=True)) + 0.01 * step


# ---- one step ------------------------------------------------------------------------------------


def step(sampler, keys, z, x0, levels, x0_before=0.0):
    """One step of a sampler whose denoiser always says x0."""
    moved, found = sampler(lambda z, logsnr: x0, keys, z, x0_before + 0 * z, levels)
    np.testing.assert_array_equal(found, x0)
    return moved


def step_levels():
    t, s = (Cosine()(jnp.array(u)) for u in (0.6, 0.4))
    return StepLevels(jnp.array(-jnp.inf), t, s, s)


def test_ddim_step_in_three_forms(x64):
    levels = step_levels()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(levels.t), alpha_sigma(levels.s)
    z, x0 = jnp.array([[0.5]]), jnp.array([[0.2]])
    got = step(Ddim(), some_keys(1), z, x0, levels).item()
    assert got == pytest.approx(0.4396676371, rel=1e-9)
    eps = (z - alpha_t * x0) / sigma_t
    assert got == pytest.approx((alpha_s * x0 + sigma_s * eps).item(), rel=1e-12)
    turn = jnp.arctan2(sigma_s, alpha_s) - jnp.arctan2(sigma_t, alpha_t)
    v = alpha_t * eps - sigma_t * x0
    assert got == pytest.approx((jnp.cos(turn) * z + jnp.sin(turn) * v).item(), rel=1e-12)


def test_ddim_steps_compose_along_a_straight_path(x64):
    levels = Cosine()(jnp.array([0.9, 0.5, 0.2]))
    x0, eps = jnp.array([0.7]), jnp.array([-1.2])
    z = [schedules.diffuse(x0, eps, level) for level in levels]
    middle = samplers.ddim_step(z[0], x0, levels[0], levels[1])
    np.testing.assert_allclose(middle, z[1], rtol=1e-10)
    np.testing.assert_allclose(samplers.ddim_step(middle, x0, *levels[1:]), z[2], rtol=1e-10)
    np.testing.assert_allclose(samplers.ddim_step(z[2], x0, levels[2], levels[0]), z[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("gamma", "std"),
    [
        (0.0, 0.4992218657),
        (0.1, 0.5154264076),
        (0.3, 0.5494305438),
        (0.5, 0.5856780290),
        (1.0, 0.6871068302),
    ],
)
def test_ancestral_step(x64, gamma, std):
    levels, keys = step_levels(), some_keys(1)
    z, x0 = jnp.array([[0.5]]), jnp.array([[0.2]])
    sampler = Ancestral(gamma=gamma)
    assert float(sampler.noise_std(levels.t, levels.s)) == pytest.approx(std, rel=1e-9)
    noise = samplers.normal_like(keys, z)
    got = step(sampler, keys, z, x0, levels)
    np.testing.assert_allclose(got, 0.3084830371 + std * noise, rtol=1e-8)


def test_stochastic_step_goes_two_levels_down_and_one_up(x64):
    t, s, k = Cosine()(jnp.array([1.0, 0.875, 0.75]))
    keys, z, x0 = some_keys(1), jnp.array([[0.5]]), jnp.array([[0.2]])
    got = step(StochasticNStep(), keys, z, x0, StepLevels(t, t, s, k))
    down = samplers.ddim_step(z, x0, t, k)
    noise = samplers.normal_like(keys, z)
    np.testing.assert_allclose(got, 0.509855 * down + 0.860260 * noise, atol=2e-6)


def test_first_2m_step_is_ddim():
    levels = step_levels()
    z, x0 = jnp.array([[0.5]]), jnp.array([[0.2]])
    got = step(DpmSolverPP2M(), some_keys(1), z, x0, levels)
    np.testing.assert_array_equal(got, step(Ddim(), some_keys(1), z, x0, levels))


# ---- the whole loop, on Gaussian data ------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        *((1, 0.5000094), (2, 0.6793085), (4, 0.8222497), (8, 0.9141585), (16, 0.9647593)),
        *((32, 0.9916888), (64, 1.0056532), (128, 1.0127734), (256, 1.0163697)),
        (1024, 1.0190833),
    ],
)
def test_ddim_table(x64, gaussian, steps, expected):
    got = sample(gaussian, Ddim(), logsnrs=ladder(steps), z=jnp.array([1.3]), keys=some_keys(1))
    assert got.item() == pytest.approx(expected, abs=6e-8)


def test_euler_steps_of_a_flow_by_hand(x64):
    """x = z/(α + σ) goes from .8 at t = .6 by a velocity of (.8 - .2)/.6 to .6 at t = .4."""
    levels = RectifiedFlow()(jnp.array([0.6, 0.4]))
    total_t, total_s = (sum(alpha_sigma(level)) for level in levels)
    z, x0 = jnp.array([[0.8]]) * total_t, jnp.array([[0.2]])
    at = StepLevels(jnp.array(-jnp.inf), levels[0], levels[1], levels[1])
    got = step(Euler(), some_keys(1), z, x0, at)
    assert (got / total_s).item() == pytest.approx(0.6, rel=1e-12)
    ddim = step(Ddim(), some_keys(1), z, x0, at)
    np.testing.assert_allclose(got, ddim, rtol=1e-12)  # an arc in z, straight in x


def test_euler_steps_of_a_flow_bring_gaussian_data_to_its_exact_samples(x64, gaussian):
    """The error of the whole way halves with the step; `gaussian.flow` is the exact end."""
    z, keys = jnp.array([1.3]), some_keys(1)
    levels = [SamplerSpec(kind="euler", steps=n).logsnrs(RectifiedFlow()) for n in (64, 128, 256)]
    exact = gaussian.flow(1.3, jnp.array(-20.0), jnp.array(20.0))
    errors = [
        abs(sample(gaussian, Euler(), logsnrs=x, z=z, keys=keys) - exact).item() for x in levels
    ]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_exact_flow_of_the_gaussian(x64, gaussian):
    got = gaussian.flow(1.3, jnp.array(-20.0), jnp.array(20.0))
    assert float(got) == pytest.approx(1.0199909, abs=1e-7)


SEGMENT = {
    ("time", "ddim"): [-4.819e-2, -2.462e-2, -1.245e-2, -6.265e-3],
    ("time", "dpmpp_2m"): [3.406e-2, 9.961e-3, 2.440e-3, 5.793e-4],
    ("logsnr", "ddim"): [-5.248e-2, -2.694e-2, -1.365e-2, -6.871e-3],
    ("logsnr", "dpmpp_2m"): [5.081e-3, 1.404e-3, 3.586e-4, 9.020e-5],
}


@pytest.mark.parametrize(("spacing", "kind"), SEGMENT)
def test_order_of_convergence(x64, gaussian, spacing, kind):
    """Errors on the segment u = 0.98 -> 0.02; they halve with DDIM and quarter with 2M."""

    def segment(u):
        return Cosine()(0.02 + 0.96 * u)

    ends = segment(jnp.array([1.0, 0.0]))
    exact = float(gaussian.flow(1.3, *ends))
    assert exact == pytest.approx(1.0150083132750616, rel=1e-12)
    errors = []
    for steps in (16, 32, 64, 128):
        spec = SamplerSpec(kind=kind, steps=steps, spacing=spacing)
        z = sample(
            *(gaussian, spec.sampler()),
            logsnrs=spec.logsnrs(segment),
            z=jnp.array([1.3]),
            keys=some_keys(1),
            to_data=False,
        )
        errors.append(z.item() - exact)
    np.testing.assert_allclose(errors, SEGMENT[spacing, kind], rtol=5e-4)
    ratio = errors[2] / errors[3]
    assert ratio == pytest.approx(2 if kind == "ddim" else 4, rel=0.07)


def propagate(gaussian, sampler, logsnrs):
    """Exact mean and std of the result for z ~ N(0, 1), from the affine pieces of every step.

    Each step is probed at z = 0 and z = 1 with one key, which gives its slope. Its noiseless part
    maps α_t μ to α_s μ, because x̂(α_t μ) = μ; what the offset holds besides is the noise of that
    key times the standard deviation that the sampler gives it.
    """
    key = some_keys(1)
    noise = samplers.normal_like(key, jnp.zeros(1)).item()
    levels = np.asarray(logsnrs)
    beyond = np.append(levels[2:], levels[-1])
    stack = StepLevels(np.full(len(beyond), -np.inf), levels[:-1], levels[1:], beyond)

    def probe(z, step):
        return sampler(lambda z, logsnr: gaussian(z, logsnr, 0), key, z, z, step)[0]

    start, end = (jax.jit(jax.vmap(probe, (None, 0)))(jnp.full(1, z), stack) for z in (0.0, 1.0))
    slope, offset = np.ravel(end - start), np.ravel(start)
    alpha_t, alpha_s = (np.asarray(alpha_sigma(jnp.asarray(x))[0]) for x in (stack.t, stack.s))
    shift = gaussian.mean * (alpha_s - slope * alpha_t)
    std, mean, variance = (offset - shift) / noise, 0.0, 1.0
    for i in range(len(slope) - 1):
        mean, variance = slope[i] * mean + shift[i], slope[i] ** 2 * variance + std[i] ** 2
    start, end = (gaussian(jnp.full(1, z), stack.t[-1:], 0).item() for z in (0.0, 1.0))
    return (end - start) * mean + start, (end - start) * variance**0.5


ANCESTRAL = {
    4: (0.230255, 0.265898, 0.380477),
    8: (0.286758, 0.320038, 0.426335),
    16: (0.327782, 0.351442, 0.422438),
    64: (0.375546, 0.384310, 0.407446),
    256: (0.392988, 0.395592, 0.401982),
    1024: (0.398150, 0.398847, 0.400503),
}


@pytest.mark.parametrize("steps", ANCESTRAL)
def test_ancestral_moments(x64, gaussian, steps):
    for gamma, expected in zip((0.0, 0.3, 1.0), ANCESTRAL[steps], strict=True):
        mean, std = propagate(gaussian, Ancestral(gamma=gamma), ladder(steps))
        assert mean == pytest.approx(0.5, abs=1e-4)
        assert std == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(8, 0.253353), (16, 0.306285), (64, 0.371586), (256, 0.392520), (1024, 0.398105)],
)
def test_stochastic_moments(x64, gaussian, steps, expected):
    mean, std = propagate(gaussian, StochasticNStep(), ladder(steps))
    assert mean == pytest.approx(0.5, abs=1e-4)
    assert std == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kind", "std"), [("ancestral", 0.320038), ("stochastic", 0.253353)])
def test_moments_by_monte_carlo(gaussian, kind, std):
    """The loop itself, in float32, with real noise: 1e5 samples of one batch."""
    spec, keys = SamplerSpec(kind=kind, steps=8, gamma=0.3), some_keys(100_000)
    z = sampling.initial_noise(keys, ())
    run = jax.jit(
        lambda z, keys: sample(gaussian, spec.sampler(), logsnrs=ladder(8), z=z, keys=keys)
    )
    got = np.asarray(run(z, keys))
    assert got.mean() == pytest.approx(0.5, abs=0.004)
    assert got.std() == pytest.approx(std, abs=0.003)


def test_langevin_keeps_the_mean_and_adds_a_second_order_variance(x64, gaussian):
    logsnr = Cosine()(jnp.array(0.4))
    variance = float(gaussian.variance(logsnr))
    assert variance == pytest.approx(0.4502201163, rel=1e-9)
    keys, sigma = some_keys(1), alpha_sigma(logsnr)[1]

    def step(z):
        z = jnp.array([z])
        return samplers.langevin_step(keys, z, gaussian(z, logsnr, 0), logsnr).item()

    slope = step(1.0) - step(0.0)
    mean = float(alpha_sigma(logsnr)[0] * 0.5)
    noise = samplers.normal_like(keys, jnp.zeros(1)).item()
    assert step(mean) == pytest.approx(mean + 0.1**0.5 * float(sigma) * noise, rel=1e-9)
    after = slope**2 * variance + 0.1 * float(sigma) ** 2
    assert after == pytest.approx(0.4508829606, rel=1e-9)
    assert after == pytest.approx(variance + 0.01 * float(sigma) ** 4 / (4 * variance), rel=1e-9)


def test_the_corrector_keeps_the_first_level_and_moves_the_others(gaussian):
    """One evaluation a step more; z at each later level is corrected before it is denoised."""
    levels, keys = Cosine()(jnp.array([0.9, 0.6, 0.3])), some_keys(1)
    seen = []

    def x0_fn(z, logsnr, step):
        jax.debug.callback(lambda *x: seen.append([float(i) for i in x]), z[0], logsnr[0])
        return gaussian(z, logsnr, step)

    spec = SamplerSpec(kind="ddim", steps=2, corrector_steps=1, corrector_delta=0.3)
    got = sample(x0_fn, spec.sampler(), logsnrs=levels, z=jnp.ones(1), keys=keys)
    jax.effects_barrier()
    first = gaussian(jnp.ones(1), levels[:1], 0)
    moved = samplers.ddim_step(jnp.ones(1), first, levels[0], levels[1])
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
    corrector = jax.vmap(jax.random.fold_in, (0, None))(step_keys, 1)
    x0 = gaussian(moved, levels[1:2], 1)
    z = samplers.langevin_step(corrector, moved, x0, levels[1], delta=0.3)
    np.testing.assert_allclose(got, gaussian(z, levels[1:2], 1), rtol=1e-5)
    assert len(seen) == spec.evaluations == 4
    assert abs(z - moved).item() > 0.01


@pytest.mark.parametrize(
    "settings", [{"corrector_steps": -1}, {"corrector_delta": 0.0}, {"rho": 0.0}]
)
def test_wrong_settings_of_the_corrector_and_the_grid(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        SamplerSpec(**settings)


def test_rho_bends_the_grid():
    straight = SamplerSpec(steps=3, spacing="edm", rho=1.0).logsnrs(Cosine())
    sigmas = np.exp(-np.asarray(straight[:-1], np.float64) / 2)
    np.testing.assert_allclose(sigmas, [80, 40.001, 0.002], rtol=1e-3)


# ---- what must hold for every sampler ------------------------------------------------------------


@every_kind
def test_last_step_returns_the_denoised_data(kind):
    spec = SamplerSpec(kind=kind, steps=5)
    got = sample(
        lambda z, logsnr, step: jnp.full_like(z, 0.25) + step,
        spec.sampler(),
        logsnrs=spec.logsnrs(Cosine()),
        z=jnp.ones((2, 3)),
        keys=some_keys(2),
    )
    np.testing.assert_array_equal(got, 4.25)


@every_kind
def test_examples_do_not_depend_on_their_batch(kind):
    spec = SamplerSpec(kind=kind, steps=6)
    run = jax.jit(
        lambda keys: sample(
            *(curved, spec.sampler()),
            logsnrs=spec.logsnrs(Cosine()),
            z=sampling.initial_noise(keys, (2, 3, 3, 1)),
            keys=keys,
        )
    )
    keys, order = some_keys(4), jnp.array([2, 0, 3, 1])
    together = run(keys)
    np.testing.assert_array_equal(run(keys[order]), together[order])
    for i in range(4):
        np.testing.assert_allclose(run(keys[i : i + 1])[0], together[i], rtol=1e-6, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@every_kind
def test_stepwise_is_the_scan_bit_for_bit(kind):
    spec, keys = SamplerSpec(kind=kind, steps=7), some_keys(3)

    def both(z, logsnr, step):
        first = jnp.arange(len(z)) % 2 == 0
        return jnp.where(expand(first, z), curved(z, logsnr, step), 0.5 * z)

    guided = guidance.classifier_free_batched(Partial(both), np.linspace(0, 3, 7))
    settings = {
        "logsnrs": spec.logsnrs(Cosine()),
        "z": sampling.initial_noise(keys, (2, 4, 4, 3)),
        "keys": keys,
    }
    x0_fn = guidance.thresholded(guided, method="dynamic", percentile=90.0)
    seen = []
    stepwise = sample(x0_fn, spec.sampler(), **settings, on_step=lambda *args: seen.append(args))
    np.testing.assert_array_equal(stepwise, sample(x0_fn, spec.sampler(), **settings))
    compiled = jax.jit(sample, static_argnums=1)(x0_fn, spec.sampler(), **settings)
    np.testing.assert_array_equal(stepwise, compiled)
    assert [args[:2] for args in seen] == [(i, 7) for i in range(1, 8)]
    np.testing.assert_array_equal(seen[-1][2](), stepwise)  # the last step returns its x̂
    assert np.abs(seen[0][2]() - stepwise).max() > 0.01


def test_stepwise_compiles_once_for_new_parameters():
    traced = []

    def denoise(scale, z, logsnr, step):
        traced.append(step)
        return scale * z

    def run(scale):
        x0_fn = guidance.thresholded(Partial(denoise, jnp.array(scale)), method="static")
        return sample(
            x0_fn,
            Ddim(),
            logsnrs=ladder(3),
            z=jnp.ones((1, 2)),
            keys=some_keys(1),
            on_step=lambda *_: None,
        )

    first, second = run(0.5), run(0.25)
    assert len(traced) == 1
    assert np.all(np.asarray(first) != np.asarray(second))


@every_kind
def test_noise_levels_at_the_ends_are_safe_in_float32(kind, gaussian):
    """A ladder of tiny and of huge steps, up to ±20, and pure signal or noise beyond."""
    spec = SamplerSpec(kind=kind, steps=500)
    for schedule in (Cosine(), LinearBetas(zero_terminal_snr=True), RectifiedFlow(shift=3.0)):
        got = sample(
            *(gaussian, spec.sampler()),
            logsnrs=spec.logsnrs(schedule),
            z=sampling.initial_noise(some_keys(3), (4,)),
            keys=some_keys(3),
        )
        assert got.dtype == jnp.float32
        assert np.all(np.isfinite(got)) and np.abs(got - 0.5).max() < 2.5


def test_steps_draw_fresh_noise():
    keys, z = some_keys(2), jnp.zeros((2, 1000))
    start = sampling.initial_noise(keys, (1000,))
    spec, drawn = SamplerSpec(kind="ancestral", steps=4, gamma=1.0), [start]
    levels = spec.logsnrs(Cosine())
    for steps in (1, 2):
        drawn.append(
            sample(
                *(lambda z, logsnr, step: jnp.zeros_like(z), spec.sampler()),
                logsnrs=levels[: steps + 1],
                z=z,
                keys=keys,
                to_data=False,
            )
        )
    correlation = np.corrcoef(np.stack([np.ravel(d) for d in drawn]))
    assert abs(correlation[0, 1:]).max() < 0.1
    assert float(jnp.std(start)) == pytest.approx(1, abs=0.05)
    scale = np.vdot(drawn[2], drawn[1]) / np.vdot(drawn[1], drawn[1])
    rest = np.ravel(drawn[2] - scale * drawn[1])
    assert rest.std() > 0.3  # the second step added noise of its own


# ---- settings ------------------------------------------------------------------------------------


@every_kind
def test_spec_builds_samplers_and_ladders(kind):
    spec = SamplerSpec(kind=kind, steps=4)
    assert isinstance(spec.sampler(), Sampler)
    assert spec.sampler() == spec.sampler()
    got = spec.logsnrs(Cosine())
    np.testing.assert_allclose(got, [-20, -1.76261877, 0, 1.76261877, 20], rtol=1e-6, atol=1e-6)


def test_ladder_spacings():
    np.testing.assert_allclose(ladder(4, spacing="logsnr"), [-20, -10, 0, 10, 20], rtol=1e-6)
    edm = ladder(18, spacing="edm")
    np.testing.assert_allclose(np.exp(-edm[:3] / 2), [80, 57.585985, 40.785574], rtol=1e-5)
    assert len(edm) == 19 and edm[-1] == pytest.approx(20, rel=1e-5)
    assert edm[-2] == pytest.approx(-2 * np.log(0.002), rel=1e-5)
    short = SamplerSpec(steps=6, spacing="edm").logsnrs(LinearBetas())
    covered = LinearBetas().table()
    assert short[0] >= covered[-1] and short[-1] == pytest.approx(covered[0], rel=1e-5)
    assert np.all(np.diff(short) >= -1e-5)


def test_ladder_can_be_made_while_tracing():
    @jax.jit
    def run(x):
        return x + SamplerSpec(steps=2).logsnrs(Cosine())

    np.testing.assert_allclose(run(jnp.zeros(3)), [-20, 0, 20], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "leap"},
            "sampler kind 'leap'.*dpmpp_2m, .*heun, ddim, ancestral, stoch",
        ),
        ({"spacing": "karras"}, "spacing is 'karras'.*time, logsnr, edm"),
        ({"steps": 0}, "SamplerSpec.steps is 0"),
        ({"gamma": 1.5}, r"gamma is 1.5.*\[0, 1\]"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplerSpec(**settings)


def test_a_ladder_has_two_levels():
    with pytest.raises(ValueError, match="at least 2 log-SNR levels, got 1"):
        sample(curved, Ddim(), logsnrs=np.zeros(1), z=jnp.zeros((1, 2)), keys=some_keys(1))
