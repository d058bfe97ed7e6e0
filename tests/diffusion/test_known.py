import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from vidgen.diffusion import guidance, sampling
from vidgen.diffusion import known as known_content
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.diffusion.sampling import sample
from vidgen.diffusion.schedules import Cosine, alpha_sigma, diffuse
from vidgen.types import Known

every_kind = pytest.mark.parametrize("kind", ["ddim", "ancestral", "stochastic", "dpmpp_2m"])
RHO = 0.8
COVARIANCE = np.array([[1, RHO], [RHO, 1]])


def correlated(z, logsnr, step):
    """The exact denoiser of pairs (a, b) ~ N(0, [[1, 0.8], [0.8, 1]])."""
    alpha, sigma = alpha_sigma(logsnr[0])
    cov = jnp.asarray(COVARIANCE, z.dtype)
    gain = alpha * cov @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * jnp.eye(2, dtype=z.dtype))
    return z @ gain.T


def curved(scale, z, logsnr, step):
    """A denoiser that is not affine and mixes the frames and pixels of a video."""
    return jnp.tanh(scale * z + 0.5 * z.mean(axis=(1, 2, 3), keepdims=True)) + 0.01 * step


def some_keys(count):
    return jax.random.split(jax.random.key(0), count)


def first_frames(count, *, batch=2, frames=3):
    video = jax.random.uniform(jax.random.key(9), (batch, frames, 2, 2, 3), minval=-1)
    mask = jnp.broadcast_to(jnp.arange(frames) < count, (batch, frames))
    return Known(video=video, mask=mask[:, :, None, None, None])


def settings(kind, shape, *, steps=4):
    keys = some_keys(shape[0])
    spec = SamplerSpec(kind=kind, steps=steps)
    noise = sampling.initial_noise(keys, shape[1:])
    return spec.sampler(), dict(logsnrs=spec.logsnrs(Cosine()), z=noise, keys=keys)


def finished(x0_fn, known, noise, *, weight=0.0, method="none"):
    drawn = known_content.reconstruction_guidance(x0_fn, known, weight)
    return known_content.replace_known(guidance.thresholded(drawn, method=method), known, noise)


# ---- one evaluation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("u", "exact", "error", "guided"),
    [
        (0.5, 0.41710657, 0.28, 0.14678187),
        (0.2, -0.08061217, 0.03, -0.10278063),
        (0.05, -0.28364247, 2e-4, -0.28375808),
        (0.01, -0.29933450, 2e-7, -0.29933469),
    ],
)
def test_the_unknown_part_is_drawn_to_the_known_one(x64, u, exact, error, guided):
    """The pair (a, b) with a = 0.9 known, z = (0.4, -0.3): E[b | z, a] as the noise vanishes."""
    known = Known(video=jnp.array([[0.9, 77.0]]), mask=jnp.array([[True, False]]))
    z = jnp.array([[0.4, -0.3]])
    fn = known_content.reconstruction_guidance(correlated, known, 1.0)
    b = fn(z, Cosine()(jnp.array([u])), jnp.array(0))[0, 1].item()
    assert b == pytest.approx(guided, rel=1e-6)
    assert b == pytest.approx(exact, abs=error)


def test_the_denoiser_is_shown_the_known_data_at_the_level_of_z():
    def show(z, logsnr, step):
        return 10 * z

    known, logsnr = first_frames(1), jnp.array([0.5, -3.0])
    z, noise = jax.random.normal(jax.random.key(1), (2, *known.video.shape))
    got = known_content.replace_known(show, known, noise)(z, logsnr, jnp.array(0))
    np.testing.assert_array_equal(got[:, :1], known.video[:, :1])
    np.testing.assert_array_equal(got[:, 1:], 10 * z[:, 1:])
    shown = []

    def spy(z, logsnr, step):
        shown.append(z)
        return z

    known_content.replace_known(spy, known, noise)(z, logsnr, jnp.array(0))
    expected = diffuse(known.video, noise, logsnr)
    np.testing.assert_array_equal(shown[0][:, :1], expected[:, :1])
    np.testing.assert_array_equal(shown[0][:, 1:], z[:, 1:])


def test_without_reconstruction_weight_nothing_is_added():
    assert known_content.reconstruction_guidance(correlated, first_frames(1), 0.0) is correlated


def test_drawing_is_through_the_unclipped_prediction():
    """Every value is clipped, so behind the threshold no gradient would be left."""

    def far(z, logsnr, step):
        return 5 + z + z.sum(axis=(1, 2, 3, 4), keepdims=True)

    known, logsnr = first_frames(1), jnp.zeros(2)
    z = jnp.zeros_like(known.video)
    drawn = finished(far, known, z, weight=1.0, method="static")
    assert float(jnp.abs(drawn(z, logsnr, jnp.array(0))[:, 1:] - 1).max()) > 0.1
    plain = finished(far, known, z, method="static")
    np.testing.assert_array_equal(plain(z, logsnr, jnp.array(0))[:, 1:], 1)


# ---- whole samples -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_samples_end_on_the_known_pixels(kind, weight):
    known = first_frames(1)
    sampler, run = settings(kind, known.video.shape)
    fn = finished(Partial(curved, 1.3), known, run["z"], weight=weight)
    got = sample(fn, sampler, **run)
    np.testing.assert_array_equal(got[:, :1], known.video[:, :1])
    assert bool(jnp.isfinite(got).all())
    other = known.replace(video=-known.video)
    changed = sample(finished(Partial(curved, 1.3), other, run["z"], weight=weight), sampler, **run)
    assert float(jnp.abs(got - changed)[:, 1:].max()) > 0.01  # what is drawn depends on it


@every_kind
def test_a_mask_of_pixels(kind):
    video = jax.random.uniform(jax.random.key(9), (2, 3, 2, 2, 3))
    mask = jax.random.bernoulli(jax.random.key(8), 0.5, (2, 3, 2, 2, 1))
    known = Known(video=video, mask=mask)
    sampler, run = settings(kind, video.shape)
    got = sample(finished(Partial(curved, 1.3), known, run["z"], weight=1.0), sampler, **run)
    everywhere = np.broadcast_to(mask, video.shape)
    np.testing.assert_array_equal(np.asarray(got)[everywhere], np.asarray(video)[everywhere])
    assert np.all(np.asarray(got)[~everywhere] != np.asarray(video)[~everywhere])


@every_kind
def test_all_known_or_nothing_known(kind):
    known = first_frames(3)
    sampler, run = settings(kind, known.video.shape)
    fn = Partial(curved, 1.3)
    np.testing.assert_array_equal(
        sample(finished(fn, known, run["z"]), sampler, **run), known.video
    )
    nothing = finished(fn, first_frames(0), run["z"], weight=3.0)
    plain = sample(fn, sampler, **run)
    np.testing.assert_allclose(sample(nothing, sampler, **run), plain, atol=1e-6)


def test_step_by_step_is_the_same_and_compiles_once():
    known = first_frames(1)
    sampler, run = settings("ancestral", known.video.shape)
    traced = []

    def counted(scale, z, logsnr, step):
        traced.append(1)
        return curved(scale, z, logsnr, step)

    def made(scale, known):
        return finished(Partial(counted, jnp.array(scale)), known, run["z"], weight=1.0)

    def stepwise(scale, known):
        return sample(made(scale, known), sampler, on_step=lambda *_: None, **run)

    got = stepwise(1.3, known)
    np.testing.assert_allclose(got, sample(made(1.3, known), sampler, **run), atol=1e-6)
    traced.clear()
    other = stepwise(0.7, known.replace(video=-known.video))
    assert not traced  # parameters and known data are arguments of the compiled step
    assert float(jnp.abs(got - other).max()) > 0.1


def test_examples_do_not_depend_on_their_neighbours():
    known = first_frames(1)
    sampler, run = settings("ancestral", known.video.shape)
    together = sample(finished(Partial(curved, 1.3), known, run["z"], weight=2.0), sampler, **run)
    for i in range(2):
        mine = Known(video=known.video[i : i + 1], mask=known.mask[i : i + 1])
        keys, z = run["keys"][i : i + 1], run["z"][i : i + 1]
        fn = finished(Partial(curved, 1.3), mine, z, weight=2.0)
        alone = sample(fn, sampler, logsnrs=run["logsnrs"], z=z, keys=keys)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)


CONDITIONAL = (RHO * 0.9, (1 - RHO**2) ** 0.5)  # mean and std of b where a = 0.9: 0.72, 0.6


@pytest.mark.parametrize(
    ("kind", "replaced", "drawn"),
    [
        ("ddim", 0.30, 0.51),
        ("ancestral", 0.44, 0.65),
        ("stochastic", 0.44, 0.65),
        ("dpmpp_2m", 0.30, 0.51),
    ],
)
def test_drawn_samples_have_nearly_the_conditional_distribution(kind, replaced, drawn):
    """b | a = 0.9 over 4000 samples, w_r = 2; replacement alone is too little and too spread.

    The exact values are 0.72 and 0.6. Reconstruction guidance approximates the missing score (it
    takes the variance of a given z to be σ²/α²/w_r), so it comes near and is not exact.
    """
    count = 4000
    known = Known(
        video=jnp.full((count, 2), 0.9), mask=jnp.broadcast_to(jnp.array([True, False]), (count, 2))
    )
    sampler, run = settings(kind, (count, 2), steps=64)
    got = {}
    for weight in (0.0, 2.0):
        fn = finished(correlated, known, run["z"], weight=weight)
        b = np.asarray(sample(fn, sampler, **run))[:, 1]
        got[weight] = (b.mean(), b.std())
    mean, std = CONDITIONAL
    assert got[0.0][0] == pytest.approx(replaced, abs=0.04)
    assert got[2.0][0] == pytest.approx(drawn, abs=0.04)
    assert abs(got[2.0][0] - mean) < 0.6 * abs(got[0.0][0] - mean)
    assert abs(got[2.0][1] - std) < 0.05 < abs(got[0.0][1] - std)


def test_wrong_sizes_and_weights_are_explained():
    known = first_frames(1)
    with pytest.raises(ValueError, match=r"\(2, 3, 2, 2, 3\).*\(2, 4, 2, 2, 3\)"):
        known_content.replace_known(Partial(curved, 1.0), known, jnp.zeros((2, 4, 2, 2, 3)))
    for mask in (known.mask[:, :2], known.mask[None]):
        with pytest.raises(ValueError, match=r"mask .*\(2, 3, 2, 2, 3\)"):
            known_content.replace_known(Partial(curved, 1.0), known.replace(mask=mask), known.video)
    with pytest.raises(ValueError, match="reconstruction weight is -1.0"):
        known_content.reconstruction_guidance(Partial(curved, 1.0), known, -1.0)
    with pytest.raises(ValueError, match="GuidanceSpec.reconstruction is -1.0"):
        GuidanceSpec(reconstruction=-1.0)
