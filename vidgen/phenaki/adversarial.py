"""Losses between a generator and its discriminator, one value an example.

With logits D of real clips x and of reconstructions x̂, real where they are large:

    generator       softplus(-D(x̂))                                  non-saturating
    discriminator   softplus(-D(x)) + softplus(D(x̂))
    R1              |∇ₓ D(x)|² / 2                                    on real clips only
    LeCam           relu(D(x) - ā_fake)² + relu(ā_real - D(x̂))²       (MAGVIT, MAGVIT-v2)

ā are moving averages of the logits, a ← ρ a + (1 - ρ) mean D: gradient descent at the rate 1 - ρ
on (a - mean D)²/2, so they can be trained as parameters and need no other place to live.

Phenaki names a StyleGAN discriminator with weight 0.1 and neither loss nor penalty; these are what
the same group's MaskGIT and MAGVIT use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float

Anchors = Mapping[str, Float[Array, ""]]  # "real" and "fake", the moving averages


def generator_loss(fake: Float[Array, "b n"]) -> Float[Array, "b"]:
    """How far the logits of reconstructions are from those of real clips."""
    return jnp.mean(softplus(-fake), axis=1)


def discriminator_loss(real: Float[Array, "b n"], fake: Float[Array, "b n"]) -> Float[Array, "b"]:
    """Cross-entropy of telling real from reconstructed; 2 ln 2 where all logits are 0."""
    return jnp.mean(softplus(-real), axis=1) + jnp.mean(softplus(fake), axis=1)


def r1_penalty(
    logits_of: Callable[[Float[Array, "b t h w c"]], Float[Array, "b n"]],
    real: Float[Array, "b t h w c"],
) -> Float[Array, "b"]:
    """Half the squared gradient of a logit with respect to what it sees, mean over logits.

    Args:
      logits_of: the discriminator. A logit must depend on no other example, and where an example
        has several, each on pixels of its own (a logit a frame).
      real: the clips.
    """

    def total(video: Array) -> tuple[Array, Array]:
        logits = logits_of(video)
        return jnp.sum(logits), logits

    slope, logits = jax.grad(total, has_aux=True)(real)
    return 0.5 * jnp.sum(slope.astype(jnp.float32) ** 2, axis=(1, 2, 3, 4)) / logits.shape[1]


def lecam_penalty(
    real: Float[Array, "b n"], fake: Float[Array, "b n"], anchors: Anchors
) -> Float[Array, "b"]:
    """Keeps the logits of each kind from running ahead of the average of the other."""
    average = jax.lax.stop_gradient(anchors)
    ahead = relu(real - average["fake"]) ** 2
    behind = relu(average["real"] - fake) ** 2
    return jnp.mean(ahead, axis=1) + jnp.mean(behind, axis=1)


def anchor_loss(
    real: Float[Array, "b n"], fake: Float[Array, "b n"], anchors: Anchors
) -> Float[Array, ""]:
    """What gradient descent makes moving averages of, see above; its value means nothing."""
    means = jax.lax.stop_gradient((jnp.mean(real), jnp.mean(fake)))
    return 0.5 * (anchors["real"] - means[0]) ** 2 + 0.5 * (anchors["fake"] - means[1]) ** 2
