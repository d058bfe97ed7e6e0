"""Clips whose frames are all the same, with the exact denoiser as the network of a base."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=6, height=2, width=2)


@dataclasses.dataclass(frozen=True)
class Fake(DenoisingNetwork):
    """A network that is one Python function of (z, logsnr, cond)."""

    function: Callable[..., Any]

    def init(self, rngs, *args, **kwargs):
        return {}

    def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
        return self.function(z, logsnr, cond)


def stage(function, conditioner, **settings):
    return DiffusionStage(
        **{"shape": SHAPE, "parameterization": "x0", "loss_weight": "x_mse"} | settings,
        network=Fake(function),
        conditioner=conditioner,
    )


def constant_in_time(z, logsnr, cond):
    """The exact x̂ of clips whose frames are all the same N(0, 1): by z, or the frame shown.

    With t frames of z = α x + σ ε each, E(x | z) = α Σ z / (σ² + t α²).
    """
    level = logsnr[:, None, None, None]
    alpha2, sigma2 = jax.nn.sigmoid(level), jax.nn.sigmoid(-level)
    of_noise = jnp.sqrt(alpha2) * z.sum(1) / (sigma2 + z.shape[1] * alpha2)
    count = cond.known_frames.sum(1)[:, None, None, None]
    shown = cond.low_res.sum(1) / jnp.maximum(count, 1)
    return jnp.broadcast_to(jnp.where(count > 0, shown, of_noise)[:, None], z.shape)
