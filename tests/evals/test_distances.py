"""Distances between sets of features: closed forms, and sums in any order."""

import numpy as np
import pytest

from vidgen.evals import distances
from vidgen.evals.distances import Moments


def given(mean, covariance, count=1000):
    """Moments with exactly this mean and this unbiased covariance."""
    mean = np.asarray(mean, np.float64)
    return Moments(count, mean, (count - 1) * np.asarray(covariance, np.float64))


ZERO, ONE = np.zeros(4), np.eye(4)


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((ZERO, ONE), (ZERO, ONE), 0),
        ((ZERO, ONE), (ZERO + 1, ONE), 4),
        ((ZERO, ONE), (ZERO, 4 * ONE), 4),
        (((1, 0), ((2, 0.5), (0.5, 1))), ((0, 2), ((1, -0.2), (-0.2, 3))), 5.883817311199276),
        ((ZERO, 0 * ONE), (ZERO + 1, ONE), 8),  # a distribution without width
    ],
)
def test_frechet_of_normal_distributions(a, b, expected):
    assert distances.frechet(given(*a), given(*b)) == pytest.approx(expected, abs=1e-9)
    assert distances.frechet(given(*b), given(*a)) == pytest.approx(expected, abs=1e-9)


def features(seed, count=60, width=5):
    return (
        np.random.default_rng(seed).normal(size=(count, width)) @ np.diag([1, 2, 3, 4, 5.0]) + 100
    )


def test_moments_are_those_of_numpy_in_parts_of_any_size_and_order():
    x = features(0)
    whole = Moments.of(x)
    np.testing.assert_allclose(whole.mean, x.mean(0))
    np.testing.assert_allclose(whole.covariance, np.cov(x.T))
    shuffled = np.random.default_rng(1).permutation(x)
    parts = [Moments.of(part) for part in np.split(shuffled, (1, 7, 30))]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[3].merge(parts[2].merge(parts[1].merge(parts[0])))
    for merged in (left, right):
        assert merged.count == 60
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9)


def test_frechet_with_fewer_vectors_than_features():
    few = Moments.of(features(0, count=3))
    assert distances.frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(distances.frechet(few, Moments.of(features(1, count=4))))


def test_frechet_is_scipys():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = Moments.of(features(0)), Moments.of(features(2) * 1.3)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert distances.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_kernel_is_the_mean_over_pairs():
    a, b = features(0, 6), features(1, 4)

    def k(x, y):
        return (x @ y / 5 + 1) ** 3

    within_a = np.mean([k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert distances.kernel(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_kernel_has_no_bias():
    rng = np.random.default_rng(0)
    draws = [distances.kernel(*rng.normal(size=(2, 8, 3))) for _ in range(400)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 20
    assert min(draws) < 0
    assert distances.kernel(rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 2) > 1


def test_inception_score_of_known_classes():
    sure = 100 * np.eye(5)
    assert distances.inception_score(sure) == pytest.approx(5)
    assert distances.inception_score(np.zeros((7, 5))) == pytest.approx(1)
    assert distances.inception_score(np.tile(sure[0], (3, 1))) == pytest.approx(1)
    halves = np.log([[0.5, 0.5, 1e-300], [0.5, 1e-300, 0.5]])
    expected = np.exp(0.5 * np.log(0.5 / 0.5) + 0.5 * np.log(0.5 / 0.25))
    assert distances.inception_score(halves) == pytest.approx(expected)


def test_mistakes():
    with pytest.raises(ValueError, match=" 4 .* 2 "):
        distances.frechet(given(ZERO, ONE), given((0, 0), np.eye(2)))
    with pytest.raises(ValueError, match="no features"):
        Moments.of(np.zeros((0, 3)))
    bad = np.zeros((4, 3))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="clip 2 "):
        Moments.of(bad)
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(5, 3\)"):
        distances.kernel(np.zeros((1, 3)), np.zeros((5, 3)))
