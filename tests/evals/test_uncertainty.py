"""Standard errors: closed forms, and what repeated draws show."""

import numpy as np
import pytest

from vidgen.evals import uncertainty


def test_of_a_mean():
    mean, error = uncertainty.of_mean(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (mean, error) == (3.0, pytest.approx(np.sqrt(14 / 3 / 4)))
    assert uncertainty.of_mean(np.array([5.0])) == (5.0, None)
    assert uncertainty.of_mean(np.array([np.inf, 1.0])) == (np.inf, None)


def test_the_jackknife_of_a_mean_with_a_clip_a_group_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=30)
    error = uncertainty.spread([values[np.arange(30) != i].mean() for i in range(30)])
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30))


def test_the_jackknife_tells_how_far_other_draws_lie():
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=200) for _ in range(200)]
    errors = [uncertainty.jackknife(lambda kept, x=x: float(np.var(x[kept])), 200) for x in draws]
    true = np.std([np.var(x) for x in draws])
    assert np.median(errors) == pytest.approx(true, rel=0.15)


def test_few_clips_have_no_jackknife():
    assert uncertainty.jackknife(lambda kept: 0.0, 29) is None
    assert uncertainty.jackknife(lambda kept: 0.0, 30) == 0.0
