"""Known content while sampling: first frames, every other frame, pixels outside of a mask.

Video Diffusion Models sec. 3.1, as functions X0Fn -> X0Fn, so that every sampler can use them. With
the known data a on a mask m, and the rest b of the same clip to be drawn:

    z  on m  becomes  α a + σ ε          what the denoiser sees ("replacement")
    x̂  on m  becomes  a                  what the sampler goes on with, and ends on
    x̃_b = x̂_b - (w_r α/2) ∇_{z_b} ||a - x̂_a(z)||²          reconstruction guidance, off m

ε is fixed for each example: it is the noise that its sample starts from, so that a deterministic
sampler moves the known part along its exact path, and a sample depends on its own key alone.
Replacement by itself tells b about a only through noisy z, and b then agrees badly with a: the
score of z_b lacks ∇ log q(a | z), which reconstruction guidance approximates. It costs a backward
pass through the denoiser at every step.

Order: guidance, `reconstruction_guidance`, thresholding, `replace_known`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from vidgen.diffusion.guidance import X0Fn, as_tree, reconstruction_guided
from vidgen.diffusion.schedules import Data, diffuse
from vidgen.types import Known


def reconstruction_guidance(x0_fn: X0Fn, known: Known, weight: float) -> X0Fn:
    """Draw the unknown part of x̂ to agree with the known one (VDM sec. 3.1).

    Args:
      x0_fn: a differentiable denoiser, guided but not thresholded: clipped values have no gradient.
      known: what is known.
      weight: w_r; VDM continues videos with 50 (BAIR) and 9 (Kinetics-600). 0 changes nothing, and
        saves the backward pass of every step.

    Returns:
      A denoiser of the same arguments.

    Raises:
      ValueError: if the weight is negative.
    """
    if weight == 0:
        return x0_fn
    if not weight > 0:
        raise ValueError(f"the reconstruction weight is {weight}; it must be >= 0 (0: none).")
    visible = Partial(_visible, known.mask)
    return reconstruction_guided(x0_fn, visible, visible(known.video), weight)


def replace_known(x0_fn: X0Fn, known: Known, noise: Data) -> X0Fn:
    """Show a denoiser the known data, noised, and make it answer with that data.

    Args:
      x0_fn: the denoiser, otherwise finished: guided, drawn, thresholded.
      known: what is known, in the size that is sampled.
      noise: ε, standard normal: the z that sampling starts from.

    Returns:
      A denoiser of the same arguments, whose x̂ is the known data on the mask.

    Raises:
      ValueError: if the known data is of another size, or the mask does not fit it.
    """
    check(known, noise.shape)
    return Partial(_impose, as_tree(x0_fn), known, noise)


def check(known: Known, shape: tuple[int, ...]) -> None:
    """Check that known content fits the clips that are sampled.

    Args:
      known: content with its mask.
      shape: shape of the samples, (b, t, h, w, c).

    Raises:
      ValueError: where the video has another shape, or the mask does not broadcast to it.
    """
    if known.video.shape != shape:
        raise ValueError(
            f"the known content has the shape {known.video.shape}, but {shape} is sampled; "
            "resize it first."
        )
    try:
        fits = jnp.broadcast_shapes(known.mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the mask of the known content has the shape {known.mask.shape}, which does not "
            f"broadcast to {shape}."
        )


def _visible(mask, x0):
    return jnp.where(mask, x0, 0)


def _impose(x0_fn, known, noise, z, logsnr, step):
    a = known.video.astype(z.dtype)
    shown = jnp.where(known.mask, diffuse(a, noise.astype(z.dtype), logsnr), z)
    return jnp.where(known.mask, a, x0_fn(shown, logsnr, step))
