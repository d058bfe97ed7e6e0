"""Arrays that sampling starts from, laid out over the mesh as activations are.

Compiled, so that a mesh whose devices do not divide an axis is no error, and so that every device
makes its own part of the noise.
"""

from __future__ import annotations

import functools

import jax
from jaxtyping import Array, Float, Key

from vidgen.diffusion import sampling
from vidgen.nn import axes

laid_out = jax.jit(axes.constrain_video)


@functools.partial(jax.jit, static_argnums=1)
def initial_noise(
    keys: Key[Array, "b"], shape: tuple[int, int, int, int]
) -> Float[Array, "b t h w c"]:
    """Draw the z that sampling starts from; see `sampling.initial_noise`.

    It lies on the mesh as activations do.
    """
    return axes.constrain_video(sampling.initial_noise(keys, shape))
