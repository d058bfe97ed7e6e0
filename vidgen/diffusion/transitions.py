"""Transitions of the samplers: how z_t moves to the next, cleaner level s, given x̂(z_t).

ddim        z_s = α_s x̂ + σ_s ε̂ = (σ_s/σ_t) z_t + (1 - e^{(λ_t-λ_s)/2}) α_s x̂
ancestral   z_s = μ̃(z_t, x̂) + √((σ̃²)^{1-γ} (σ²_{t|s})^γ) n       (see `schedules`)
stochastic  z_k = ddim to the level k beyond s;  z_s = (α_s/α_k) z_k + σ_{s|k} n
dpmpp_2m    ddim with D in place of x̂:  D = x̂ + (h/2h') (x̂ - x̂'),
            h = (λ_s - λ_t)/2 the length of this step, h' and x̂' of the one before

Langevin corrector (VDM sec. 3):  z <- z - (δ/2) σ ε̂(z) + √δ σ n, at one level
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.guidance import X0Fn
from vidgen.diffusion.parameterization import eps_from_x0
from vidgen.diffusion.schedules import LogSnr, alpha_sigma, expand, posterior_mean, renoise


class StepLevels(NamedTuple):
    """The log-SNRs that one step may look at, noisiest first (stacked: those of all steps).

    Attributes:
      before: level of the previous x̂; -inf in the first step, which has none.
      t: level of z.
      s: level to go to.
      beyond: the level after s, or s in the last step.
    """

    before: Float[Array, "*steps"]
    t: Float[Array, "*steps"]
    s: Float[Array, "*steps"]
    beyond: Float[Array, "*steps"]


@runtime_checkable
class Transition(Protocol):
    """One move from level t to the cleaner level s. Hashable: compiled steps are kept by it."""

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s, from z_t, x̂(z_t) and the x̂ of the previous step (0 in the first)."""
        ...


def ddim_step(
    z: Float[Array, "b *x"], x0: Float[Array, "b *x"], logsnr_t: LogSnr, logsnr_s: LogSnr
) -> Float[Array, "b *x"]:
    """z_s = α_s x0 + σ_s (z - α_t x0)/σ_t, in either direction."""
    t, s = expand(logsnr_t, z), expand(logsnr_s, z)
    (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    return (sigma_s / sigma_t) * z - jnp.expm1(0.5 * (t - s)) * alpha_s * x0


@dataclasses.dataclass(frozen=True)
class Ddim:
    """Deterministic; first order."""

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s."""
        return ddim_step(z, x0, levels.t, levels.s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """The reverse Markov chain of DDPM.

    Attributes:
      gamma: where the noise variance lies between its bounds in log space: 0 lower, 1 upper.
    """

    gamma: float

    def noise_std(
        self, logsnr_t: Float[Array, "*x"], logsnr_s: Float[Array, "*x"]
    ) -> Float[Array, "*x"]:
        """√(1 - e^{λ_t-λ_s}) σ_s^{1-γ} σ_t^γ."""
        (_, sigma_t), (_, sigma_s) = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
        mixed = sigma_s ** (1 - self.gamma) * sigma_t**self.gamma
        return jnp.sqrt(-jnp.expm1(logsnr_t - logsnr_s)) * mixed

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s."""
        mean = posterior_mean(z, x0, levels.t, levels.s)
        return mean + self.noise_std(levels.t, levels.s) * normal_like(keys, z)


@dataclasses.dataclass(frozen=True)
class StochasticNStep:
    """Two levels down by DDIM, one back up by noise: for distilled models (2210.03142)."""

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s."""
        beyond = ddim_step(z, x0, levels.t, levels.beyond)
        return renoise(beyond, normal_like(keys, z), levels.beyond, levels.s)


@dataclasses.dataclass(frozen=True)
class DpmSolverPP2M:
    """Deterministic; second order in the step length, reusing the previous x̂.

    The first step is of order 1: its `before` is -inf, h' is infinite and h/2h' is 0.
    """

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s."""
        extrapolation = 0.5 * (levels.s - levels.t) / (levels.t - levels.before)
        corrected = x0 + extrapolation * (x0 - x0_before)
        return ddim_step(z, corrected, levels.t, levels.s)


def langevin_step(
    keys: Key[Array, "b"],
    z: Float[Array, "b *x"],
    x0: Float[Array, "b *x"],
    logsnr: LogSnr,
    *,
    delta: float = 0.1,
) -> Float[Array, "b *x"]:
    """z moved towards its marginal at the same level; `x0` is x̂(z), δ = 0.1 as in VDM."""
    sigma = alpha_sigma(expand(logsnr, z))[1]
    drift = 0.5 * delta * sigma * eps_from_x0(x0, z, logsnr)
    return z - drift + delta**0.5 * sigma * normal_like(keys, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """Another transition, and Langevin steps at each level before it goes on from there.

    Attributes:
      transition: the other one.
      steps: how many.
      delta: δ of each.
    """

    transition: Transition
    steps: int
    delta: float

    def __call__(
        self,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        x0: Float[Array, "b *x"],
        x0_before: Float[Array, "b *x"],
        levels: StepLevels,
    ) -> Float[Array, "b *x"]:
        """z_s of the other transition."""
        return self.transition(keys, z, x0, x0_before, levels)

    def corrected(
        self,
        x0_fn: X0Fn,
        keys: Key[Array, "b"],
        z: Float[Array, "b *x"],
        logsnr: Float[Array, "b"],
        number: Int[Array, ""],
    ) -> Float[Array, "b *x"]:
        """z after the Langevin steps; the first z of all is pure noise, and stays."""

        def one(i: Int[Array, ""], z: Float[Array, "b *x"]) -> Float[Array, "b *x"]:
            x0 = x0_fn(z, logsnr, number)
            return langevin_step(fold(keys, i + 1), z, x0, logsnr, delta=self.delta)

        return jnp.where(number == 0, z, jax.lax.fori_loop(0, self.steps, one, z))


def normal_like(keys: Key[Array, "b"], z: Float[Array, "b *x"]) -> Float[Array, "b *x"]:
    """Standard normal noise in the shape of z, each example from its own key."""
    return jax.vmap(lambda key, x: jax.random.normal(key, x.shape, x.dtype))(keys, z)


def fold(keys: Key[Array, "b"], data: int | Int[Array, ""]) -> Key[Array, "b"]:
    """Each key folded with the same number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
