"""Comparisons of videos: closed forms, the window's equation, and order under distortion."""

import numpy as np
import pytest
import skimage.metrics

from vidgen.evals import pictures


def clip(seed=0, frames=3, size=24, batch=2):
    """Smooth moving waves, in [-1, 1]."""
    t, y, x = np.meshgrid(*(np.arange(n) for n in (frames, size, size)), indexing="ij")
    phases = np.random.default_rng(seed).uniform(0, 6, (batch, 3))
    waves = [
        [np.sin(x / 3 + t + p) * np.cos(y / (4 + c)) for c, p in enumerate(row)] for row in phases
    ]
    return np.moveaxis(np.array(waves), 1, -1)


def test_psnr():
    a = clip()
    np.testing.assert_allclose(pictures.psnr(a, a + 0.2), 10 * np.log10(4 / 0.04))
    assert np.isinf(pictures.psnr(a, a)).all()


def test_ssim_of_one_window_is_its_equation():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 1, 1, 11, 11, 1))
    places = np.arange(11) - 5
    w = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    x, y = a[0, 0, ..., 0], b[0, 0, ..., 0]
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
    both = (w * (x - mx) * (y - my)).sum()
    c1, c2 = 0.02**2, 0.06**2
    expected = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert pictures.ssim(a, b) == pytest.approx(expected)


def test_ssim_of_flat_frames_compares_their_level_alone():
    a, b = np.full((1, 2, 20, 20, 3), 0.5), np.full((1, 2, 20, 20, 3), 0.1)
    c1 = 0.02**2
    assert pictures.ssim(a, b) == pytest.approx((2 * 0.05 + c1) / (0.25 + 0.01 + c1))


@pytest.mark.parametrize("measure, size", [(pictures.ssim, 24), (pictures.ms_ssim, 180)])
def test_similarity_falls_with_distortion(measure, size):
    a = clip(frames=2, size=size)
    assert measure(a, a) == pytest.approx(1)
    noise = np.random.default_rng(1).normal(size=a.shape)
    falling = [measure(a, a + s * noise) for s in (0.02, 0.1, 0.5)]
    assert (np.diff(falling, axis=0) < -0.005).all()
    np.testing.assert_allclose(measure(a, a + noise), measure(a + noise, a))


def test_clips_of_a_batch_are_judged_alone():
    a, b = clip(0), clip(1)
    for measure in (pictures.psnr, pictures.ssim):
        both = measure(a, b)
        np.testing.assert_allclose(both, [measure(a[i : i + 1], b[i : i + 1])[0] for i in range(2)])


def test_flicker():
    still = clip(frames=1).repeat(5, axis=1)
    assert (pictures.flicker(still) == 0).all()
    ramp = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((1, 5, 4, 4, 3))
    assert pictures.flicker(ramp) == pytest.approx(0, abs=1e-12)
    blink = np.array([-1, 1, -1, 1])[:, None, None, None] * np.ones((1, 4, 4, 4, 3))
    assert pictures.flicker(blink) == pytest.approx(1)


def test_cuts():
    scenes = np.array([-1, -1, 1, 1, 1])[:, None, None, None] * np.ones((1, 5, 4, 4, 3))
    assert pictures.cuts(scenes) == pytest.approx(1 / 4)
    assert (pictures.cuts(clip(frames=1).repeat(4, axis=1)) == 0).all()


def test_mistakes():
    with pytest.raises(ValueError, match=r"\(2, 3, 24, 24, 3\) and \(2, 2, 24, 24, 3\)"):
        pictures.psnr(clip(), clip(frames=2))
    with pytest.raises(ValueError, match="24 x 24 .* 176 "):
        pictures.ms_ssim(clip(), clip())
    with pytest.raises(ValueError, match="clip of 2 frame.* 3 "):
        pictures.flicker(clip(frames=2))


def test_psnr_and_ssim_agree_with_scikit_image():
    a = clip(size=32)
    b = a + 0.2 * np.random.default_rng(0).normal(size=a.shape)
    psnr, ssim = pictures.psnr(a, b), pictures.ssim(a, b)
    for i in range(len(a)):
        assert psnr[i] == pytest.approx(
            skimage.metrics.peak_signal_noise_ratio(a[i], b[i], data_range=2)
        )
        maps = [
            skimage.metrics.structural_similarity(
                x, y, data_range=2, channel_axis=-1, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, full=True,
            )[1][5:-5, 5:-5]
            for x, y in zip(a[i], b[i], strict=True)
        ]  # fmt: skip
        assert ssim[i] == pytest.approx(np.mean(maps), abs=1e-6)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_flat_clips_have_a_similarity(level):
    """No variance in either: the constants decide, and rounding makes no number less than none."""
    flat = np.full((1, 3, 176, 176, 3), level)
    for measure in (pictures.ssim, pictures.ms_ssim):
        np.testing.assert_allclose(measure(flat, flat), 1.0)
        value = measure(flat, np.full_like(flat, -0.5))
        assert np.isfinite(value).all() and (value <= 1).all()
    assert pictures.flicker(flat) == 0 and pictures.cuts(flat) == 0
