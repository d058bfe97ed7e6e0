"""Steps that are made again (RePaint), and steps that begin in the middle of a schedule.

Tests of vidgen/diffusion/sampling.py too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.diffusion import known as known_content
from vidgen.diffusion import sampling
from vidgen.diffusion.samplers import Ancestral, Ddim, SamplerSpec
from vidgen.diffusion.sampling import sample, walk_of
from vidgen.diffusion.schedules import Cosine, diffuse
from vidgen.types import Known

RHO, KNOWN = 0.8, 0.9  # correlation of the pair (a, b) of unit variances, and what a is


def keys(count):
    return jax.random.split(jax.random.key(0), count)


# ---- the order of the steps ----------------------------------------------------------------------


def steps_of(walk):
    return [visit.step for visit in walk]


def test_each_step_once():
    assert walk_of(3) == [(0, 0), (1, 1), (2, 2)]
    assert walk_of(5, first=3) == [(3, 3), (4, 4)]
    assert walk_of(5, first=4, times=3, jump=2) == [(4, 4)]


def test_runs_are_made_again_from_where_they_began():
    walk = walk_of(6, times=3, jump=2)
    assert steps_of(walk) == [0] * 3 + [1, 2] * 3 + [3, 4] * 3 + [5]
    back = [(visit.step, visit.at) for visit in walk if visit.at != visit.step]
    assert back == [(0, 1), (0, 1), (1, 3), (1, 3), (3, 5), (3, 5)]
    assert steps_of(walk_of(4, times=2, jump=10)) == [0, 1, 2, 0, 1, 2, 3]
    assert steps_of(walk_of(6, first=2, times=2, jump=2)) == [2, 2, 3, 4, 3, 4, 5]
    assert steps_of(walk_of(4, times=2, jump=1)) == [0, 0, 1, 1, 2, 2, 3]
    assert steps_of(walk_of(1, times=4)) == [0]


# ---- the moments, exactly ------------------------------------------------------------------------


def correlated(z, logsnr, step):
    """The exact denoiser of pairs (a, b) ~ N(0, [[1, ρ], [ρ, 1]])."""
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(logsnr[0])), jnp.sqrt(jax.nn.sigmoid(-logsnr[0]))
    cov = jnp.array([[1, RHO], [RHO, 1]], z.dtype)
    gain = alpha * cov @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * jnp.eye(2, dtype=z.dtype))
    return z @ gain.T


def exact_moments(levels, walk, gamma):
    """Mean and std of b, in float64: z_b = m + c ε_a + √v n is affine in every move.

    ε_a is the noise of the known a, the same at all levels.
    """
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * np.float64(levels)))) for s in (-1, 1))
    m, c, v = 0.0, 0.0, 1.0
    for step, at in walk:
        t, s = step, step + 1
        if at != t:
            back = alpha[t] / alpha[at]
            m, c = back * m, back * c
            v = back**2 * v + sigma[t] ** 2 - (back * sigma[at]) ** 2
        cov = np.array([[1, RHO], [RHO, 1]])
        total = alpha[t] ** 2 * cov + sigma[t] ** 2 * np.eye(2)
        of_a, of_b = alpha[t] * cov[1] @ np.linalg.inv(total)
        x0 = (of_a * alpha[t] * KNOWN + of_b * m, of_a * sigma[t] + of_b * c, of_b)
        if s == len(levels) - 1:
            m, c, v = x0[0], x0[1], x0[2] ** 2 * v
            break
        shrink = np.exp(np.float64(levels[t] - levels[s]))
        of_z, of_x0 = shrink * alpha[s] / alpha[t], (1 - shrink) * alpha[s]
        m, c = of_z * m + of_x0 * x0[0], of_z * c + of_x0 * x0[1]
        noise = (1 - shrink) * sigma[s] ** (2 - 2 * gamma) * sigma[t] ** (2 * gamma)
        v = (of_z + of_x0 * x0[2]) ** 2 * v + noise
    return m, np.sqrt(c**2 + v)


def drawn(spec, sampler, times, count=40_000):
    """b of many samples in which a is known."""
    video = jnp.full((count, 2), KNOWN)
    known = Known(video=video, mask=jnp.broadcast_to(jnp.array([True, False]), (count, 2)))
    noise = sampling.initial_noise(keys(count), (2,))
    fn = known_content.replace_known(Partial(correlated), known, noise)
    settings = {"logsnrs": spec.logsnrs(Cosine()), "z": noise, "keys": keys(count)}
    walk = walk_of(spec.steps, times=times, jump=spec.resample_jump)
    made = jax.jit(lambda: sample(fn, sampler, walk=walk, **settings))()
    np.testing.assert_array_equal(made[:, 0], np.float32(KNOWN))
    return np.asarray(made[:, 1], np.float64)


@pytest.mark.parametrize(("times", "jump"), [(1, 1), (3, 1), (3, 4), (10, 3)])
def test_samples_have_the_moments_of_the_moves(times, jump):
    spec = SamplerSpec(steps=12, resample_jump=jump)
    b = drawn(spec, Ancestral(gamma=0.5), times)
    walk = walk_of(12, times=times, jump=jump)
    mean, std = exact_moments(spec.logsnrs(Cosine()), walk, 0.5)
    assert b.mean() == pytest.approx(mean, abs=0.012)
    assert b.std() == pytest.approx(std, abs=0.01)


def test_resampling_leads_to_the_conditional_distribution():
    """b | a = .9 has the mean .72 and std .6; replacement alone .44 and .77."""
    levels = SamplerSpec(steps=64).logsnrs(Cosine())
    found = [
        exact_moments(levels, walk_of(64, times=times, jump=1), 1.0) for times in (1, 3, 10, 40)
    ]
    away = [abs(mean - 0.72) for mean, _ in found]
    assert away == sorted(away, reverse=True) and away[0] > 0.2 and away[-1] < 0.02
    assert abs(found[-1][1] - 0.6) < 0.02 < abs(found[0][1] - 0.6)


def test_resampled_steps_one_by_one_are_the_scan():
    spec = SamplerSpec(kind="dpmpp_2m", steps=6, resample_jump=2)
    walk = walk_of(6, times=3, jump=2)

    def curved(z, logsnr, step):
        return jnp.tanh(z) + 0.01 * step

    z = jax.random.normal(jax.random.key(1), (2, 3))
    settings = {"logsnrs": spec.logsnrs(Cosine()), "z": z, "keys": keys(2), "walk": walk}
    seen = []
    stepwise = sample(curved, spec.sampler(), **settings, on_step=lambda *now: seen.append(now))
    np.testing.assert_array_equal(stepwise, sample(curved, spec.sampler(), **settings))
    assert [now[:2] for now in seen] == [(i, len(walk)) for i in range(1, len(walk) + 1)]


def test_a_multistep_sampler_forgets_what_was_before_new_noise():
    """After a jump back its step is ddim's, as in the beginning."""
    levels, walk = np.array([-2.0, 0.0, 2.0, 4.0], np.float32), walk_of(3, times=2, jump=2)
    seen = []

    class Spy(Ddim):
        def __call__(self, denoise, keys, z, x0_before, levels):
            jax.debug.callback(lambda x: seen.append(float(x)), levels.before, ordered=True)
            return super().__call__(denoise, keys, z, x0_before, levels)

    sample(lambda z, *_: z, Spy(), logsnrs=levels, z=jnp.ones((1, 1)), keys=keys(1), walk=walk)
    jax.effects_barrier()
    assert seen == [-np.inf, -2.0, -np.inf, -2.0, 0.0]


# ---- the middle of a schedule --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ddim", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "heun"])
def test_from_the_middle_the_flow_is_followed_to_the_data(x64, gaussian, kind):
    """A Gaussian's flow is known: z at the first level ends at (σ_s/σ_t) of its distance."""
    spec = SamplerSpec(kind=kind, steps=512, strength=0.4, spacing="logsnr")
    levels = spec.logsnrs(Cosine())
    assert spec.first == 307
    start = diffuse(jnp.array([[0.9]]), jnp.array([[-1.1]]), jnp.asarray(levels[spec.first]))
    settings = {"logsnrs": levels, "z": start, "keys": keys(1)}
    got = sample(gaussian, spec.sampler(), **settings, walk=walk_of(512, first=spec.first))
    exact = float(gaussian.flow(start, levels[spec.first], levels[-1])[0, 0])
    assert got.item() == pytest.approx(exact, abs=0.02 if kind == "ddim" else 2e-4)


@pytest.mark.parametrize(
    ("strength", "steps", "first"), [(1.0, 8, 0), (0.5, 8, 4), (0.01, 8, 7), (0.99, 8, 0)]
)
def test_the_first_step_of_a_strength(strength, steps, first):
    spec = SamplerSpec(kind="ddim", steps=steps, strength=strength)
    assert spec.first == first and spec.evaluations == steps - first


def test_the_walk_of_all_steps_is_the_one_without_a_walk():
    spec, z = SamplerSpec(kind="ancestral", steps=5), jnp.ones((2, 3))
    settings = {"logsnrs": spec.logsnrs(Cosine()), "z": z, "keys": keys(2)}
    whole = sample(lambda z, *_: jnp.tanh(z), spec.sampler(), **settings)
    walked = sample(lambda z, *_: jnp.tanh(z), spec.sampler(), **settings, walk=walk_of(5))
    np.testing.assert_array_equal(walked, whole)


@pytest.mark.parametrize(
    "settings",
    [{"strength": 0.0}, {"strength": 1.1}, {"resample": 0}, {"resample_jump": 0}, {"churn": -1.0}],
)
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match=f"SamplerSpec.{next(iter(settings))} is"):
        SamplerSpec(**settings)
