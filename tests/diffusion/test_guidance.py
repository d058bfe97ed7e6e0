import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.diffusion import guidance
from vidgen.diffusion.guidance import GuidanceSpec, X0Fn
from vidgen.diffusion.parameterization import EPS, V, eps_from_x0
from vidgen.diffusion.samplers import ddim_step
from vidgen.diffusion.schedules import Cosine, alpha_sigma, expand

FIRST = jnp.array(0)


def constant(value):
    return lambda z, logsnr, step: jnp.full_like(z, value)


def constants(first, second):
    """What is predicted for a batch of pairs."""
    return lambda z, logsnr, step: jnp.tile(
        jnp.array([[first], [second]]), (len(z) // 2, z.shape[1])
    )


def test_guidance_arithmetic():
    cond, uncond = jnp.full((2, 3), 2.0), jnp.full((2, 3), 1.0)
    np.testing.assert_array_equal(guidance.guide(cond, uncond, jnp.array(0.5)), 2.5)
    imagen = 1.5 * cond + (1 - 1.5) * uncond  # Imagen's w is 1 + w
    np.testing.assert_array_equal(imagen, uncond + 1.5 * (cond - uncond))
    np.testing.assert_array_equal(guidance.guide(cond, uncond, jnp.array(0.5)), imagen)


def test_one_weight_per_example():
    cond, uncond = jnp.full((2, 3), 2.0), jnp.full((2, 3), 1.0)
    got = guidance.guide(cond, uncond, jnp.array([0.0, 3.0]))
    np.testing.assert_array_equal(got, [[2] * 3, [5] * 3])


def test_no_guidance_returns_the_conditional_bits():
    cond, uncond = jax.random.normal(jax.random.key(0), (2, 7, 5))
    got = jax.jit(guidance.guide)(cond, uncond, jnp.array(0.0))
    np.testing.assert_array_equal(got, cond)


def test_spaces_agree_before_thresholding(x64):
    """Guiding x0, eps or v gives the same next z; clipping x0 afterwards does not."""
    t, s = (Cosine()(jnp.array([u])) for u in (0.6, 0.4))
    z, w = jnp.array([[0.5, -2.0]]), jnp.array(3.0)
    cond, uncond = jnp.array([[0.2, 0.9]]), jnp.array([[-0.1, 0.4]])
    x0 = guidance.guide(cond, uncond, w)
    eps = guidance.guide(eps_from_x0(cond, z, t), eps_from_x0(uncond, z, t), w)
    alpha, sigma = alpha_sigma(expand(t, z))
    v = guidance.guide((alpha * z - cond) / sigma, (alpha * z - uncond) / sigma, w)
    expected = ddim_step(z, x0, t, s)
    np.testing.assert_allclose(ddim_step(z, EPS.to_x0(eps, z, t), t, s), expected, rtol=1e-9)
    np.testing.assert_allclose(ddim_step(z, V.to_x0(v, z, t), t, s), expected, rtol=1e-9)
    clipped = ddim_step(z, guidance.static_threshold(x0), t, s)
    assert abs(clipped - expected).max() > 0.1
    alpha_s, sigma_s = alpha_sigma(s)
    recomputed = eps_from_x0(guidance.static_threshold(x0), z, t)
    np.testing.assert_allclose(
        clipped, alpha_s * guidance.static_threshold(x0) + sigma_s * recomputed, rtol=1e-9
    )


def test_weights_change_with_the_step():
    fn = guidance.classifier_free_batched(constants(2.0, 1.0), np.array([0.0, 1.0, 15.0]))
    assert isinstance(fn, X0Fn)
    z, logsnr = jnp.zeros((2, 3)), jnp.zeros(2)
    got = [float(fn(z, logsnr, jnp.array(i))[0, 0]) for i in range(3)]
    assert got == [2, 3, 17]


def test_one_doubled_batch_equals_two_evaluations():
    def denoise(condition, z, logsnr, step):
        return jnp.tanh(z * condition[:, None]) + expand(logsnr, z)

    z = jax.random.normal(jax.random.key(0), (3, 4))
    condition, logsnr = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, 0.2, 0.3])
    null, weights = jnp.zeros(3), np.array([2.0, 4.0])
    both = Partial(denoise, guidance.pair(condition, null))
    one = guidance.classifier_free_batched(both, weights)(z, logsnr, jnp.array(1))
    two = (denoise(told, z, logsnr, 1) for told in (condition, null))
    np.testing.assert_array_equal(one, guidance.guide(*two, jnp.array(4.0)))


def test_what_is_between_two_prompts():
    """(1 - m) a + m b, with an m for each example; 0 and 1 give the bits of one prompt."""

    def predict(condition, z, logsnr, step):
        return jnp.tanh(z * condition[:, None]) + expand(logsnr, z) + step

    z = jax.random.normal(jax.random.key(0), (3, 4))
    a, b, logsnr = jnp.array([1.0, 2.0, 3.0]), jnp.array([-1.0, 0.5, 7.0]), jnp.arange(3.0)
    both = Partial(predict, guidance.pair(a, b))
    weight = jnp.array([0.0, 0.25, 1.0])
    found = guidance.mixed(both, weight)(z, logsnr, jnp.array(1))
    of_a, of_b = (predict(condition, z, logsnr, 1) for condition in (a, b))
    np.testing.assert_array_equal(found[0], of_a[0])
    np.testing.assert_allclose(found[1], 0.75 * of_a[1] + 0.25 * of_b[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2], of_b[2])


def test_pair_interleaves_every_leaf():
    first = {"a": jnp.array([1, 2]), "b": jnp.array([[1.0], [2.0]]), "none": None}
    got = guidance.pair(first, jax.tree.map(lambda x: -x, first))
    np.testing.assert_array_equal(got["a"], [1, -1, 2, -2])
    np.testing.assert_array_equal(got["b"], [[1], [-1], [2], [-2]])


def test_dynamic_threshold():
    x0 = jnp.array([[-3, -1.5, -0.5, 0, 0.2, 0.8, 1.2, 2.5]])
    expected = [-1, -0.502934, -0.167645, 0, 0.067058, 0.268231, 0.402347, 0.838223]
    np.testing.assert_allclose(guidance.dynamic_threshold(x0)[0], expected, atol=1e-6)
    halves = [-1, -1, -0.5, 0, 0.2, 0.8, 1, 1]
    np.testing.assert_allclose(guidance.dynamic_threshold(x0, 50.0)[0], halves, rtol=1e-6)


def test_dynamic_threshold_leaves_values_in_range_alone():
    x0 = jnp.array([[-0.9, 0.3, 0.8]])
    np.testing.assert_array_equal(guidance.dynamic_threshold(x0), x0)


def test_dynamic_threshold_is_per_example_over_all_axes():
    x0 = 3 * jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 3))
    together = guidance.dynamic_threshold(x0, 90.0)
    for i in range(3):
        scale = np.percentile(np.abs(x0[i]), 90)
        alone = np.clip(x0[i], -scale, scale) / scale
        np.testing.assert_allclose(together[i], alone, rtol=1e-5)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_thresholds_end_in_range(method):
    def wild(z, logsnr, step):
        return 5 * z

    z = jax.random.normal(jax.random.key(0), (2, 100))
    got = guidance.thresholded(wild, method=method)(z, jnp.zeros(2), FIRST)
    assert float(jnp.abs(got).max()) == 1
    if method == "static":
        np.testing.assert_array_equal(got, jnp.clip(5 * z, -1, 1))


def test_threshold_comes_after_guidance():
    """(1 + w) 0.9 - w 0.7 = 1.5 is over the range although neither half is."""
    guided = guidance.classifier_free_batched(constants(0.9, 0.7), np.array([3.0]))
    fn = guidance.thresholded(guided, method="static")
    assert fn(jnp.zeros((1, 2)), jnp.zeros(1), FIRST)[0, 0] == 1
    assert guidance.thresholded(guided, method="none") is guided


def test_constant_weights():
    np.testing.assert_array_equal(GuidanceSpec(weight=6.0).weights(4), [6] * 4)
    np.testing.assert_array_equal(GuidanceSpec().weights(3), [0] * 3)


def test_oscillating_weights_of_few_steps():
    quarter = GuidanceSpec(weight=15.0, low=1.0, constant_fraction=0.25)
    np.testing.assert_array_equal(quarter.weights(8), [15, 15, 15, 1, 15, 1, 15, 1])
    np.testing.assert_array_equal(quarter.weights(7), [15, 15, 1, 15, 1, 15, 1])
    tenth = GuidanceSpec(weight=15.0, low=1.0)
    by_steps = {steps: tenth.weights(steps).tolist() for steps in (1, 2, 3, 6)}
    assert by_steps == {1: [1], 2: [15, 1], 3: [1, 15, 1], 6: [15, 1, 15, 1, 15, 1]}
    np.testing.assert_array_equal(
        GuidanceSpec(weight=15.0, low=1.0, constant_fraction=0.9).weights(3), [15, 15, 1]
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.99])
def test_oscillating_weights_end_low_whatever_the_number_of_steps(fraction):
    spec = GuidanceSpec(weight=15.0, low=1.0, constant_fraction=fraction)
    for steps in (*range(1, 66), 128, 255, 256, 1000):
        weights = spec.weights(steps)
        constant = min(round(fraction * steps), steps - 1)
        assert weights[-1] == 1 and (weights[:constant] == 15).all()
        part = weights[constant:]
        assert (part[1:] != part[:-1]).all() and set(part) <= {1, 15}  # each other step


def test_a_constant_fraction_of_one_never_oscillates():
    never = GuidanceSpec(weight=15.0, low=1.0, constant_fraction=1.0)
    np.testing.assert_array_equal(never.weights(3), [15] * 3)


def test_weights_of_examples_without_text():
    """They are not guided, bit for bit; the others as before, in packs of images too."""
    weights = guidance.GuidanceSpec(weight=3.0, low=1.0, constant_fraction=0.5).weights(2)
    mask = jnp.array([[True, False], [False, False]])
    found = guidance.with_text(weights, mask)
    np.testing.assert_array_equal(found, [[3, 0], [1, 0]])
    np.testing.assert_array_equal(guidance.with_text(weights, mask, 0.5), [[3, 0.5], [1, 0.5]])
    np.testing.assert_array_equal(guidance.with_text(weights, mask[:, :, None]), found)
    x = jnp.float32([0.1, 0.7])
    np.testing.assert_array_equal(guidance.guide(x, x, found[0])[1], x[1])


def test_is_unguided():
    assert GuidanceSpec().is_unguided
    assert GuidanceSpec(low=0.0).is_unguided
    assert not GuidanceSpec(weight=0.1).is_unguided
    assert not GuidanceSpec(low=1.0).is_unguided


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": "clip"}, "threshold 'clip'.*none, static, dynamic"),
        ({"percentile": 0.0}, r"percentile is 0.0.* \(0, 100\]"),
        ({"weight": -1.0}, "GuidanceSpec.weight is -1.0.*>= 0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"low": -2.0}, "low is -2.0"),
        ({"constant_fraction": 1.5}, r"constant_fraction is 1.5.*\[0, 1\]"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidanceSpec(**settings)
    if "threshold" in settings:
        with pytest.raises(ValueError, match=message):
            guidance.thresholded(constant(0.0), method=settings["threshold"])


@pytest.mark.parametrize(
    ("u", "exact", "guided"),
    [
        (0.5, 0.41710657, 0.14678187),
        (0.2, -0.08061217, -0.10278063),
        (0.05, -0.28364247, -0.28375808),
        (0.01, -0.29933450, -0.29933469),
    ],
)
def test_reconstruction_guidance(x64, u, exact, guided):
    """Correlated pair (a, b), a known: approaches E[b | z, a] as the noise vanishes."""
    logsnr = Cosine()(jnp.array([u]))
    alpha, sigma = (x.item() for x in alpha_sigma(logsnr))
    cov = np.array([[1, 0.8], [0.8, 1]])
    gain = alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(2))

    def denoise(z, logsnr, step):
        return z @ gain.T

    z, known = jnp.array([[0.4, -0.3]]), jnp.array([[0.9]])
    fn = guidance.reconstruction_guided(denoise, lambda x: x[:, :1], known, 1.0)
    assert fn(z, logsnr, FIRST)[0, 1].item() == pytest.approx(guided, rel=1e-6)

    seen = np.array([[1, 0], [alpha, 0], [0, alpha]])  # a, z_a, z_b as functions of (a, b)
    noise = sigma**2 * np.diag([0.0, 1, 1])
    gain_all = cov[1] @ seen.T @ np.linalg.inv(seen @ cov @ seen.T + noise)
    assert gain_all @ [0.9, 0.4, -0.3] == pytest.approx(exact, rel=1e-6)


def test_reconstruction_guidance_keeps_examples_apart():
    def denoise(z, logsnr, step):
        return jnp.sin(z) * expand(logsnr, z)

    z, known = jax.random.normal(jax.random.key(0), (2, 3, 4))
    logsnr = jnp.array([0.5, 1.0, 1.5])
    fn = guidance.reconstruction_guided(denoise, lambda x: x[:, ::2], known[:, ::2], 2.0)
    alone = [
        guidance.reconstruction_guided(denoise, lambda x: x[:, ::2], known[i : i + 1, ::2], 2.0)(
            z[i : i + 1], logsnr[i : i + 1], FIRST
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(fn(z, logsnr, FIRST), jnp.concatenate(alone), rtol=1e-6)
