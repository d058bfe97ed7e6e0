"""Self-conditioning: a denoiser reads its own estimate of the step before (2208.04202, sec. 3.1).

    network     [z, ..., x̂ before]  on channels
    training    half of the batches: x̂ of the same z, made with an estimate of 0, no gradient
                the others: 0
    sampling    the x̂ of the step before, 0 in the first (`sampling.sample`)

[guess] In sampling it is what the sampler got: guided, thresholded, with known content in it. The
paper samples without these.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vidgen.imagen.denoiser import Denoiser
from vidgen.types import Conditioning, Estimate, Params


def without_estimate(cond: Conditioning, shape: tuple[int, ...]) -> Conditioning:
    """Give the network an estimate of 0, as in the first step of sampling.

    Args:
      cond: the conditioning without an estimate.
      shape: shape of the clips, (b, t, h, w, c).

    Returns:
      The conditioning with it.
    """
    return cond.replace(estimate=Estimate(video=jnp.zeros(shape)))


def in_training(
    denoiser: Denoiser,
    params: Params,
    cond: Conditioning,
    z: Float[Array, "b t h w c"],
    logsnr: Float[Array, "b"],
    *,
    key: Key[Array, ""],
    rate: float,
) -> Conditioning:
    """Give the network its own estimate from z alone, in a share of the batches.

    The other batches have an estimate of 0, and do not pay for the evaluation.

    Args:
      denoiser: x̂ by one evaluation.
      params: parameters of its network; no gradient goes through the estimate.
      cond: the conditioning without an estimate.
      z: noisy clips.
      logsnr: λ of each.
      key: random key of the draw, one for the whole batch.
      rate: share of the batches, from 0 to 1.

    Returns:
      The conditioning with the estimate.
    """
    blank = without_estimate(cond, z.shape)

    def estimate(_: None) -> Float[Array, "b t h w c"]:
        return jax.lax.stop_gradient(denoiser(params, blank, z, logsnr)).astype(jnp.float32)

    conditioned = jax.random.bernoulli(key, rate)
    video = jax.lax.cond(conditioned, estimate, lambda _: jnp.zeros(z.shape), None)
    return cond.replace(estimate=Estimate(video=video))
