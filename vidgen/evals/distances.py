"""Distances between two sets of feature vectors, in float64; what FVD, FID, KVD and KID compute.

    Fréchet   ‖m₁ - m₂‖² + tr(S₁ + S₂ - 2(S₁S₂)^½)       of means and covariances
    kernel    E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = (x·y/d + 1)³,  unbiased
    inception exp(E KL(p(y|x) ‖ p(y)))                    of the classes that a network sees

The Fréchet distance of n samples is too large by a term of about 1/n, and a covariance of d
features needs more than d samples; the kernel distance has no such bias (Heusel et al. 2017;
Bińkowski et al. 2018; Unterthiner et al. 2018; Salimans et al. 2016).

`Moments` are added up batch by batch, and those of several processes merged, in any order: Chan's
update of centered sums, so that nothing cancels.
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
        """Those of one batch.

        Raises:
          ValueError: a number is not finite, or there is no vector.
        """
        x = checked(features)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: Moments) -> Moments:
        """Those of both sets together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        share = self.count * other.count / count
        return Moments(count, mean, self.scatter + other.scatter + share * np.outer(apart, apart))

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased estimate; zero of a single vector."""
        return self.scatter / max(self.count - 1, 1)


def frechet(a: Moments, b: Moments) -> float:
    """The Fréchet distance of the two normal distributions, at least 0."""
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
    """The unbiased squared maximum mean discrepancy; below 0 by chance where the sets are alike.

    Raises:
      ValueError: fewer than two vectors, or vectors that do not fit.
    """
    a, b = checked(a), checked(b)
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
    """Between 1 and k: how sure the network is of each, and how different they are."""
    x = checked(logits)
    log_p = x - x.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(1).mean()))


def checked(features: Float[Any, "n d"]) -> Float[np.ndarray, "n d"]:
    """In float64.

    Raises:
      ValueError: there is none, or a number that is not finite.
    """
    x = np.asarray(features, np.float64)
    if not len(x):
        raise ValueError("there are no features; the set of clips is empty.")
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(
            f"the features of clip {bad} are not finite; its pixels cannot be, either."
        )
    return x


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root of a matrix that is positive up to rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
