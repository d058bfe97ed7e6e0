"""The best linear guess from two observations, against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.diffusion import schedules
from vidgen.imagen import preconditioning
from vidgen.imagen.conditioning import Augmentation, SpatialUpsample, TemporalUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import Conditioning, VideoBatch, VideoShape

D2 = preconditioning.SIGMA_DATA**2


def told(low_res, logsnr, variance):
    b = low_res.shape[0]
    return Conditioning(
        text=tiny.text(b),
        independent_frames=jnp.zeros(b, bool),
        low_res=low_res,
        aug_logsnr=jnp.asarray(logsnr),
        low_res_variance=jnp.asarray(variance),
    )


@pytest.mark.parametrize("logsnr", [-20.0, -3.0, 0.0, 4.0, 12.0, 20.0])
@pytest.mark.parametrize("variance", [1e-4, 0.01, 1.0])
def test_it_is_the_conditional_gaussian(logsnr, variance):
    z, low = tiny.normal(0, 1, 2, 4, 4, 3), tiny.normal(1, 1, 2, 4, 4, 3)
    cond = told(low, [2.0], [[variance, 3 * variance]])
    mean, std, difference = preconditioning.posterior(z, jnp.array([logsnr]), cond)
    snr = np.exp(np.float64(logsnr))
    alpha, sigma2 = np.sqrt(snr / (1 + snr)), 1 / (1 + snr)
    estimate = np.asarray(low, np.float64) / np.sqrt(1 / (1 + np.exp(-2.0)))
    for frame, s2 in enumerate((variance, 3 * variance)):
        s2 = s2 + preconditioning.MIN_VARIANCE
        # (z, y) have covariance C and covariance c with x: E[x | z, y] = c C⁻¹ (z, y)
        covariance = np.array(
            [[alpha**2 * D2 + sigma2, alpha * D2], [alpha * D2, D2 + s2]], np.float64
        )
        cross = np.array([alpha * D2, D2])
        shares = np.linalg.solve(covariance, cross)
        expected = shares[0] * np.asarray(z[0, frame], np.float64) + shares[1] * estimate[0, frame]
        np.testing.assert_allclose(mean[0, frame], expected, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(std[0, frame], np.sqrt(D2 - shares @ cross), rtol=1e-3)
        observed = np.asarray(z[0, frame], np.float64) - alpha * estimate[0, frame]
        np.testing.assert_allclose(
            difference[0, frame], observed / np.sqrt(sigma2 + alpha**2 * s2), rtol=1e-3, atol=1e-4
        )


def test_without_an_estimate_it_is_edms():
    z, logsnr = tiny.normal(0, 2, 3, 4, 4, 3), jnp.array([-1.0, 3.0])
    cond = told(jnp.zeros_like(z), [20.0, 20.0], np.full((2, 3), np.inf))
    mean, std, difference = preconditioning.posterior(z, logsnr, cond)
    alpha, sigma = schedules.alpha_sigma(logsnr[:, None, None, None, None])
    total = sigma**2 + D2 * alpha**2
    np.testing.assert_allclose(mean, D2 * alpha / total * z, rtol=1e-5)
    np.testing.assert_allclose(std[:, :1], sigma * np.sqrt(D2 / total), rtol=1e-5)
    np.testing.assert_array_equal(difference, 0)


@pytest.mark.parametrize("fill", ["repeat", "blank", "interpolate"])
def test_the_variance_says_which_frames_are_known(fill):
    conditioner = TemporalUpsample(
        fill=fill, residual_std=0.2, augmentation=Augmentation(sampling_logsnr=4.0)
    )
    low = tiny.normal(0, 2, 2, 4, 4, 3)
    cond = conditioner.for_sampling(low, tiny.text(2), jax.random.split(jax.random.key(0), 2))
    noise = np.exp(-4.0)
    gap = np.inf if fill == "blank" else 0.04 + noise
    np.testing.assert_allclose(cond.low_res_variance, [[noise, gap, noise, gap]] * 2, rtol=1e-5)


def test_of_unrelated_images_the_next_tells_nothing():
    conditioner = TemporalUpsample(residual_std=0.2)
    batch = VideoBatch(
        video=tiny.normal(0, 2, 4, 4, 4, 3),
        text=tiny.text(2),
        independent_frames=jnp.array([True, False]),
    )
    _, cond = conditioner.for_training(batch, jax.random.key(0))
    np.testing.assert_array_equal(np.isinf(cond.low_res_variance), [[0, 1, 0, 1], [0, 0, 0, 0]])


def test_gaps_are_filled_in_proportion():
    low = jnp.array([0.0, 3.0, 9.0])[None, :, None, None, None]
    up = TemporalUpsample(factor=3, fill="interpolate").up(low)
    np.testing.assert_allclose(up.ravel(), [0, 1, 2, 3, 5, 7, 9, 9, 9], rtol=1e-6)


def test_a_fresh_stage_begins_at_the_best_linear_guess():
    stage = DiffusionStage(
        shape=VideoShape(frames=2, height=8, width=8, fps=8.0),
        network=tiny.network(tiny.ONE_LEVEL, norm="channel"),
        conditioner=SpatialUpsample(residual_std=0.1),
        parameterization="x0",
    )
    batch = VideoBatch(
        video=tiny.normal(0, 2, 2, 8, 8, 3),
        text=tiny.text(2),
        independent_frames=jnp.zeros(2, bool),
    )
    key = jax.random.key(0)
    params = jax.jit(stage.init)(key, batch)
    x, cond = stage.conditioner.for_training(batch, key)
    z, logsnr = tiny.normal(5, *x.shape), jnp.array([-2.0, 6.0])
    out = jax.jit(stage.network.apply)(params, z, logsnr, cond)
    mean, _, _ = preconditioning.posterior(z, logsnr, cond)
    np.testing.assert_allclose(out, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_residual_is_positive(value):
    with pytest.raises(ValueError, match=f"residual_std is {value}"):
        SpatialUpsample(residual_std=value)


def test_it_goes_with_x0_alone():
    with pytest.raises(ValueError, match="x0"):
        DiffusionStage(
            shape=VideoShape(frames=2, height=8, width=8, fps=8.0),
            network=tiny.network(),
            conditioner=SpatialUpsample(residual_std=0.1),
            parameterization="v",
        )
