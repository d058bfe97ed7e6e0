"""Metrics from rows: values, sample sizes, warnings, errors.

Tests of vidgen/evals/set_metrics.py, vidgen/sprites/metrics.py too.
"""

import numpy as np
import pytest
import scipy.linalg

from vidgen.evals import clip_metrics, distances, metrics, set_metrics
from vidgen.evals.metrics import METRICS
from vidgen.sprites import metrics as sprite_metrics

MODULES = (set_metrics, clip_metrics, sprite_metrics)  # they register what they hold


def features(n, d=6, frames=None, seed=0, shift=0.0):
    shape = (n, d) if frames is None else (n, frames, d)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) + shift


def by_scipy(a, b):
    """The Fréchet distance, with a matrix root of the product itself."""
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * root)


@pytest.mark.parametrize("n", [20, 40])
def test_fvd_is_the_frechet_distance_of_all_clips(n):
    rows = [features(n), features(50, seed=1, shift=0.3)]
    found = METRICS["fvd"].result(rows)
    expected = by_scipy(*(np.asarray(x, np.float64) for x in rows))
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert (found["n"], found["n_real"], found["better"]) == (n, 50, "lower")
    assert f"{n} clips: below 256" in found["warning"]
    assert (found["stderr"] is None) == (n < 30)


def test_frames_count_one_by_one_in_a_distance_of_pictures():
    rows = [features(40, frames=3), features(40, frames=3, seed=1, shift=0.5)]
    found = METRICS["fid"].result(rows)
    flat = [x.reshape(-1, 6).astype(np.float64) for x in rows]
    assert found["value"] == pytest.approx(by_scipy(*flat), rel=1e-6)
    kernel = METRICS["kid"].result(rows)
    assert kernel["value"] == pytest.approx(distances.kernel(*flat)) and kernel["warning"] is None


def test_the_error_of_fvd_is_what_other_draws_show():
    draws = [
        METRICS["fvd"].result([features(300, 3, seed=2 * i), features(300, 3, seed=2 * i + 1)])
        for i in range(40)
    ]
    true = np.std([found["value"] for found in draws])
    assert 0.5 * true < np.median([found["stderr"] for found in draws]) < 2 * true
    assert draws[0]["warning"] is None


def test_a_kernel_distance_of_many_vectors_is_the_mean_of_blocks():
    a, b = features(2100), features(2100, seed=1)
    found = METRICS["kvd"].result([a, b])
    blocks = [distances.kernel(a[i::3], b[i::3]) for i in range(3)]
    assert found["value"] == pytest.approx(np.mean(blocks))
    assert found["stderr"] == pytest.approx(np.std(blocks, ddof=1) / np.sqrt(3))


def test_inception_features_are_pool_then_logits():
    made = np.concatenate([features(40, 2048, 2), features(40, 10, 2, seed=5)], axis=-1)
    real = np.concatenate([features(40, 2048, 2, seed=1), features(40, 10, 2, seed=6)], axis=-1)
    kid = METRICS["kid"].result([made, real])["value"]
    flat = [x[..., :2048].reshape(-1, 2048) for x in (made, real)]
    assert kid == pytest.approx(distances.kernel(*flat))
    score = METRICS["inception_score"].result([made])
    assert score["value"] == pytest.approx(
        distances.inception_score(made[..., 2048:].reshape(-1, 10))
    )


def test_means_have_their_standard_error_and_columns_their_name():
    values = np.array([20.0, 22.0, 27.0])
    found = METRICS["psnr"].result([values])
    assert (found["value"], found["unit"], found["n"]) == (23.0, "dB", 3)
    assert found["stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(3))
    rows = [np.array([[1, 1, 0, 0, 0.3], [1, 0, 0, 0, 0.5]])]
    shares = [METRICS[f"probe_{n}"].result(rows)["value"] for n in ("subject", "motion", "all")]
    assert shares == [1.0, 0.5, 0.0]


def test_identical_pairs_are_counted_and_left_out():
    found = METRICS["psnr"].result([np.array([np.inf, 20.0, np.inf, 24.0, 25.0])])
    assert (found["value"], found["n"], found["identical"]) == (23.0, 5, 2)
    assert found["stderr"] == pytest.approx(np.std([20, 24, 25], ddof=1) / np.sqrt(3))
    assert "2 of 5 clips are identical to the truth" in found["warning"]
    assert "mean of the other 3" in found["warning"]
    one = METRICS["psnr"].result([np.array([np.inf, 20.0])])
    assert (one["value"], one["stderr"], one["identical"]) == (20.0, None, 1)
    none = METRICS["psnr"].result([np.array([20.0, 30.0])])
    assert (none["identical"], none["warning"]) == (0, None)
    every = METRICS["psnr"].result([np.full(3, np.inf)])
    assert (every["value"], every["stderr"], every["identical"]) == (np.inf, None, 3)
    assert "3 of 3 clips" in every["warning"]


def test_what_is_no_number_is_not_taken_for_identical():
    found = METRICS["psnr"].result([np.array([np.nan, np.inf, 20.0])])
    assert np.isnan(found["value"]) and found["identical"] == 1


def test_codes():
    tokens = np.array([[8, 0, 0, 1, 1], [8, 2, 2, 3, 3]])  # 4 of 8 codes, equally often
    assert METRICS["codes_used"].result([tokens])["value"] == 0.5
    assert METRICS["perplexity"].result([tokens])["value"] == pytest.approx(4.0)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="'fdv'.*fvd, kvd"):
        metrics.check_names(("psnr", "fdv"))


def test_the_listing_names_every_metric_and_what_it_needs():
    lines = {line.split()[0]: line for line in metrics.listing().splitlines()}
    assert list(lines) == list(METRICS) and len(lines) > 20
    assert "needs real, inception" in lines["fid"] and "needs" not in lines["flicker"]
