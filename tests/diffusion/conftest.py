"""Fixtures. They import nothing of vidgen: pytest reads this before jaxtyping's hook is on."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def x64():
    """Double precision, for closed forms that must hold to 1e-6."""
    with jax.enable_x64(True):
        yield


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The exact denoiser of data N(mean, std²), and its exact probability flow."""

    mean: float = 0.5
    std: float = 0.4

    def __call__(self, z, logsnr, step):
        logsnr = logsnr.reshape(logsnr.shape + (1,) * (z.ndim - logsnr.ndim))
        alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
        return self.mean + self.std**2 * alpha / self.variance(logsnr) * (z - alpha * self.mean)

    def variance(self, logsnr):
        return jax.nn.sigmoid(logsnr) * self.std**2 + jax.nn.sigmoid(-logsnr)

    def flow(self, z, logsnr_t, logsnr_s):
        alpha_t, alpha_s = (jnp.sqrt(jax.nn.sigmoid(level)) for level in (logsnr_t, logsnr_s))
        scale = jnp.sqrt(self.variance(logsnr_s) / self.variance(logsnr_t))
        return alpha_s * self.mean + scale * (z - alpha_t * self.mean)


@pytest.fixture
def gaussian():
    return Gaussian()
