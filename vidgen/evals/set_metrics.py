"""Metrics of sets of feature vectors: Fréchet and kernel distances, and the inception score.

    fvd, kvd                    I3D features of clips
    fid, kid, inception_score   Inception-v3 features of frames, with the user's weights
    kinetics_score              inception score of clips by I3D's 400 actions, on request

`distances.py` has the formulas, `uncertainty.py` those of the standard errors.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from vidgen.evals import distances, networks, uncertainty
from vidgen.evals.collect import Measurement
from vidgen.evals.metrics import Estimate, EvalData, Metric, MetricInputs, Rows, register
from vidgen.evals.networks import FeatureNetwork
from vidgen.pretrained import i3d

LEAST_FVD = 256  # clips below which the distance of the samples is mostly that of chance
_MOMENT_BLOCK = 128  # clips whose features are copied at a time
_KERNEL_BLOCK = 1000  # vectors: a kernel distance of more is the mean over such blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfFeatures(Metric):
    """A metric of the features of a network.

    Attributes:
      feature_network: returns the network, from what the user brings.
      first: the first feature that counts.
      last: the last feature that counts + 1; None: all after `first`.
    """

    feature_network: Callable[[MetricInputs], FeatureNetwork]
    first: int = 0
    last: int | None = None

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Measure the features of generated clips, and of real ones where sets are compared.

        See `Metric.measurements`.
        """
        network = self.feature_network(data.inputs)
        sides = ("generated", "real") if self.compares_sets else ("generated",)
        return [network.measurement(side, data.inputs.batch_size) for side in sides]

    def network(self, data: EvalData) -> dict[str, Any] | None:
        """Describe the layer, hash and preprocessing of the network; see `Metric.network`."""
        return self.feature_network(data.inputs).protocol

    def vectors(self, rows: Float[np.ndarray, "n *t k"]) -> Float[np.ndarray, "m d"]:
        """Return the features that count, one vector per clip or per frame."""
        part = rows[..., self.first : self.last]
        return part.reshape(-1, part.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrechetDistance(_OfFeatures):
    """The Fréchet distance of normal distributions fitted to both sets: FVD, FID."""

    compares_sets: ClassVar[bool] = True

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Compute the distance; its error by leaving groups of clips out of both sets.

        See `Metric.value`.
        """
        groups = uncertainty.GROUPS
        if min(map(len, rows)) < 3 * groups:
            return distances.frechet(*(self._moments(side) for side in rows)), None
        parts = [[self._moments(side[g::groups]) for g in range(groups)] for side in rows]
        value = distances.frechet(*(_merged(side, None) for side in parts))
        left = [distances.frechet(*(_merged(side, g) for side in parts)) for g in range(groups)]
        return value, uncertainty.spread(left)

    def _moments(self, rows: np.ndarray) -> distances.Moments:
        # Some clips at a time: float64 copies of them all may not fit.
        blocks = [rows[i : i + _MOMENT_BLOCK] for i in range(0, len(rows), _MOMENT_BLOCK)]
        return _merged([distances.Moments.of(self.vectors(block)) for block in blocks], None)


def _merged(parts: list[distances.Moments], without: int | None) -> distances.Moments:
    kept = (part for i, part in enumerate(parts) if i != without)
    return functools.reduce(distances.Moments.merge, kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDistance(_OfFeatures):
    """The unbiased squared maximum mean discrepancy with a cubic kernel: KVD, KID."""

    compares_sets: ClassVar[bool] = True

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Compute the distance of all vectors, or its mean over blocks where there are many.

        See `Metric.value`.
        """
        a, b = rows
        per_clip = 1 if a.ndim == 2 else a.shape[1]
        blocks = math.ceil(min(len(a), len(b)) * per_clip / _KERNEL_BLOCK)
        if blocks > 1:
            each = [self._distance(a[i::blocks], b[i::blocks]) for i in range(blocks)]
            return uncertainty.of_mean(np.asarray(each))
        count = min(len(a), len(b))
        error = uncertainty.jackknife(lambda kept: self._distance(a[kept], b[kept]), count)
        return self._distance(a, b), error

    def _distance(self, a: np.ndarray, b: np.ndarray) -> float:
        return distances.kernel(self.vectors(a), self.vectors(b))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionScore(_OfFeatures):
    """The inception score of a network's logits."""

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Compute the score, and its jackknife error; see `Metric.value`."""
        (logits,) = rows
        error = uncertainty.jackknife(lambda kept: self._score(logits[kept]), len(logits))
        return self._score(logits), error

    def _score(self, logits: np.ndarray) -> float:
        return distances.inception_score(self.vectors(logits))


_POOL = 2048  # of the features of Inception-v3: the logits follow


_OF_CLIPS: dict[str, Any] = {
    "feature_network": lambda inputs: networks.kinetics_i3d(),
    "frames": i3d.MIN_FRAMES,
}
_OF_FRAMES: dict[str, Any] = {
    "feature_network": lambda inputs: networks.inception_v3(inputs.inception_file)
}
_DISTANCE: dict[str, Any] = {"better": "lower", "needs": ("real",)}
_FRAME_DISTANCE = _OF_FRAMES | {"better": "lower", "needs": ("real", "inception"), "last": _POOL}
_SCORE: dict[str, Any] = {"better": "higher", "least_clips": LEAST_FVD}
_POOLED = "Inception-v3 features of frames"
_ACTIONS = "Inception score of clips by I3D's 400 actions; not that of C3D"

register(
    FrechetDistance(
        name="fvd",
        what="Fréchet distance of I3D logits",
        least_clips=LEAST_FVD,
        **_OF_CLIPS,
        **_DISTANCE,
    ),
    KernelDistance(
        name="kvd", what="kernel distance of I3D logits (unbiased)", **_OF_CLIPS, **_DISTANCE
    ),
    FrechetDistance(
        name="fid", what=f"Fréchet distance of {_POOLED}", least_clips=2048, **_FRAME_DISTANCE
    ),
    KernelDistance(name="kid", what=f"kernel distance of {_POOLED} (unbiased)", **_FRAME_DISTANCE),
    InceptionScore(
        name="inception_score",
        what="Inception score of frames",
        needs=("inception",),
        first=_POOL,
        **_OF_FRAMES,
        **_SCORE,
    ),
    # On request, as it is of no use but for actions.
    InceptionScore(name="kinetics_score", what=_ACTIONS, by_default=False, **_OF_CLIPS, **_SCORE),
)
