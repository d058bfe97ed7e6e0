"""Distances between two sets of feature vectors, in float64; what FVD, FID, KVD and KID compute.

    Fréchet   ‖m₁ - m₂‖² + tr(S₁ + S₂ - 2(S₁S₂)^½)       of means and covariances
    kernel    E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = (x·y/d + 1)³,  unbiased
    inception exp(E KL(p(y|x) ‖ p(y)))                    of the class probabilities p(y|x)

The Fréchet distance of n samples is too large by a term of about 1/n, and a covariance of d
features needs more than d samples; the kernel distance has no such bias (Heusel et al. 2017;
Bińkowski et al. 2018; Unterthiner et al. 2018; Salimans et al. 2016).

`Moments` of parts of a set are merged in any order, by Chan's update of centered sums, in which
nothing cancels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and centered second moments of feature vectors.

    Attributes:
      count: vectors.
      mean: their mean.
      scatter: Σ (x - mean)(x - mean)ᵀ.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Float[Any, "n d"]) -> Moments:
        """Compute the moments of one batch, in float64.

        Args:
          features: one vector for each clip or frame.

        Returns:
          Their moments.

        Raises:
          ValueError: a feature is NaN or inf, or there is no vector.
        """
        x = finite(features)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: Moments) -> Moments:
        """Combine the moments of two sets (Chan's update).

        Args:
          other: moments of vectors of the same length.

        Returns:
          The moments of both sets together.
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        share = self.count * other.count / count
        return Moments(count, mean, self.scatter + other.scatter + share * np.outer(apart, apart))

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased estimate; zero for a single vector."""
        return self.scatter / max(self.count - 1, 1)


def frechet(a: Moments, b: Moments) -> float:
    """Compute the Fréchet distance of the two normal distributions.

    Args:
      a: moments of one set.
      b: moments of the other; the distance is symmetric.

    Returns:
      The distance, at least 0 (Heusel et al. 2017, eq. 6).

    Raises:
      ValueError: the vectors differ in length.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of {a.mean.size} and of {b.mean.size} numbers cannot be compared; both sets "
            "must come from the same layer of the same network."
        )
    root = _root(a.covariance)
    # (S₁S₂)^½ has the eigenvalues of the symmetric S₁^½ S₂ S₁^½, square-rooted.
    values = np.linalg.eigvalsh(root @ b.covariance @ root)
    overlap = np.sqrt(np.maximum(values, 0)).sum()
    distance = np.sum((a.mean - b.mean) ** 2)
    distance += np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return float(max(distance, 0.0))


def kernel(a: Float[Any, "n d"], b: Float[Any, "m d"]) -> float:
    """Compute the unbiased squared maximum mean discrepancy with the cubic kernel.

    Args:
      a: vectors of one set, two or more.
      b: vectors of the other, of the same length.

    Returns:
      The discrepancy; by chance below 0 where the sets are alike (Bińkowski et al. 2018).

    Raises:
      ValueError: fewer than two vectors, or vectors that do not fit.
    """
    a, b = finite(a), finite(b)
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"a kernel distance needs two or more vectors of one length in each set, not {a.shape} "
            f"and {b.shape}."
        )
    within = [(x @ x.T / x.shape[1] + 1) ** 3 for x in (a, b)]
    pairs = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    between = (a @ b.T / a.shape[1] + 1) ** 3
    return float(sum(pairs) - 2 * between.mean())


def inception_score(logits: Float[Any, "n k"]) -> float:
    """Compute the inception score (Salimans et al. 2016).

    Args:
      logits: the logits of n pictures or clips, over k classes.

    Returns:
      A number from 1 to k: higher for sure and for diverse predictions.
    """
    x = finite(logits)
    log_p = x - x.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(1).mean()))


def finite(features: Float[Any, "n d"]) -> Float[np.ndarray, "n d"]:
    """Convert features to float64, and refuse those that are not finite.

    Args:
      features: one vector for each clip or frame.

    Returns:
      The same numbers.

    Raises:
      ValueError: there are none, or one contains NaN or inf.
    """
    x = np.asarray(features, np.float64)
    if not len(x):
        raise ValueError("there are no features; the set of clips is empty.")
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(
            f"the features of clip {bad} contain NaN or inf; look at the pixels of that clip."
        )
    return x


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """Return the symmetric square root of a matrix that is positive up to rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
