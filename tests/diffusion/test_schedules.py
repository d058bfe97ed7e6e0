import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.diffusion import schedules
from vidgen.diffusion.samplers import Ancestral
from vidgen.diffusion.schedules import (
    Cosine,
    ImprovedCosine,
    LinearBetas,
    LogitNormalTimes,
    LogSnrSchedule,
    RectifiedFlow,
    TimeSampler,
    UniformTimes,
    alpha_sigma,
)

COSINE = np.array(
    [  # u, log-SNR, alpha, sigma
        [0, 20, 1.00000000, 0.00004540],
        [0.01, 8.30135264, 0.99987593, 0.01575180],
        [0.10, 3.68498999, 0.98768266, 0.15647034],
        [0.25, 1.76261877, 0.92387085, 0.38270440],
        [0.50, 0, 0.70710678, 0.70710678],
        [0.75, -1.76261877, 0.38270440, 0.92387085],
        [0.90, -3.68498999, 0.15647034, 0.98768266],
        [0.99, -8.30135264, 0.01575180, 0.99987593],
        [1, -20, 0.00004540, 1.00000000],
    ]
)
ALL = [Cosine(), Cosine(shift=-2.0), ImprovedCosine(), LinearBetas(), LinearBetas(steps=10)]
ALL += [RectifiedFlow(), RectifiedFlow(shift=3.0)]


def alpha_bar(schedule, u):
    return jax.nn.sigmoid(schedule(jnp.asarray(u, jnp.float64)))


def test_cosine_table(x64):
    u, logsnr, alpha, sigma = COSINE.T
    got = Cosine()(jnp.asarray(u))
    np.testing.assert_allclose(got, logsnr, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(alpha_sigma(got), (alpha, sigma), atol=6e-9)


def test_cosine_in_float32_is_exact_to_its_ends():
    u, logsnr, alpha, sigma = COSINE.T
    got = Cosine()(jnp.asarray(u, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, logsnr, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(alpha_sigma(got), (alpha, sigma), rtol=1e-4)


def test_cosine_is_antisymmetric_and_close_to_a_cosine(x64):
    u = jnp.linspace(0, 1, 201)
    logsnr = Cosine()(u)
    np.testing.assert_allclose(Cosine()(1 - u), -logsnr, atol=1e-9)
    alpha, sigma = alpha_sigma(logsnr)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
    assert np.max(np.abs(alpha - np.cos(np.pi * u / 2))) < 5e-5


def test_cosine_density_of_logsnr(x64):
    logsnr = Cosine()((jnp.arange(200_000) + 0.5) / 200_000)
    assert float(jnp.std(logsnr)) == pytest.approx(3.137, abs=1e-3)
    assert float(jnp.mean(jnp.abs(logsnr) < 2)) == pytest.approx(0.55120, abs=1e-5)


def test_cosine_shift_and_range():
    u = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(Cosine(shift=-2.0)(u), Cosine()(u) - 2, rtol=1e-6)
    ends = Cosine(logsnr_min=-10.0, logsnr_max=8.0)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [8, -10], rtol=1e-5)


def test_linear_betas_are_ddpm(x64):
    got = alpha_bar(LinearBetas(), np.array([0, 499, 999]) / 999)
    np.testing.assert_allclose(got, [0.9999, 0.0785872429, 4.03582977e-05], rtol=1e-8)
    assert float(LinearBetas()(jnp.array(1.0))) == pytest.approx(-10.117673, abs=1e-6)


def test_linear_betas_are_linear_between_steps(x64):
    table = LinearBetas(steps=5).table()
    u = jnp.array([0.125, 0.875])
    np.testing.assert_allclose(
        LinearBetas(steps=5)(u), [table[:2].mean(), table[3:].mean()], rtol=1e-12
    )


def test_improved_cosine(x64):
    got = alpha_bar(ImprovedCosine(), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(got, [0.8470121613, 0.4938435904, 0.1442721024], rtol=1e-9)
    np.testing.assert_array_equal(ImprovedCosine()(jnp.array([0.0, 1.0])), [20, -20])


def test_zero_terminal_snr(x64):
    plain = schedules.cumulative_alpha(np.linspace(1e-4, 0.02, 1000))
    assert math.sqrt(plain[-1]) == pytest.approx(0.0063528181, rel=1e-8)
    rescaled = schedules.rescale_zero_terminal(plain)
    np.testing.assert_allclose(
        rescaled[[0, 499, 998, 999]], [0.9999, 0.0760287505, 4.21326247e-09, 0], rtol=1e-7
    )
    schedule = LinearBetas(zero_terminal_snr=True)
    got = alpha_bar(schedule, np.array([0, 499, 998]) / 999)
    np.testing.assert_allclose(got, rescaled[[0, 499, 998]], rtol=1e-7)
    assert float(schedule(jnp.array(1.0))) == -20


def test_the_time_of_a_rectified_flow_is_the_share_of_noise(x64):
    u = jnp.array([0.0, 0.1, 0.5, 0.9, 1.0])
    logsnr = RectifiedFlow()(u)
    np.testing.assert_allclose(logsnr, [20, 4.394449155, 0, -4.394449155, -20], rtol=1e-9)
    alpha, sigma = alpha_sigma(logsnr)
    np.testing.assert_allclose((sigma / (alpha + sigma))[1:-1], u[1:-1], rtol=1e-9)


@pytest.mark.parametrize("shift", [1 / 3, 3.0])
def test_the_shift_of_a_rectified_flow_is_that_of_time(x64, shift):
    """t = s u/(1 + (s - 1) u); the median of times is s/(1 + s), .75 for s = 3."""
    u = jnp.linspace(0.01, 0.99, 9)
    alpha, sigma = alpha_sigma(RectifiedFlow(shift=shift)(u))
    t = np.asarray(sigma / (alpha + sigma))
    np.testing.assert_allclose(t, shift * u / (1 + (shift - 1) * u), rtol=1e-9)
    assert t[4] == pytest.approx(shift / (1 + shift), rel=1e-9)
    difference = RectifiedFlow(shift=shift)(u) - RectifiedFlow()(u)
    np.testing.assert_allclose(difference, -2 * math.log(shift), rtol=1e-9)


def test_scaled_linear_betas_leave_signal_at_the_end():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    last = schedules.cumulative_alpha(betas)[-1]
    assert math.sqrt(last) == pytest.approx(0.0682649142, rel=1e-8)
    assert last / (1 - last) == pytest.approx(0.0046819167, rel=1e-8)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules_decrease_and_stay_finite_in_float32(schedule):
    assert isinstance(schedule, LogSnrSchedule)
    logsnr = np.asarray(jax.jit(schedule)(jnp.linspace(0, 1, 1001)))
    assert np.all(np.isfinite(logsnr))
    assert np.all(np.diff(logsnr) <= 0)
    assert np.all(np.diff(logsnr[10:-10]) < 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(logsnr_min=3.0, logsnr_max=-3.0), "logsnr_min is 3.0 .*logsnr_max is -3.0"),
        (lambda: LinearBetas(steps=1), "steps is 1"),
        (lambda: LinearBetas(beta_min=0.5, beta_max=0.1), "0 < beta_min <= beta_max < 1"),
        (lambda: LogitNormalTimes(std=0.0), "LogitNormalTimes.std is 0.0"),
        (lambda: RectifiedFlow(shift=0.0), "RectifiedFlow.shift is 0.0"),
        (
            lambda: RectifiedFlow(logsnr_min=3.0, logsnr_max=-3.0),
            "logsnr_min is 3.0 .*logsnr_max is -3.0",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_step_quantities(x64):
    t, s = (Cosine()(jnp.array(u)) for u in (0.6, 0.4))
    assert float(t) == pytest.approx(-0.6388783300, rel=1e-9)
    assert float(jnp.exp(t - s)) == pytest.approx(0.2786617328, rel=1e-9)
    np.testing.assert_allclose(alpha_sigma(t), (0.5877925981, 0.8090116573), rtol=1e-9)
    z, x0 = jnp.array([[0.5]]), jnp.array([[0.2]])
    mean = schedules.posterior_mean(z, x0, t, s)
    assert mean.item() == pytest.approx(0.3084830371, rel=1e-9)
    assert float(Ancestral(gamma=0.0).noise_std(t, s) ** 2) == pytest.approx(0.2492224712, rel=1e-9)
    assert float(schedules.transition_variance(t, s)) == pytest.approx(0.4721157960, rel=1e-9)


@pytest.mark.parametrize(
    ("u_s", "u_k", "ratio", "std"),
    [
        (0.875, 0.75, 0.509855, 0.860260),
        (0.375, 0.25, 0.899978, 0.435936),
        (0.125, 0.0, 0.980779, 0.195124),
    ],
)
def test_renoise(x64, u_s, u_k, ratio, std):
    s, k = Cosine()(jnp.array(u_s)), Cosine()(jnp.array(u_k))
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    assert schedules.renoise(one, zero, k, s).item() == pytest.approx(ratio, abs=1e-6)
    assert schedules.renoise(zero, one, k, s).item() == pytest.approx(std, abs=1e-6)


def test_forward_steps_compose(x64):
    """Diffusing 0 -> s -> t has the mean and the variance of diffusing 0 -> t."""
    levels = Cosine()(jnp.array([0.2, 0.7]))
    (alpha_s, alpha_t), (sigma_s, sigma_t) = alpha_sigma(levels)
    added = schedules.transition_variance(levels[1], levels[0])
    assert float((alpha_t / alpha_s) ** 2 * sigma_s**2 + added) == pytest.approx(float(sigma_t**2))
    x0, noise = jnp.full((20_000,), 0.7), jax.random.normal(jax.random.key(0), (2, 20_000))
    z = schedules.renoise(schedules.diffuse(x0, noise[0], levels[0]), noise[1], *levels)
    assert float(z.mean()) == pytest.approx(float(alpha_t * 0.7), abs=0.02)
    assert float(z.std()) == pytest.approx(float(sigma_t), abs=0.02)


def test_diffuse_takes_one_level_per_example():
    x0, eps = jnp.ones((3, 2, 4)), jnp.full((3, 2, 4), 2.0)
    logsnr = jnp.array([20.0, 0.0, -20.0])
    alpha, sigma = alpha_sigma(logsnr)
    got = schedules.diffuse(x0, eps, logsnr)
    np.testing.assert_allclose(got[:, 1, 2], alpha + 2 * sigma, rtol=1e-6)
    np.testing.assert_allclose(schedules.diffuse(x0, eps, logsnr[1])[0], got[1], rtol=1e-6)


def test_posterior_is_bayes(x64):
    """Density of z_s given z_t and x0, from the product of the two Gaussians that define it."""
    t, s = jnp.array(-0.9), jnp.array(1.4)
    (alpha_t, _), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    forward, a = schedules.transition_variance(t, s), alpha_t / alpha_s
    precision = 1 / sigma_s**2 + a**2 / forward
    mean = (alpha_s * 0.3 / sigma_s**2 + a * -0.8 / forward) / precision
    got = schedules.posterior_mean(jnp.array([-0.8]), jnp.array([0.3]), t, s)
    assert got.item() == pytest.approx(float(mean), rel=1e-9)
    assert float(Ancestral(gamma=0.0).noise_std(t, s) ** 2) == pytest.approx(float(1 / precision))


def test_small_steps_keep_their_digits_in_float32():
    t, s = jnp.float32(19.9999), jnp.float32(20.0)
    expected = (1 - math.exp(float(t) - float(s))) / (1 + math.exp(20))
    assert float(Ancestral(gamma=0.0).noise_std(t, s) ** 2) == pytest.approx(expected, rel=1e-5)


def test_edm_grid_and_coordinates(x64):
    expected = [
        *(80, 57.585985, 40.785574, 28.374585, 19.352453, 12.910082, 8.400935, 5.315195),
        *(3.256822, 1.923340, 1.088171, 0.585348, 0.296442, 0.139516, 0.059947, 0.022935),
        *(0.007528, 0.002),
    ]
    sigmas = jnp.asarray(schedules.edm_sigmas(18))
    np.testing.assert_allclose(sigmas, expected, atol=6e-7)
    alpha, sigma = alpha_sigma(-2 * jnp.log(sigmas))
    np.testing.assert_allclose(sigma / alpha, sigmas, rtol=1e-9)


def test_stratified_times_are_uniform_and_cover_every_stratum():
    draw = jax.jit(jax.vmap(lambda key: UniformTimes()(key, 8)))
    u = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert u.min() >= 0 and u.max() <= 1
    np.testing.assert_array_equal(
        np.sort(np.floor(u * 8 - 1e-6), axis=1)[:, 1:], [range(1, 8)] * 4000
    )
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(u.std(0), 12**-0.5, atol=0.02)
    neighbours = np.corrcoef(u[:, 0], u[:, 1])[0, 1]
    assert neighbours == pytest.approx(-1 / 7, abs=0.06)  # as of any two draws without replacement


def test_independent_times():
    u = np.asarray(UniformTimes(stratified=False)(jax.random.key(1), 20_000))
    assert u.mean() == pytest.approx(0.5, abs=0.01)
    assert (u < 0.1).mean() == pytest.approx(0.1, abs=0.01)


def test_logit_normal_times():
    u = np.asarray(LogitNormalTimes()(jax.random.key(0), 200_000))
    assert ((u > 0.25) & (u < 0.75)).mean() == pytest.approx(0.7280628, abs=0.004)
    assert ((u > 0.1) & (u < 0.9)).mean() == pytest.approx(0.9719956, abs=0.002)
    shifted = LogitNormalTimes(mean=1.0, std=0.5)(jax.random.key(0), 20_000)
    assert float(jnp.median(shifted)) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.005)


@pytest.mark.parametrize("times", [UniformTimes(), LogitNormalTimes()], ids=repr)
def test_time_samplers_are_deterministic(times):
    assert isinstance(times, TimeSampler)
    first, again = (times(jax.random.key(3), 5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(times(jax.random.key(4), 5)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_noise_is_that_of_jax(shape, dtype):
    """Drawn as one axis, also where keys are a batch."""
    keys = jax.random.split(jax.random.key(3), 2)
    expected = jnp.stack([jax.random.normal(key, shape, dtype) for key in keys])
    drawn = jax.vmap(lambda key: schedules.draw_noise(key, shape, dtype))(keys)
    assert drawn.dtype == expected.dtype
    np.testing.assert_array_equal(drawn, expected)


def test_devices_of_a_mesh_draw_their_own_part(monkeypatch):
    shapes = []
    draw = jax.random.normal

    def noting(key, shape, dtype):
        shapes.append(shape)
        return draw(key, shape, dtype)

    monkeypatch.setattr(jax.random, "normal", noting)
    for axes in (1, 2):
        mesh = jax.sharding.AbstractMesh((axes,), ("data",))
        with jax.sharding.use_abstract_mesh(mesh):
            jax.eval_shape(lambda: schedules.draw_noise(jax.random.key(0), (2, 3, 4)))
    assert shapes == [(24,), (2, 3, 4)]
