"""Rescaled, projected and bounded guidance, by numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.diffusion.guidance import (
    GuidanceSpec,
    classifier_free_batched,
    guide,
    reconstruction_guided,
)
from vidgen.diffusion.guidance_rules import (
    Momentum,
    NoiseInterval,
    Projected,
    Rescaled,
    StepInterval,
    rescaled,
    within,
)
from vidgen.diffusion.samplers import Corrected, Ddim, Heun
from vidgen.diffusion.sampling import sample
from vidgen.diffusion.schedules import alpha_sigma


def random_pair(shape=(3, 4, 5)):
    return jax.random.normal(jax.random.key(0), (2, *shape))


# ---- rescaled (2305.08891, equations 15 and 16) --------------------------------------------------


def test_rescaled_by_hand():
    """std of (1, 3) is 1; guided with w = 2 from 0 it is (3, 9) of std 3."""
    cond, uncond, w = jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)), jnp.array(2.0)
    for share, expected in ((0.5, [2, 6]), (1.0, [1, 3]), (0.25, [2.5, 7.5])):
        found = Rescaled(share=share)(cond, uncond, w)
        np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_the_spread_of_each_example_is_between_both(x64):
    cond, uncond = random_pair()
    guided = guide(cond, uncond, jnp.array([1.0, 4.0, 9.0]))
    found = rescaled(guided, cond, 0.7)
    spread = [np.asarray(x).reshape(3, -1).std(1) for x in (cond, guided, found)]
    np.testing.assert_allclose(spread[2], 0.7 * spread[0] + 0.3 * spread[1], rtol=1e-12)
    # Only the size changes: each example is a multiple of its guided prediction.
    ratio = np.asarray(found / guided).reshape(3, -1)
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 20, axis=1), rtol=1e-12)


def test_rescaling_leaves_unguided_and_constant_examples():
    cond, uncond = random_pair()
    rule = Rescaled(share=0.7)
    found = rule(cond, uncond, jnp.array([0.0, 2.0, 0.0]))
    np.testing.assert_array_equal(found[0], cond[0])
    assert np.abs(found[1] - cond[1]).max() > 0.1
    flat = rule(jnp.ones((1, 4)), jnp.zeros((1, 4)), jnp.array(1.0))  # std 0 over std 0
    np.testing.assert_array_equal(flat, [[2] * 4])


# ---- projected (APG, 2410.02416) -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [5, 0]),  # (3, 4) + 2 (1, -2)
        ({"parallel": 0.0}, [6.2, 1.6]),  # along (3, 4): -0.2 (3, 4); across: (1.6, -1.2)
        ({"parallel": 0.5}, [5.6, 0.8]),
        ({"norm": 2.5**0.5 / 2}, [4, 2]),  # the change has the root mean square √(5/2)
        ({"norm": 2.5**0.5 / 2, "parallel": 0.0}, [4.6, 2.8]),
        ({"norm": 100.0}, [5, 0]),
    ],
)
def test_projected_by_hand(settings, expected):
    cond, uncond = jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 6.0]])
    found = Projected(**settings)(cond, uncond, jnp.array(2.0))
    np.testing.assert_allclose(found, [expected], rtol=1e-6, atol=1e-6)


def test_what_is_added_is_across_each_example(x64):
    cond, uncond = random_pair()
    added = Projected(parallel=0.0)(cond, uncond, jnp.array([1.0, 3.0, 9.0])) - cond
    along = np.sum(np.asarray(added * cond), axis=(1, 2))
    np.testing.assert_allclose(along, 0, atol=1e-12)
    whole = Projected()(cond, uncond, jnp.array(3.0))
    np.testing.assert_allclose(whole, guide(cond, uncond, jnp.array(3.0)), rtol=1e-12)


def test_projection_of_nothing_is_finite():
    zero, one = jnp.zeros((1, 3)), jnp.ones((1, 3))
    rule = Projected(parallel=0.0, norm=0.5)
    np.testing.assert_array_equal(rule(zero, zero, jnp.array(2.0)), zero)
    np.testing.assert_allclose(rule(zero, one, jnp.array(2.0)), -one)  # |Δ| = 1, cut to .5
    np.testing.assert_array_equal(rule(one, zero, jnp.array(0.0)), one)


def test_rescaling_comes_after_projection():
    cond, uncond = random_pair()
    spec = GuidanceSpec(weight=3.0, rescale=0.7, parallel=0.25, norm=0.5)
    projected = Projected(parallel=0.25, norm=0.5)(cond, uncond, jnp.array(3.0))
    found = spec.rule(cond, uncond, jnp.array(3.0))
    np.testing.assert_allclose(found, rescaled(projected, cond, 0.7), rtol=1e-6)


def test_the_rule_of_settings():
    assert GuidanceSpec(weight=2.0).rule is guide  # the same program as without these settings
    assert GuidanceSpec(parallel=0.0).rule == Projected(parallel=0.0)
    assert GuidanceSpec(rescale=0.7).rule == Rescaled(share=0.7)
    assert hash(GuidanceSpec(rescale=0.7).rule) == hash(Rescaled(share=0.7))


# ---- momentum (APG) ------------------------------------------------------------------------------


DDIM = Ddim()


def with_momentum(rate, rule=guide, weight=2.0):
    """Predicts 1 without text and 1 + 2^n with it at evaluation n, so that Δ is 1, 2, 4, ..."""

    def both(z, logsnr, step):
        return jnp.array([[1.0], [0.0]]) * 2.0**step + 1 + 0 * z

    momentum = Momentum(before=jnp.zeros((1, 1)), rate=jnp.asarray(rate))
    return classifier_free_batched(both, np.full(4, weight), rule, momentum)


def end_of(denoiser, levels, sampler=DDIM, on_step=None):
    keys = jax.random.split(jax.random.key(0), 1)
    settings = {"logsnrs": levels, "z": jnp.array([[0.3]]), "to_data": False, "on_step": on_step}
    return sample(denoiser, sampler, keys=keys, **settings).item()


@pytest.mark.parametrize("rate", [0.0, -0.75, 0.5])
def test_momentum_sums_the_differences_of_earlier_steps(x64, rate):
    """x̂_n = 1 + 2^n + 2 Σ_k β^k 2^(n-k), and the path of constant x̂ is exact."""
    levels = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    change = [sum(rate**k * 2.0 ** (n - k) for k in range(n + 1)) for n in range(4)]
    x0 = np.array([1 + 2.0**n + 2 * change[n] for n in range(4)])
    alpha, sigma = (np.asarray(x) for x in alpha_sigma(jnp.asarray(levels)))
    expected = sigma[-1] * (0.3 / sigma[0] + np.sum(x0 * np.diff(alpha / sigma)))
    assert end_of(with_momentum(rate), levels) == pytest.approx(expected, rel=1e-10)
    stepwise = end_of(with_momentum(rate), levels, on_step=lambda *now: None)
    assert stepwise == pytest.approx(expected, rel=1e-10)


def test_momentum_goes_through_whatever_is_around_guidance(x64):
    """An interval leaves it as it is; a gradient, a corrector and a second evaluation bear it."""
    levels = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    alone = Partial(lambda z, logsnr, step: 1 + 2.0**step + 0 * z)
    inside = within(NoiseInterval(0.0, 4.0), with_momentum(-0.5), alone)  # not the first step
    change = [0, 2, 4 - 0.5 * 2, 8 - 0.5 * 3]
    x0 = np.array([1 + 2.0**n + 2 * change[n] for n in range(4)])
    alpha, sigma = (np.asarray(x) for x in alpha_sigma(jnp.asarray(levels)))
    expected = sigma[-1] * (0.3 / sigma[0] + np.sum(x0 * np.diff(alpha / sigma)))
    assert end_of(inside, levels) == pytest.approx(expected, rel=1e-10)
    drawn = reconstruction_guided(with_momentum(-0.5), lambda x: x, jnp.zeros((1, 1)), 1.0)
    drawn_not = end_of(with_momentum(-0.5), levels)
    assert end_of(drawn, levels) == pytest.approx(drawn_not, rel=1e-10)  # x̂ does not read z
    for sampler in (Heun(), Corrected(sampler=Ddim(), steps=2, delta=1e-12)):
        ends = [end_of(with_momentum(rate), levels, sampler) for rate in (0.0, -0.5)]
        assert abs(ends[0] - ends[1]) > 0.1


def test_a_denoiser_outside_of_the_loop_has_no_momentum():
    z, level = jnp.zeros((1, 1)), jnp.zeros(1)
    for _ in range(2):
        assert with_momentum(0.5)(z, level, jnp.array(1)).item() == 1 + 2 + 2 * 2


# ---- in an interval of noise levels (2404.07724) -------------------------------------------------

LEVELS = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])  # σ/α = e², e, 1, 1/e, 1/e²


def bounded(interval, seen=None):
    """Predicts 1 with text and 0 without, guided with w = 2 in the interval: 3 there, else 1."""

    def both(z, logsnr, step):  # z of one example, twice
        if seen is not None:
            jax.debug.callback(lambda n: seen.append(2 + int(n)), 0 * step, ordered=True)
        return jnp.array([[1.0], [0.0]]) + 0 * z

    def alone(z, logsnr, step):
        if seen is not None:
            jax.debug.callback(lambda n: seen.append(1 + int(n)), 0 * step, ordered=True)
        return 1.0 + 0 * z

    guided = classifier_free_batched(both, np.full(4, 2.0))
    return within(NoiseInterval(*interval), guided, Partial(alone))


@pytest.mark.parametrize(
    ("interval", "guided_steps"),
    [((0.0, np.inf), (0, 1, 2, 3)), ((1.0, 3.0), (1,)), ((0.9, 3.0), (1, 2)), ((0.0, 0.9), (3,))],
)
def test_the_path_is_that_of_guidance_where_it_is_on(x64, interval, guided_steps):
    """Where x̂ is constant, z_s/σ_s - z_t/σ_t = x̂ (α_s/σ_s - α_t/σ_t) is exact."""
    seen = []
    settings = {"logsnrs": LEVELS, "z": jnp.array([[0.3]]), "to_data": False}
    keys = jax.random.split(jax.random.key(0), 1)
    got = sample(bounded(interval, seen), Ddim(), keys=keys, **settings).item()
    jax.effects_barrier()
    alpha, sigma = (np.asarray(x) for x in alpha_sigma(jnp.asarray(LEVELS)))
    x0 = np.array([3.0 if i in guided_steps else 1.0 for i in range(4)])
    expected = sigma[-1] * (0.3 / sigma[0] + np.sum(x0 * np.diff(alpha / sigma)))
    assert got == pytest.approx(expected, rel=1e-10)
    assert seen == [2 if i in guided_steps else 1 for i in range(4)]  # evaluations of the network


def test_the_upper_end_belongs_to_the_interval():
    inside = NoiseInterval(float(np.exp(0.5)), 1.0 + float(np.exp(0.5)))
    found = inside(jnp.zeros(3), jnp.array([-1.0, -1.1, 1.0]), jnp.array(0))
    np.testing.assert_array_equal(found, [False, True, False])
    left = StepInterval(0.25, 0.75, 4)
    assert [bool(left(jnp.zeros((1, 2), int), jnp.array(i))) for i in range(4)] == [
        False,
        True,
        True,
        False,
    ]


def test_share_inside():
    levels = np.exp(-0.5 * LEVELS[:-1])
    assert GuidanceSpec().share_inside(levels) == 1
    assert GuidanceSpec(interval=(0.9, 3.0)).share_inside(levels) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rescale": 1.5}, r"rescale is 1.5.*\[0, 1\]"),
        ({"parallel": -0.5}, r"parallel is -0.5.*\[0, 1\]"),
        ({"norm": 0.0}, "GuidanceSpec.norm is 0.0"),
        ({"momentum": -1.0}, r"momentum is -1.0.*\(-1, 1\)"),
        ({"interval": (2.0, 1.0)}, r"interval is \(2.0, 1.0\).*\(low, high\)"),
        ({"interval": (1.0,)}, r"interval is \(1.0,\)"),
        ({"interval": (-1.0, 1.0)}, "0 <= low < high"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidanceSpec(**settings)
