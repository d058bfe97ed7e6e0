"""Standard errors of what is estimated from a set of clips.

    mean        s / √n
    anything    the delete-a-group jackknife: √((g - 1)/g Σ (θ_i - mean θ)²), where θ_i is the
                estimate without group i of g (Efron & Stein 1981)

It says how far the value would move with other clips of the same kind. It does not tell the bias of
a Fréchet distance of few clips, which is why that has a warning beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

GROUPS = 10


def of_mean(values: Float[np.ndarray, " n"]) -> tuple[float, float | None]:
    """(mean, its standard error); no error of one value, or of infinite ones."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(mean):
        return mean, None
    return mean, float(np.std(values, ddof=1) / np.sqrt(len(values)))


def of_different(values: Float[np.ndarray, " n"]) -> tuple[float, float | None, int]:
    """(mean of what is below infinity, its standard error, how many are infinite).

    For a measure that is infinite for a clip that equals the truth, as PSNR is: one such clip would
    make the mean infinite. It is infinite where all of them are.
    """
    identical = np.isposinf(values)
    return *of_mean(values if identical.all() else values[~identical]), int(identical.sum())


def jackknife(
    estimate: Callable[[np.ndarray], float], count: int, groups: int = GROUPS
) -> float | None:
    """The standard error of `estimate` of `count` clips.

    Args:
      estimate: of the clips with these numbers.
      count: clips.
      groups: so many estimates are made; clip n is in group n mod groups.

    Returns:
      None where there are fewer than three clips a group, too few to leave some out.
    """
    if count < 3 * groups:
        return None
    numbers = np.arange(count)
    return spread([estimate(numbers[numbers % groups != group]) for group in range(groups)])


def spread(estimates: Sequence[float]) -> float:
    """The jackknife's standard error, from the estimates without each group."""
    values = np.asarray(estimates)
    groups = len(values)
    return float(np.sqrt((groups - 1) / groups * np.sum((values - values.mean()) ** 2)))
