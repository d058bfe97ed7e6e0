"""What a noisy video and a low-resolution one say together about the clean video, in closed form.

With a prior x ~ N(0, d²), z = α x + σ ε and an estimate y = x + error of variance s², all Gaussian,

    1/v = 1/d² + SNR + 1/s²        μ = v (α/σ² z + y/s²)        x | z, y ~ N(μ, v)

and a stage that is given y predicts F of unit variance in x̂ = μ + √v F. Without y this is EDM's
preconditioning (table 1: c_skip and c_out), with it the network starts at the best linear guess
instead of at zero: hundreds of updates are not spent on copying pixels that it was given, and at
little noise what it adds is small, so that a schedule can end where z holds every detail.

The network sees (z/α - y)/√(1/SNR + s²), the difference of both observations at unit variance, and
μ. Both say what z and y say, but a detail of s = 0.05 is not the difference of two numbers near 1.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vidgen.diffusion.schedules import alpha_sigma, expand
from vidgen.types import Conditioning

SIGMA_DATA = 0.5  # d, as in EDM
# [guess] Least s², of a frame that is given without noise: half a step of 8 bits.
MIN_VARIANCE = (1 / 255) ** 2

Video = Float[Array, "b t h w c"]


def posterior(
    z: Video, logsnr: Float[Array, "b"], cond: Conditioning
) -> tuple[Video, Float[Array, "b t 1 1 1"], Video]:
    """Compute μ, √v and the difference of both observations (see the module's docstring).

    Args:
      z: noisy video.
      logsnr: its log-SNR.
      cond: with `low_res`, `aug_logsnr` and `low_res_variance`.

    Returns:
      μ; √v of every frame; (z/α - y)/√(1/SNR + s²), zero in frames of which nothing is known.
    """
    assert cond.low_res is not None
    assert cond.aug_logsnr is not None
    assert cond.low_res_variance is not None
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    y = cond.low_res / alpha_sigma(expand(cond.aug_logsnr, z))[0]
    variance = expand(cond.low_res_variance, z) + MIN_VARIANCE
    v = 1 / (1 / SIGMA_DATA**2 + (alpha / sigma) ** 2 + 1 / variance)
    mean = v * (alpha / sigma**2 * z + y / variance)
    # (z - α y)/√(σ² + α² s²), which is finite at every α, and 0 where s² is infinite
    difference = (z - alpha * y) / jnp.sqrt(sigma**2 + alpha**2 * variance)
    return mean, jnp.sqrt(v), difference


def residual_variance(
    residual_std: float | None,
    logsnr: Float[Array, "b"],
    known: Bool[Array, "b t"] | None,
    shown: Bool[Array, "b t"],
) -> Float[Array, "b t"] | None:
    """Compute the mean square of y - x in each frame, y = low_res / α.

    Args:
      residual_std: see `conditioning.Upsample`.
      logsnr: of the noise on the low-resolution video.
      known: frames that are in the low-resolution video, without a residual; None: none.
      shown: frames of which it tells anything.

    Returns:
      The variance s², infinite in frames that are not shown; None without a `residual_std`.
    """
    if residual_std is None:
        return None
    residual = jnp.full(shown.shape, residual_std**2)
    if known is not None:
        residual = jnp.where(known, 0.0, residual)
    # Bilinear up-sampling averages noise; [guess] near enough as it is.
    return jnp.where(shown, residual + jnp.exp(-logsnr)[:, None], jnp.inf)
