"""Metrics by name: which rows they need, what they make of them, and when they say little.

    fvd, kvd                       I3D features of clips
    fid, kid, inception_score      Inception features of frames, with the user's weights
    efficientnet_frechet, _kernel  EfficientNet-Lite0 features of frames: NOT comparable with FID
    psnr, ssim, ms_ssim, ...       pairs of a clip and the truth
    clip_score, clip_r_precision   CLIP features of frames and captions, with the user's weights
    sprite_match, _r_precision     the same by a network that knows only vidgen's sprites
    probe_*                        what a sprite clip shows, against what its caption says
    codes_used, perplexity         of a tokenizer's tokens
    flicker, cuts                  of a clip by itself

A metric is a mean over clips, or an estimate from all of them; see evals/uncertainty.py for what is
beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from vidgen.evals import distances, uncertainty
from vidgen.evals.measures import PROBE

Rows = Mapping[str, np.ndarray]
LEAST_FVD = 256  # clips below which the distance of the samples is mostly that of chance
_MOMENT_BLOCK = 128  # clips whose features are copied at a time
_KERNEL_BLOCK = 1000  # vectors: a kernel distance of more is the mean over such blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """How to get a number from rows.

    Attributes:
      what: for people.
      needs: names of the rows.
      value: from all rows to (value, standard error or None).
      better: "higher", "lower" or None.
      least: clips below which a warning says that the value is of little use.
      unit: of the value.
      identical: the rows are infinite for clips that equal the truth: these are counted, and the
        value is that of the others.
    """

    what: str
    needs: tuple[str, ...]
    value: Callable[[Rows], tuple[float, float | None]]
    better: str | None = None
    least: int = 0
    unit: str = ""
    identical: bool = False

    def result(self, rows: Rows) -> dict[str, Any]:
        """Value, error, sample sizes and a warning, as JSON has them."""
        value, error = self.value(rows)
        sizes = [len(rows[name]) for name in self.needs]
        found = {"value": value, "stderr": error, "n": sizes[0], "n_real": None}
        if any(name.endswith("/real") for name in self.needs):
            found["n_real"] = sizes[-1]
        found |= {"better": self.better, "unit": self.unit, "what": self.what, "warning": None}
        if self.identical:
            found |= _identical(rows[self.needs[0]])
        if min(sizes) < self.least:
            found["warning"] = (
                f"{min(sizes)} clips: below {self.least} this is mostly the chance of which clips "
                "they are; compare it with nothing but sets of as many"
            )
        return found


def _mean(name: str, column: int | None = None) -> Callable[[Rows], tuple[float, float | None]]:
    def value(rows: Rows) -> tuple[float, float | None]:
        return uncertainty.of_mean(rows[name] if column is None else rows[name][:, column])

    return value


def _mean_of_different(name: str, rows: Rows) -> tuple[float, float | None]:
    return uncertainty.of_different(rows[name])[:2]


def _identical(values: np.ndarray) -> dict[str, Any]:
    """How many pairs are identical, and the sentence that says so."""
    count, clips = uncertainty.of_different(values)[2], len(values)
    rest = f"the value is the mean of the other {clips - count}" if count < clips else "all of them"
    said = f"{count} of {clips} clips are identical to the truth: {rest}"
    return {"identical": count, "warning": said if count else None}


def _vectors(rows: np.ndarray, part: slice) -> np.ndarray:
    """Features as they are averaged: those of frames count one by one."""
    return rows[..., part].reshape(-1, rows[..., part].shape[-1])


def _frechet(network: str, part: slice, rows: Rows) -> tuple[float, float | None]:
    """Fréchet distance; groups of clips are left out of both sets for its error."""
    sides = [rows[f"{network}/{side}"] for side in ("made", "real")]
    groups = uncertainty.GROUPS
    if min(map(len, sides)) < 3 * groups:
        return distances.frechet(*(_moments(side, part) for side in sides)), None
    parts = [[_moments(side[g::groups], part) for g in range(groups)] for side in sides]
    value = distances.frechet(*(_merged(side, None) for side in parts))
    left = [distances.frechet(*(_merged(side, g) for side in parts)) for g in range(groups)]
    return value, uncertainty.spread(left)


def _moments(rows: np.ndarray, part: slice) -> distances.Moments:
    """Of all rows, some clips at a time: float64 copies of them all may not fit."""
    blocks = range(0, len(rows), _MOMENT_BLOCK)
    found = [distances.Moments.of(_vectors(rows[i : i + _MOMENT_BLOCK], part)) for i in blocks]
    return _merged(found, None)


def _merged(parts: list[distances.Moments], without: int | None) -> distances.Moments:
    first, *rest = [part for i, part in enumerate(parts) if i != without]
    for other in rest:
        first = first.merge(other)
    return first


def _kernel(network: str, part: slice, rows: Rows) -> tuple[float, float | None]:
    """Kernel distance: of all, or the mean over blocks where there are many vectors."""
    a, b = (rows[f"{network}/{side}"] for side in ("made", "real"))
    each = 1 if a.ndim == 2 else a.shape[1]
    blocks = math.ceil(min(len(a), len(b)) * each / _KERNEL_BLOCK)
    if blocks == 1:
        count = min(len(a), len(b))
        whole = distances.kernel(_vectors(a, part), _vectors(b, part))
        error = uncertainty.jackknife(
            lambda kept: distances.kernel(_vectors(a[kept], part), _vectors(b[kept], part)), count
        )
        return whole, error
    found = [
        distances.kernel(_vectors(a[i::blocks], part), _vectors(b[i::blocks], part))
        for i in range(blocks)
    ]
    return uncertainty.of_mean(np.asarray(found))


def _score(name: str, part: slice, rows: Rows) -> tuple[float, float | None]:
    """Inception score of logits."""
    logits = rows[name]
    value = distances.inception_score(_vectors(logits, part))
    error = uncertainty.jackknife(
        lambda kept: distances.inception_score(_vectors(logits[kept], part)), len(logits)
    )
    return value, error


def _used(rows: Rows) -> tuple[float, float | None]:
    share = _shares(rows)
    return float(np.mean(share > 0)), None


def _perplexity(rows: Rows) -> tuple[float, float | None]:
    share = _shares(rows)
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share)))), None


def _shares(rows: Rows) -> np.ndarray:
    """How often each code is there; the first column of the rows is the number of codes."""
    codes = int(rows["tokens"][0, 0])
    counts = np.bincount(rows["tokens"][:, 1:].ravel(), minlength=codes)
    return counts / counts.sum()


_ALL = slice(None)
_POOL, _LOGITS = slice(0, 2048), slice(2048, None)  # of the rows "inception"


def _distribution(network: str, part: slice, what: str, least: int) -> tuple[Metric, Metric]:
    """(Fréchet, kernel) distance in these features."""
    needs = (f"{network}/made", f"{network}/real")
    frechet = Metric(
        what=f"Fréchet distance of {what}",
        needs=needs,
        value=partial(_frechet, network, part),
        better="lower",
        least=least,
    )
    kernel = Metric(
        what=f"kernel distance of {what} (unbiased)",
        needs=needs,
        value=partial(_kernel, network, part),
        better="lower",
    )
    return frechet, kernel


def _average(what: str, row: str, better: str | None, unit: str = "", column: int | None = None):
    return Metric(what=what, needs=(row,), value=_mean(row, column), better=better, unit=unit)


def _matching(name: str, what: str) -> dict[str, Metric]:
    return {
        name: _average(f"cosine of {what}, of a clip and its caption", f"{name}/own", "higher"),
        f"{name}_r_precision": _average(
            f"share of clips whose own caption is the nearest, by {what}",
            f"{name}/first", "higher",
        ),
    }  # fmt: skip


_FVD, _KVD = _distribution("i3d", _ALL, "I3D logits", LEAST_FVD)
_FID, _KID = _distribution("inception", _POOL, "Inception-v3 features of frames", 2048)
_LITE0, _LITE0_KERNEL = _distribution(
    "efficientnet", _ALL, "EfficientNet-Lite0 features of frames; not FID", LEAST_FVD
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "fvd": _FVD,
        "kvd": _KVD,
        "fid": _FID,
        "kid": _KID,
        "efficientnet_frechet": _LITE0,
        "efficientnet_kernel": _LITE0_KERNEL,
        "inception_score": Metric(
            what="Inception score of frames", needs=("inception/made",), better="higher",
            value=partial(_score, "inception/made", _LOGITS), least=LEAST_FVD,
        ),
        "kinetics_score": Metric(
            what="Inception score of clips by I3D's 400 actions; not that of C3D",
            needs=("i3d/made",), better="higher", value=partial(_score, "i3d/made", _ALL),
            least=LEAST_FVD,
        ),
        "psnr": Metric(
            what="peak signal to noise ratio, against the truth", needs=("psnr",), unit="dB",
            value=partial(_mean_of_different, "psnr"), better="higher", identical=True,
        ),
        "ssim": _average("structural similarity with the truth", "ssim", "higher"),
        "ms_ssim": _average("SSIM at five scales", "ms_ssim", "higher"),
        "squeezenet_distance": _average(
            "distance from the truth in SqueezeNet features; not LPIPS", "squeezenet_distance",
            "lower",
        ),
        "i3d_distance": _average("distance from the truth in I3D features", "i3d_distance",
                                 "lower"),
        **_matching("clip_score", "CLIP"),
        **_matching("sprite_match", "a network trained on sprites (not CLIP)"),
        **{
            f"probe_{name}": _average(
                f"share of clips that show the {'whole caption' if name == 'all' else name} asked "
                "for, read by synthesis", "probe", "higher", column=i,
            )
            for i, name in enumerate(PROBE[:-1])
        },
        "flicker": _average("how unevenly pixels change in time", "flicker", None),
        "cuts": _average("share of steps in time that are cuts", "cuts", None),
        "codes_used": Metric(what="share of the codebook that is used", needs=("tokens",),
                             value=_used, better="higher"),
        "perplexity": Metric(what="of the codes", needs=("tokens",), value=_perplexity,
                             better="higher"),
    }
)  # fmt: skip
PAIRS = ("psnr", "ssim", "ms_ssim", "squeezenet_distance", "i3d_distance")


def check_names(names: tuple[str, ...]) -> None:
    """A ValueError lists the metrics where one of these is none."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}.")
