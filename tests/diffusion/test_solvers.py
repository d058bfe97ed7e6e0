"""Samplers of higher order: their orders on Gaussian data, and the noise that churn adds.

Tests of vidgen/diffusion/sampler_step.py too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.diffusion.samplers import SAMPLERS, Corrected, Ddim, SamplerSpec
from vidgen.diffusion.sampling import sample
from vidgen.diffusion.schedules import Cosine
from vidgen.diffusion.solvers import DpmSolverPP3M, Heun, UniPC

ORDERS = {"ddim": 1, "dpmpp_2m": 2, "dpmpp_2s": 2, "heun": 2}


def keys(count=1):
    return jax.random.split(jax.random.key(0), count)


def errors(gaussian, kind, counts, noise=0.98, data=0.02):
    """Error of z after so many steps, evenly in log-SNR, from u = 0.98 to 0.02."""

    def segment(u):
        return Cosine()(data + (noise - data) * u)

    exact = float(gaussian.flow(1.3, *segment(jnp.array([1.0, 0.0]))))
    for steps in counts:
        spec = SamplerSpec(kind=kind, steps=steps, spacing="logsnr")
        levels = spec.logsnrs(segment)
        settings = {"logsnrs": levels, "z": jnp.array([1.3]), "keys": keys(), "to_data": False}
        yield sample(gaussian, spec.sampler(), **settings).item() - exact


@pytest.mark.parametrize("kind", ORDERS)
def test_twice_the_steps_divide_the_error_by_the_power_of_the_order(x64, gaussian, kind):
    coarse, fine = errors(gaussian, kind, (64, 128))
    assert coarse / fine == pytest.approx(2 ** ORDERS[kind], rel=0.07)


@pytest.mark.parametrize("kind", ["dpmpp_3m", "unipc"])
def test_the_order_is_three_from_pure_noise(x64, gaussian, kind):
    """There x̂ hardly changes at first, so that first steps of a lower order leave no error."""
    coarse, fine = errors(gaussian, kind, (256, 512), noise=1.0, data=0.1)
    assert coarse / fine == pytest.approx(8, rel=0.07)


def test_a_higher_order_is_nearer_at_the_same_number_of_evaluations(x64, gaussian):
    found = {}
    for kind in (*ORDERS, "dpmpp_3m", "unipc"):
        steps = 64 // SAMPLERS[kind].evaluations
        (error,) = errors(gaussian, kind, [steps])
        found[kind] = abs(error)
    assert max(found["dpmpp_3m"], found["unipc"]) < found["dpmpp_2m"] < found["ddim"]
    assert max(found["dpmpp_2s"], found["heun"]) < found["ddim"]


@pytest.mark.parametrize("kind", ["dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "heun", "unipc"])
@pytest.mark.parametrize("steps", [2, 4, 8, 16, 32])
def test_few_steps_over_the_whole_schedule_stay_near_the_data(x64, gaussian, kind, steps):
    """The noise falls by e^20: one of these steps divides it by up to e^9."""

    def end(kind, steps):
        spec = SamplerSpec(kind=kind, steps=steps)
        z = jnp.linspace(-2.0, 2.0, 9)
        return sample(gaussian, spec.sampler(), logsnrs=spec.logsnrs(Cosine()), z=z, keys=keys(9))

    exact = end("ddim", 2000)
    of_ddim, error = (jnp.abs(end(kind, steps) - exact).max() for kind in ("ddim", kind))
    assert error < 1.05 * of_ddim


def test_the_third_order_begins_as_the_first_and_is_exact_where_x0_is_a_parabola(x64):
    """With x̂ = a + b s + c s² in s = -λ/2 the integral of e^{-s} x̂ has a closed form."""
    levels = np.linspace(-2.0, 2.0, 5)

    def denoise(z, logsnr, step):
        s = 0.5 * logsnr
        return jnp.broadcast_to(0.3 + 0.2 * s - 0.1 * s**2, z.shape)

    def end(sampler, levels):
        settings = {"logsnrs": levels, "z": jnp.zeros(1), "keys": keys(), "to_data": False}
        return sample(denoise, sampler, **settings).item()

    assert end(DpmSolverPP3M(), levels[:2]) == pytest.approx(end(Ddim(), levels[:2]), rel=1e-12)
    # d(z/σ) = (α/σ) x̂ d(λ/2), and α/σ = e^s. Three steps, of which the third knows the parabola.
    t, s = 0.5 * levels[2], 0.5 * levels[3]

    def integral(s):
        return np.exp(s) * (0.3 + 0.2 * (s - 1) - 0.1 * (s**2 - 2 * s + 2))

    def over_sigma(z, level):
        return z / np.sqrt(1 / (1 + np.exp(level)))

    z2, z3 = (end(DpmSolverPP3M(), levels[: n + 1]) for n in (2, 3))
    gained = over_sigma(z3, levels[3]) - over_sigma(z2, levels[2])
    assert gained == pytest.approx(integral(s) - integral(t), rel=1e-9)


def unipc_of_the_paper(x0_of, logsnrs, z):
    """UniPC-2 with B₂(h), multistep and data prediction, as its authors' code has it."""
    lambdas = 0.5 * np.asarray(logsnrs)
    alphas, sigmas = np.sqrt(1 / (1 + np.exp(-logsnrs))), np.sqrt(1 / (1 + np.exp(logsnrs)))
    kept = []  # (λ, x̂), the last one first
    for n, (now, alpha, sigma) in enumerate(zip(lambdas, alphas, sigmas, strict=True)):
        if n:  # predict z at `now` from `last`, and correct it by x̂ there
            (before, x0), hh = kept[0], -(now - kept[0][0])
            phi, rest = np.expm1(hh), [k for k in kept[1:2]]
            ratios = [(level - before) / -hh for level, _ in rest]
            differences = [(x - x0) / r for (_, x), r in zip(rest, ratios, strict=True)]
            plain = sigma / sigmas[n - 1] * z - alpha * phi * x0
            z = plain - alpha * phi * 0.5 * sum(differences)
            if n == len(lambdas) - 1:
                return z
            k1 = phi / hh - 1
            b = np.array([k1, 2 * (k1 / hh - 0.5)]) / phi
            ratios, order = np.array([*ratios, 1.0]), len(ratios) + 1
            rho = [0.5]
            if order == 2:
                rho = np.linalg.solve(np.stack([ratios**0, ratios]), b)
            new = x0_of(z, logsnrs[n])
            differences.append(new - x0)
            z = plain - alpha * phi * np.dot(rho, differences)
        kept.insert(0, (now, new if n else x0_of(z, logsnrs[0])))


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_unipc_is_that_of_the_paper(x64, gaussian, steps):
    """Levels that are not even in log-SNR, whose steps have lengths of their own."""
    levels = SamplerSpec(steps=steps).logsnrs(Cosine()).astype(np.float64)

    def x0_of(z, logsnr):
        return float(gaussian(jnp.asarray(z), jnp.asarray(logsnr), 0))

    settings = {"logsnrs": levels, "z": jnp.array([1.3]), "keys": keys(), "to_data": False}
    found = sample(gaussian, UniPC(), **settings).item()
    assert found == pytest.approx(unipc_of_the_paper(x0_of, levels, 1.3), rel=1e-9)


@pytest.mark.parametrize("kind", ["dpmpp_2s", "dpmpp_3m", "heun", "unipc"])
def test_stepwise_is_the_scan_and_examples_are_apart(kind):
    def curved(z, logsnr, step):
        return jnp.tanh(z + 0.3 * z.mean(axis=1, keepdims=True)) + 0.01 * step

    spec = SamplerSpec(kind=kind, steps=5, churn=1.0)
    z = jax.random.normal(jax.random.key(1), (3, 4))
    settings = {"logsnrs": spec.logsnrs(Cosine()), "z": z, "keys": keys(3)}
    whole, seen = sample(curved, spec.sampler(), **settings), []
    stepwise = sample(curved, spec.sampler(), **settings, on_step=lambda *now: seen.append(now))
    np.testing.assert_array_equal(stepwise, whole)
    np.testing.assert_array_equal(seen[-1][2](), whole)
    alone = {"logsnrs": settings["logsnrs"], "z": z[1:2], "keys": keys(3)[1:2]}
    np.testing.assert_allclose(
        sample(curved, spec.sampler(), **alone)[0], whole[1], rtol=1e-5, atol=1e-6
    )


def test_a_corrector_hands_on_what_its_sampler_remembers(gaussian):
    spec = SamplerSpec(kind="dpmpp_3m", steps=6, corrector_steps=1, corrector_delta=1e-12)
    assert spec.sampler().memory == 2 and isinstance(spec.sampler(), Corrected)
    settings = {"logsnrs": spec.logsnrs(Cosine()), "z": jnp.ones(1), "keys": keys()}
    plain = sample(gaussian, DpmSolverPP3M(), **settings)
    np.testing.assert_allclose(sample(gaussian, spec.sampler(), **settings), plain, atol=1e-5)


# ---- churn ---------------------------------------------------------------------------------------


def churned_moments(gaussian, sampler, levels):
    """Mean and std of samples in float64, from EDM's algorithm 2 written out for N(μ, s²)."""
    var, offset = 1 + np.exp(levels[0]), 0.0  # of y = z/α, z ~ N(0, 1); the mean less μ
    offset, s2 = -gaussian.mean, gaussian.std**2
    sigmas = np.exp(-0.5 * np.float64(levels))
    var = 1 + sigmas[0] ** 2  # α² = 1/(1 + σ̃²)
    for i, sigma in enumerate(sigmas[:-1]):
        gamma = sampler.gamma if sampler.low <= sigma <= sampler.high else 0.0
        hat = sigma * (1 + gamma)
        var += sampler.noise**2 * (hat**2 - sigma**2)
        if i == len(sigmas) - 2:
            factor = s2 / (s2 + hat**2)
        else:
            step = sigmas[i + 1] - hat
            euler = 1 + step * hat / (s2 + hat**2)
            ahead = s2 + sigmas[i + 1] ** 2
            factor = 1 + 0.5 * step * (hat / (s2 + hat**2) + euler * sigmas[i + 1] / ahead)
            ratio = hat / sigmas[i + 1]
            if ratio > 4:  # longer than the paper's steps: x̂ is linear in log σ̃
                weight = 1 - (1 - 1 / ratio) / np.log(ratio)
                factor = euler + weight * (euler * s2 / ahead - s2 / (s2 + hat**2))
        var, offset = factor**2 * var, factor * offset
    return gaussian.mean + offset, np.sqrt(var)


@pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
def test_churn_gives_the_moments_of_the_algorithm(gaussian, churn):
    spec = SamplerSpec(kind="heun", steps=12, churn=churn, spacing="edm")
    sampler, levels = spec.sampler(), spec.logsnrs(Cosine())
    assert sampler == Heun(gamma=min(churn / 12, 2**0.5 - 1))
    many = keys(100_000)
    z = jax.vmap(lambda key: jax.random.normal(key))(
        jax.vmap(jax.random.fold_in, (0, None))(many, 0)
    )
    run = jax.jit(lambda z, keys: sample(gaussian, sampler, logsnrs=levels, z=z, keys=keys))
    made = np.asarray(run(z, many), np.float64)
    mean, std = churned_moments(gaussian, sampler, levels)
    assert made.mean() == pytest.approx(mean, abs=0.005)
    assert made.std() == pytest.approx(std, rel=0.01)


def test_churn_keeps_within_its_bounds(gaussian):
    """Outside of [low, high] no noise is added: two keys then end at the same."""
    levels = np.array([-6.0, -4.0, -3.0], np.float32)  # σ̃ from 4.5 to 20
    z = jnp.ones(2)

    def ends(**bounds):
        settings = {"logsnrs": levels, "z": z, "keys": keys(2), "to_data": False}
        return np.asarray(sample(gaussian, Heun(gamma=0.3, **bounds), **settings))

    apart = ends()
    assert abs(apart[0] - apart[1]) > 1e-3
    still = ends(low=0.05, high=4.0)
    np.testing.assert_array_equal(still[0], still[1])
    np.testing.assert_allclose(
        still[0],
        sample(gaussian, Heun(), logsnrs=levels, z=z, keys=keys(2), to_data=False)[0],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0.5}, "Heun.gamma is 0.5.*0.4142"),
        ({"low": 2.0, "high": 1.0}, "low <= high"),
        ({"noise": 0.0}, "noise > 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Heun(**settings)
