"""Metrics of single clips, of pairs with the truth, of captions, and of a tokenizer's codes.

    psnr, ssim, ms_ssim                   pixels of a pair (pictures.py)
    squeezenet_distance, i3d_distance     features of a pair (phenaki/perceptual.py); not LPIPS
    clip_score, clip_score_r_precision    a clip and its caption, in the space of the user's CLIP
    flicker, cuts                         a clip by itself (pictures.py)
    codes_used, perplexity                the tokens of the real clips

With unit vectors f of frames and g of captions, a clip matches its caption by the cosine

    cosine   mean over frames of f(frame)·g(caption), in [-1, 1]
    first    1 where the clip's own caption is nearer than that of every other clip, else 0

and R-precision is the mean of `first` (Park et al. 2021). It depends on how many clips are
compared; captions of the same words count as one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from vidgen.assets import downloads
from vidgen.evals import networks, pictures, uncertainty
from vidgen.evals.clips import digest
from vidgen.evals.collect import ClipBatch, Measurement
from vidgen.evals.metrics import (
    ClipMetric,
    Estimate,
    EvalData,
    Metric,
    PairMetric,
    Rows,
    pair_measurement,
    register,
)
from vidgen.phenaki.perceptual import ImagePerceptual, VideoPerceptual

# ---- pairs ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class PSNR(PairMetric):
    """PSNR, which is infinite for clips that equal the truth: these are counted and left out."""

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Average over the clips that differ from the truth; see `Metric.value`."""
        return uncertainty.of_different(rows[0])[:2]

    def remarks(self, rows: Rows) -> dict[str, Any]:
        """Count the identical pairs, and say so; see `Metric.remarks`."""
        count, clips = uncertainty.of_different(rows[0])[2], len(rows[0])
        rest = f"the value is the mean of the other {clips - count}"
        text = f"{count} of {clips} clips are identical to the truth: "
        text += rest if count < clips else "all of them"
        return {"warning": text if count else None, "identical": count}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualMetric(Metric):
    """The distance of a pair in features of a network.

    Attributes:
      distance: the distance, of frames or of clips.
      network_name: shown with the results.
      asset: the name of the network's weights among the assets.
    """

    distance: ImagePerceptual | VideoPerceptual
    network_name: str
    asset: str
    better: Literal["higher", "lower"] | None = "lower"
    needs: tuple[str, ...] = ("real", "pairs")

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Measure the distance of each pair; see `Metric.measurements`."""
        weights = digest(repr(self.distance), self._sha256)
        return (pair_measurement(self.name, weights, distance_per_pair(self.distance), data.given),)

    def network(self, data: EvalData) -> dict[str, Any] | None:
        """Return the hash of the weights, and settings that are not the network's own.

        See `Metric.network`.
        """
        settings = {"layers": self.distance.layers, "size": self.distance.size}
        changed = {name: value for name, value in settings.items() if value}
        return {"name": self.network_name, "sha256": self._sha256, **changed}

    @property
    def _sha256(self) -> str:
        return downloads.get(self.asset).files[0].sha256


@functools.lru_cache(maxsize=4)
def distance_per_pair(
    distance: ImagePerceptual | VideoPerceptual,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Load the network of a distance once, and compile it for clips.

    Args:
      distance: of frames, of which a clip has the mean, or of clips.

    Returns:
      A function of two videos "b t h w c" in [-1, 1] to one distance >= 0 per clip, "b".

    Raises:
      vidgen.assets.downloads.AssetError: the weights cannot be found or fetched.
    """
    params, program = distance.load(), jax.jit(distance.__call__)

    def per_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if isinstance(distance, VideoPerceptual):
            return np.asarray(program(params, a, b))
        frames = program(params, a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]))
        return np.asarray(frames).reshape(a.shape[:2]).mean(1)

    return per_pair


# ---- captions ------------------------------------------------------------------------------------


def matches(
    clips: Float[np.ndarray, "n d"] | Float[np.ndarray, "n t d"],
    texts: Float[np.ndarray, "n d"],
    captions: Sequence[str],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Compute how well each clip matches its caption; see the module docstring.

    Args:
      clips: unit-length features of clips, or of their frames.
      texts: unit-length features of their captions.
      captions: the words; clips of equal words are not told apart.

    Returns:
      The cosine of each clip with its own caption, in [-1, 1], and whether that caption is the
      nearest (1 or 0).
    """
    clips = np.asarray(clips, np.float64)
    mean = clips if clips.ndim == 2 else clips.mean(1)
    _, firsts, mine = np.unique(np.asarray(captions), return_index=True, return_inverse=True)
    cosines = mean @ np.asarray(texts, np.float64)[firsts].T
    cosine = cosines[np.arange(len(mine)), mine]
    others = np.where(np.arange(len(firsts)) == mine[:, None], -np.inf, cosines)
    first = cosine > others.max(1) if len(firsts) > 1 else np.ones(len(mine), bool)
    return cosine, first.astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipScore(Metric):
    """How well a clip matches its caption, in the space of the user's CLIP.

    Attributes:
      precision: whether the value is the R-precision instead of the cosine.
    """

    precision: bool
    better: Literal["higher", "lower"] | None = "higher"
    needs: tuple[str, ...] = ("clip", "captions")

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Measure the features of frames, and those of the caption; see `Metric.measurements`."""
        folder = data.inputs.clip_folder
        images = networks.clip_images(folder)

        def texts(batch: ClipBatch) -> np.ndarray:
            return networks.clip_texts(folder, tuple(batch.captions))

        return (
            images.measurement("generated", data.inputs.batch_size),
            Measurement(side="generated", key=digest("captions", images.protocol), compute=texts),
        )

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Average the cosines, or the clips whose own caption is nearest; see `Metric.value`."""
        cosine, first = matches(rows[0], rows[1], captions)
        return uncertainty.of_mean(first if self.precision else cosine)

    def network(self, data: EvalData) -> dict[str, Any] | None:
        """Describe the image tower; see `Metric.network`."""
        return networks.clip_images(data.inputs.clip_folder).protocol


# ---- tokens --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeMetric(Metric):
    """A number of the shares that the codes of a codebook have in the tokens of the real clips.

    Attributes:
      of_shares: turns the shares of all codes, which sum to 1, into the number.
    """

    of_shares: Callable[[Float[np.ndarray, " k"]], float]
    better: Literal["higher", "lower"] | None = "higher"
    needs: tuple[str, ...] = ("tokens", "real")

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Encode every real clip; a row is the number of codes, then the tokens.

        See `Metric.measurements`.
        """
        task = data.tokenizer
        assert task is not None

        def tokens(batch: ClipBatch) -> np.ndarray:
            return task.encode(batch.video)

        return (Measurement(side="real", key=digest("tokens", task.identity), compute=tokens),)

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Compute the number, without an error: clips share the codebook. See `Metric.value`."""
        (tokens,) = rows
        counts = np.bincount(tokens[:, 1:].ravel(), minlength=int(tokens[0, 0]))
        return self.of_shares(counts / counts.sum()), None


def _used(shares: Float[np.ndarray, " k"]) -> float:
    return float(np.mean(shares > 0))


def _perplexity(shares: Float[np.ndarray, " k"]) -> float:
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


register(
    PSNR(
        name="psnr",
        what="peak signal to noise ratio, against the truth",
        better="higher",
        unit="dB",
        per_pair=pictures.psnr,
    ),
    PairMetric(
        name="ssim",
        what="structural similarity with the truth",
        better="higher",
        pixels=pictures.WINDOW,
        per_pair=pictures.ssim,
    ),
    PairMetric(
        name="ms_ssim",
        what="SSIM at five scales",
        better="higher",
        pixels=pictures.MIN_PIXELS,
        per_pair=pictures.ms_ssim,
    ),
    PerceptualMetric(
        name="squeezenet_distance",
        what="distance from the truth in SqueezeNet features; not LPIPS",
        distance=ImagePerceptual(),
        network_name="SqueezeNet 1.1",
        asset="squeezenet",
    ),
    PerceptualMetric(
        name="i3d_distance",
        what="distance from the truth in I3D features",
        distance=VideoPerceptual(),
        network_name="I3D-RGB Kinetics-400",
        asset="i3d",
    ),
    ClipScore(name="clip_score", what="cosine of CLIP, of a clip and its caption", precision=False),
    ClipScore(
        name="clip_score_r_precision",
        what="share of clips whose own caption is the nearest, by CLIP",
        precision=True,
    ),
    ClipMetric(
        name="flicker",
        what="how unevenly pixels change in time",
        frames=3,
        per_clip=pictures.flicker,
    ),
    ClipMetric(
        name="cuts",
        what="share of steps in time that are cuts",
        frames=2,
        per_clip=pictures.cuts,
    ),
    CodeMetric(name="codes_used", what="share of the codebook that is used", of_shares=_used),
    CodeMetric(name="perplexity", what="perplexity of the codes", of_shares=_perplexity),
)
