"""Standard errors of what is estimated from a set of clips.

    mean        s / √n
    anything    the delete-a-group jackknife: √((g - 1)/g Σ (θ_i - mean θ)²), where θ_i is the
                estimate without group i of g (Efron & Stein 1981)

It is how far the value would move with other clips of the same kind. The bias of a Fréchet distance
of few clips is not part of it, which is why such a distance has a warning beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

GROUPS = 10


def of_mean(values: Float[np.ndarray, " n"]) -> tuple[float, float | None]:
    """Compute the mean of one number a clip, and its standard error.

    Args:
      values: one for each clip.

    Returns:
      (mean, standard error); the error is None for one value or for infinite ones.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(mean):
        return mean, None
    return mean, float(np.std(values, ddof=1) / np.sqrt(len(values)))


def of_different(values: Float[np.ndarray, " n"]) -> tuple[float, float | None, int]:
    """Compute the mean of the finite values.

    PSNR is infinite for a clip that equals the truth, and one such clip would make the mean
    infinite. The mean is infinite where all values are.

    Args:
      values: one for each clip.

    Returns:
      (mean of the finite values, its standard error, the number of infinite values).
    """
    identical = np.isposinf(values)
    return *of_mean(values if identical.all() else values[~identical]), int(identical.sum())


def jackknife(
    estimate: Callable[[np.ndarray], float], count: int, groups: int = GROUPS
) -> float | None:
    """Compute the jackknife standard error of an estimate from clips.

    Args:
      estimate: computes the estimate from the clips with the given numbers.
      count: number of clips.
      groups: number of groups that are left out in turn; clip n is in group n mod groups.

    Returns:
      The standard error; None for fewer than three clips per group, too few to leave some out.
    """
    if count < 3 * groups:
        return None
    numbers = np.arange(count)
    return spread([estimate(numbers[numbers % groups != group]) for group in range(groups)])


def spread(estimates: Sequence[float]) -> float:
    """Compute the jackknife standard error from the estimates that leave out each group.

    Args:
      estimates: one for each group, in any order.

    Returns:
      √((g - 1)/g Σ (θ_i - mean θ)²) of g groups.
    """
    values = np.asarray(estimates)
    groups = len(values)
    return float(np.sqrt((groups - 1) / groups * np.sum((values - values.mean()) ** 2)))
