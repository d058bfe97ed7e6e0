"""Self-conditioning: a denoiser is told its own estimate of the step before (2208.04202, sec. 3.1).

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
    """Tell the network an estimate of 0, of clips of this shape "b t h w c"."""
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
    """Tell the network what it makes of z by itself, in a share `rate` of the batches.

    The other batches do not pay for the evaluation.
    """
    blank = without_estimate(cond, z.shape)

    def estimate(_: None) -> Float[Array, "b t h w c"]:
        return jax.lax.stop_gradient(denoiser(params, blank, z, logsnr)).astype(jnp.float32)

    told = jax.random.bernoulli(key, rate)
    video = jax.lax.cond(told, estimate, lambda _: jnp.zeros(z.shape), None)
    return cond.replace(estimate=Estimate(video=video))
