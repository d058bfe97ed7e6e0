"""Features of the scalars a denoiser reads, and positions that do not depend on clip length.

    log-SNR     u = (2/π) · atan(e^{-λ/2}) ∈ [0, 1], then sinusoids          (papers' "inv_cos")
    time        τ = i/(t-1) ∈ [0, 1], the place of frame i in the clip       (`frame_features`)
    relative    signed distance of two frames, log-spaced buckets, one bias a head

All three are defined for any number of frames, so clips longer than trained can be run.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def sinusoids(
    x: Float[Array, "*x"], dim: int, *, max_time: float = 1.0
) -> Float[Array, "*x {dim}"]:
    """Compute [sin | cos] of 1000·x/max_time at dim/2 geometric frequencies from 1 to 1/10000.

    Args:
      x: numbers.
      dim: features of a number, even and >= 4.
      max_time: the x that has the angle 1000, as the last time step of DDPM.

    Returns:
      Features in [-1, 1].

    Raises:
      ValueError: `dim` is odd or less than 4.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"sinusoidal features need an even width >= 4, got {dim}.")
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000.0) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = (x * (1000.0 / max_time))[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def logsnr_features(logsnr: Float[Array, "*x"], dim: int) -> Float[Array, "*x {dim}"]:
    """Compute sinusoids of the angle of a noise level, u = (2/π) atan(e^{-λ/2}).

    Args:
      logsnr: λ, clipped to [-20, 20].
      dim: features of a level, even and >= 4.

    Returns:
      Features in [-1, 1].
    """
    unit = jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20.0, 20.0))) * (2.0 / jnp.pi)
    return sinusoids(unit, dim)


def rate_features(fps: Float[Array, "*x"], dim: int) -> Float[Array, "*x {dim}"]:
    """Compute sinusoids of log2 of frame rates: equal ratios are equal steps.

    [guess] 0 to 10 octaves, 1 to 1,024 a second; 24 and 25 a second are 6 radians apart at most.

    Args:
      fps: frames per second, > 0.
      dim: features of a rate, even and >= 4.

    Returns:
      Features in [-1, 1].
    """
    return sinusoids(jnp.log2(fps), dim, max_time=10.0)


def frame_features(frames: int, dim: int) -> Float[Array, "t {dim}"]:
    """Compute Fourier features of each frame's place in the clip, τ ∈ [0, 1].

    A longer clip reads the same functions at more places, which suits a cascade in which every
    stage covers the same stretch of time.

    Args:
      frames: t; a single frame is in the middle, τ = 1/2.
      dim: features of a frame, even and >= 2.

    Returns:
      sin(2^j π τ), then cos(2^j π τ), j = 0 ... dim/2 - 1.

    Raises:
      ValueError: `dim` is odd or less than 2.
    """
    return jnp.asarray(_octaves(frames, dim), jnp.float32)


def pixel_features(height: int, width: int, dim: int) -> Float[Array, "h w {dim}"]:
    """Compute Fourier features of each pixel's place in the frame.

    Args:
      height: rows.
      width: columns.
      dim: features of a pixel, a multiple of 4.

    Returns:
      The features of the row, half of them, then those of the column, as of `frame_features`.

    Raises:
      ValueError: half of `dim` is odd or less than 2.
    """
    rows = np.broadcast_to(_octaves(height, dim // 2)[:, None], (height, width, dim // 2))
    columns = np.broadcast_to(_octaves(width, dim - dim // 2)[None], (height, width, dim // 2))
    return jnp.asarray(np.concatenate([rows, columns], axis=-1), jnp.float32)


def _octaves(places: int, dim: int) -> Float[np.ndarray, "{places} {dim}"]:
    """Compute sin(2^j π τ) and cos(2^j π τ) at τ = 0 ... 1 for j = 0 ... dim/2 - 1.

    The lowest tells one end from the other; each further one halves what it resolves.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"position features need an even width >= 2 an axis, got {dim}.")
    place = np.linspace(0.0, 1.0, places) if places > 1 else np.full((1,), 0.5)
    angles = np.pi * place[:, None] * 2.0 ** np.arange(dim // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def relative_buckets(
    queries: int,
    keys: int,
    *,
    offset: int = 0,
    buckets: int = 32,
    max_distance: int = 128,
    causal: bool = False,
) -> Int[np.ndarray, "{queries} {keys}"]:
    """Number the bucket of every signed distance key - query, as in T5 (1910.10683).

    On each side, distances below half of its buckets have a bucket each; further ones share
    log-spaced buckets up to `max_distance`, beyond which the last bucket serves.

    Args:
      queries: number of queries.
      keys: number of keys.
      offset: place of the first query among the keys.
      buckets: of both sides together, a multiple of 4.
      max_distance: the distance from which on all share the last bucket of their side.
      causal: all buckets belong to the past, and the future shares bucket 0 with distance 0.

    Returns:
      The bucket of each pair, in 0 ... buckets - 1.

    Raises:
      ValueError: `buckets` is no multiple of 4.
    """
    if buckets < 4 or buckets % 4:
        raise ValueError(f"relative positions need a multiple of 4 buckets, got {buckets}.")
    distance = np.arange(keys)[None, :] - np.arange(offset, offset + queries)[:, None]
    side = buckets if causal else buckets // 2
    exact = side // 2
    magnitude = np.maximum(-distance, 0) if causal else np.abs(distance)
    # float32 as in the published table: 2 of its 256 borders would move in float64.
    ratio = np.log(np.maximum(magnitude, 1).astype(np.float32) / exact)
    spread = ratio / np.float32(math.log(max_distance / exact)) * (side - exact)
    far = np.minimum(exact + spread.astype(np.int32), side - 1)
    near = np.where(magnitude < exact, magnitude, far)
    return near if causal else near + np.where(distance > 0, side, 0)
