"""Metrics of pixels and frames: a video against the true one, or by itself; values in [-1, 1].

    PSNR      10 log₁₀(4 / MSE), the mean over clips that are not identical to the truth
    SSIM      (2μ_aμ_b + C₁)(2σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))   over windows
    MS-SSIM   Π_j contrast_j^w_j · SSIM_5^w_5          at five scales, each half of the one before
    flicker   mean |x_{t+1} - 2x_t + x_{t-1}| / 4      0 where pixels change evenly, at most 1
    cuts      share of steps in time over which pixels change by more than 0.3 of their range

SSIM follows Wang et al. 2004 (windows of 11 x 11 with a Gaussian of 1.5 pixels, inside the picture
only; mean over frames and channels), MS-SSIM Wang et al. 2003. Functions of pairs raise ValueError
if the videos differ in shape or the frames are too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

RANGE = 2.0  # of pixels
WINDOW, SIGMA = 11, 1.5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_PIXELS = WINDOW * 2 ** (len(SCALES) - 1)  # of MS-SSIM
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
_CUT = 0.3

Video = Float[Any, "b t h w c"]
Other = Float[Any, "_ _ _ _ _"]  # its size is checked in `_pair`


def psnr(a: Video, b: Other) -> Float[np.ndarray, " b"]:
    """Compute the PSNR of each clip.

    Args:
      a: clips in [-1, 1].
      b: the true clips; the value is symmetric.

    Returns:
      dB; infinite for equal clips.

    Raises:
      ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    error = np.mean((a - b) ** 2, axis=(-4, -3, -2, -1))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(RANGE**2 / error)


def ssim(a: Video, b: Other) -> Float[np.ndarray, " b"]:
    """Compute the SSIM of each clip (Wang et al. 2004).

    Args:
      a: clips in [-1, 1], of 11 pixels or more a side.
      b: the true clips; the value is symmetric.

    Returns:
      Numbers of at most 1, which equal clips have.

    Raises:
      ValueError: the shapes differ, or the frames are too small.
    """
    a, b = _pair(a, b, WINDOW)
    luminance, contrast = _similarity(a, b)
    return np.mean(luminance * contrast, axis=(-4, -3, -2, -1))


def ms_ssim(a: Video, b: Other) -> Float[np.ndarray, " b"]:
    """Compute the MS-SSIM of each clip (Wang et al. 2003).

    Args:
      a: clips in [-1, 1], of 176 pixels or more a side.
      b: the true clips; the value is symmetric.

    Returns:
      Numbers from 0 to 1, which equal clips have.

    Raises:
      ValueError: the shapes differ, or the frames are too small.
    """
    a, b = _pair(a, b, MIN_PIXELS)
    result = np.float64(1.0)
    for i, weight in enumerate(SCALES):
        luminance, contrast = _similarity(a, b)
        last = i == len(SCALES) - 1
        value = np.mean(luminance * contrast if last else contrast, axis=(-3, -2))
        result = result * np.maximum(value, 0) ** weight
        a, b = _half(a), _half(b)
    return np.mean(result, axis=(-2, -1))


def flicker(x: Video) -> Float[np.ndarray, " b"]:
    """Compute how unevenly the pixels of each clip change in time.

    Args:
      x: clips in [-1, 1], of 3 frames or more.

    Returns:
      Numbers from 0, for even change, to 1.

    Raises:
      ValueError: there are fewer frames.
    """
    x = _frames(x, 3)
    bend = x[..., 2:, :, :, :] - 2 * x[..., 1:-1, :, :, :] + x[..., :-2, :, :, :]
    return np.mean(np.abs(bend), axis=(-4, -3, -2, -1)) / (2 * RANGE)


def cuts(x: Video) -> Float[np.ndarray, " b"]:
    """Compute which share of the steps in time of each clip are cuts.

    Args:
      x: clips in [-1, 1], of 2 frames or more.

    Returns:
      Numbers from 0 to 1.

    Raises:
      ValueError: there are fewer frames.
    """
    x = _frames(x, 2)
    change = np.mean(np.abs(np.diff(x, axis=-4)), axis=(-3, -2, -1)) / RANGE
    return np.mean(change > _CUT, axis=-1)


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two factors of SSIM at each window: of means, and of deviations."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a = _smooth(a * a) - mean_a**2
    var_b = _smooth(b * b) - mean_b**2
    both = _smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return luminance, (2 * both + _C2) / (var_a + var_b + _C2)


def _smooth(x: np.ndarray) -> np.ndarray:
    """Return the Gaussian mean of each window that lies inside the picture."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (-3, -2):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ weights
    return x


def _half(x: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 pixels; an odd last row or column is dropped."""
    h, w = (n // 2 * 2 for n in x.shape[-3:-1])
    x = x[..., :h, :w, :]
    return (
        x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :]
    ) / 4


def _pair(a: Video, b: Other, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"videos of one size are compared; these are {a.shape} and {b.shape}.")
    if min(a.shape[-3:-1]) < least:
        raise ValueError(
            f"frames of {a.shape[-3]} x {a.shape[-2]} pixels are too small for this comparison, "
            f"which needs {least} on a side."
        )
    return a, b


def _frames(x: Video, least: int) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.shape[-4] < least:
        raise ValueError(f"a clip of {x.shape[-4]} frame(s) is too short; {least} are needed.")
    return x
