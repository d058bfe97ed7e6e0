"""Samplers of higher order in the length of a step.

DPM-Solver++ (2211.01095), UniPC (2302.04867), EDM (2206.00364, algorithm 2). With the noise level
σ̃ = σ/α = e^{-λ/2} of y = z/α, whose path is dy/dσ̃ = (y - x̂)/σ̃ = ε̂, and h = (λ_s - λ_t)/2 > 0 the
length of a step:

    dpmpp_2m    ddim with D in place of x̂:  D = x̂ + (h/2h') (x̂ - x̂'),
                h' the length of the step before and x̂' its prediction
    dpmpp_2s    ddim with x̂ of the middle, (λ_t + λ_s)/2, where a first half step by ddim leads
    dpmpp_3m    z_s = ddim(x̂) + α_s [(1 + φ) D₁ - ((1 + φ)/h - 1/2) D₂],   φ = (e^{-h} - 1)/h
                D₁ = h x̂', D₂ = h² x̂'' of the parabola through the last three x̂
    unipc       dpmpp_2m, and once x̂ is there z is corrected by the parabola through the last three,
                as if it had been known: UniPC-2, of third order. For the step from t' to t,
                z_t <- z_t - α_t [c₁ D₁ + c₂ (x̂ - x̂') - (φ/2) D₁],  D₁ = (h'/h'') (x̂' - x̂''),
                φ = e^{-h'} - 1,  c₁ + c₂ = k,  c₂ - (h''/h') c₁ = 2 k',
                k = -φ/h' - 1,  k' = -k/h' - 1/2
    heun        up from σ̃_t to σ̂ = (1 + γ) σ̃_t by new noise, then down to s by the mean of the
                slopes ε̂ at both ends:  z_s = ddim(x̂) + (α_s/2) (σ̃_s - σ̂) (ε̂_s - ε̂)
                                            = ddim(x̂) + α_s (r - 1)/2 (x̂_s - x̂),   r = σ̂/σ̃_s
                and where r > 4, with 1 - (1 - 1/r)/log r in place of (r - 1)/2
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.diffusion.sampler_step import Sampler, Spec, ddim_step, normal_like
from vidgen.diffusion.schedules import alpha_sigma

_LONG_STEP = math.log(4)
_MOST_CHURN = math.sqrt(2) - 1  # no step adds more noise than there is (EDM algorithm 2)


@dataclasses.dataclass(frozen=True)
class DpmSolverPP2M(Sampler, name="dpmpp_2m"):
    """DPM-Solver++(2M): deterministic, of second order, by the x̂ of the step before.

    The first step is of order 1: its `before` is -inf, h' is infinite and h/2h' is 0.
    """

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Move z by an x̂ that is extrapolated from the last two; see `Sampler.__call__`."""
        assert not isinstance(x0_before, tuple)
        x0 = denoise(z, levels.t)
        extrapolation = 0.5 * (levels.s - levels.t) / (levels.t - levels.before)
        corrected = x0 + extrapolation * (x0 - x0_before)
        return ddim_step(z, corrected, levels.t, levels.s), x0


@dataclasses.dataclass(frozen=True)
class DpmSolverPP2S(Sampler, name="dpmpp_2s", evaluations=2):
    """DPM-Solver++(2S): deterministic, of second order, by a step to the middle.

    It needs no step before it. It is algorithm 1 of the paper with r = 1/2, its own choice. A step
    after z was noised back (RePaint, `sampling.walk_of`) is therefore as good as any other.
    """

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Move z by the x̂ of the middle of the step; see `Sampler.__call__`."""
        x0, middle = denoise(z, levels.t), 0.5 * (levels.t + levels.s)
        halfway = denoise(ddim_step(z, x0, levels.t, middle), middle)
        return ddim_step(z, halfway, levels.t, levels.s), x0


@dataclasses.dataclass(frozen=True)
class DpmSolverPP3M(Sampler, name="dpmpp_3m"):
    """DPM-Solver++(3M): deterministic, of third order, by the x̂ of the two steps before.

    Where there is one before, it is of second order; where there is none, it is ddim. (The first x̂
    that is missing has the level -inf, and so an infinite distance.)
    """

    @property
    def memory(self) -> int:
        """The number of earlier x̂ that it reads, 2."""
        return 2

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Move z along a parabola through the last three x̂; see `Sampler.__call__`."""
        assert levels.earlier is not None
        x0, (first, second) = denoise(z, levels.t), x0_before
        h = 0.5 * (levels.s - levels.t)
        near = _inverse(0.5 * (levels.t - levels.before), h)  # h over the lengths of steps before
        far = jnp.where(near == 0, 0, _inverse(0.5 * (levels.before - levels.earlier), h))
        both = jnp.where(near + far == 0, 1, near + far)
        slope, earlier_slope = near * (x0 - first), far * (first - second)
        bend = slope - earlier_slope
        curvature = 2 * (near * far / both) * bend  # h² x̂''; the paper's code lacks the 2
        slope = slope + jnp.where(far == 0, 0, far / both) * bend
        phi = jnp.expm1(-h) / h
        step = (1 + phi) * slope - ((phi + 1) / h - 0.5) * curvature
        return ddim_step(z, x0, levels.t, levels.s) + alpha_sigma(levels.s)[0] * step, x0


@dataclasses.dataclass(frozen=True)
class UniPC(Sampler, name="unipc"):
    """Deterministic, of third order, by a corrector that costs no evaluation (UniPC-2, B₂(h)).

    Its predictor is `DpmSolverPP2M`: with B₂(h) = e^h - 1 the paper's coefficient 1/2 gives that
    step. The first z has no step before it and is not corrected; the second is, by a line.
    """

    @property
    def memory(self) -> int:
        """It reads two earlier x̂."""
        return 2

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
        x0 = denoise(z, levels.t)
        first, second = x0_before
        corrected = z + alpha_sigma(levels.t)[0] * self._correction(x0, first, second, levels)
        near = _inverse(0.5 * (levels.t - levels.before), 0.5 * (levels.s - levels.t))
        return ddim_step(corrected, x0 + 0.5 * near * (x0 - first), levels.t, levels.s), x0

    def _correction(self, x0, first, second, levels):
        """Return what the step before would have added to z/α, had it known x̂ at its end."""
        assert levels.earlier is not None
        length = 0.5 * (levels.t - levels.before)
        h = jnp.where(jnp.isfinite(length), length, 1)
        back = _inverse(0.5 * (levels.before - levels.earlier), h)  # h'/h''
        phi = jnp.expm1(-h)
        k = -phi / h - 1
        c1 = (k + 2 * k / h + 1) * back / (1 + back)
        c2 = jnp.where(back == 0, 0.5 * phi, k - c1)
        slope = back * (first - second)
        added = (0.5 * phi - c1) * slope - c2 * (x0 - first)
        return jnp.where(jnp.isfinite(length), added, 0)


def _inverse(length: Float[Array, "*steps"], h: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
    """Compute h / length; 0 where the length is infinite or NaN: there is no such step."""
    return jnp.where(jnp.isfinite(length), h / length, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(Sampler, name="heun", evaluations=2):
    """EDM's sampler: second order, with as much new noise as is asked for (algorithm 2).

    The last step of all returns x̂, as the paper's does, whose second evaluation would be at pure
    data. "edm" is the paper's spacing of levels.

    Its trapezoid is meant for short steps: (r - 1)/2 has no bound, and a few steps over the range
    of a cosine schedule, which begins at σ̃ = e^10, would blow up every difference of two x̂. A step
    longer than any of the paper's 18 (r = 3.8) therefore takes x̂ as linear in λ, which is exact for
    such an x̂ as DPM-Solver++ is; its weight is below 1. [guess] the border of 4.

    Attributes:
      gamma: γ, how much higher the noise level is brought before a step: min(S_churn/N, √2 - 1); 0
        is deterministic.
      low: S_min, the least noise level σ/α that is brought higher.
      high: S_max, the highest. The paper's values for ImageNet-64 are .05 and 50.
      noise: S_noise, the standard deviation of the new noise; the paper has 1.003 to 1.007.
    """

    gamma: float = 0.0
    low: float = 0.05
    high: float = 50.0
    noise: float = 1.003

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= _MOST_CHURN + 1e-9:
            raise ValueError(f"Heun.gamma is {self.gamma}; it must be in [0, √2 - 1 = 0.4142].")
        if not 0 <= self.low <= self.high or not self.noise > 0:
            raise ValueError(
                f"Heun.low, high and noise are {self.low}, {self.high} and {self.noise}; they must "
                "satisfy 0 <= low <= high and noise > 0."
            )

    @classmethod
    def from_spec(cls, spec: Spec) -> Heun:
        """Spread `SamplerSpec.churn` (S_churn) over its steps; see `Sampler.from_spec`."""
        return cls(gamma=min(spec.churn / spec.steps, _MOST_CHURN))

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Add noise, step to s, and correct by the slope there; see `Sampler.__call__`."""
        t = levels.t
        if self.gamma:
            z, t = self._churned(keys, z, t)
        x0 = denoise(z, t)
        ahead = ddim_step(z, x0, t, levels.s)  # Euler's step
        h = 0.5 * (levels.s - t)  # log r
        trapezoid, linear = 0.5 * jnp.expm1(h), 1 + jnp.expm1(-h) / h
        weight = jnp.where(h <= _LONG_STEP, trapezoid, linear)
        return ahead + alpha_sigma(levels.s)[0] * weight * (denoise(ahead, levels.s) - x0), x0

    def _churned(self, keys, z, t):
        """Bring z up to the level σ̂ = (1 + γ) σ̃, where σ̃ is within the bounds."""
        level = jnp.exp(-0.5 * t)
        gamma = jnp.where((self.low <= level) & (level <= self.high), self.gamma, 0)
        higher = t - 2 * jnp.log1p(gamma)
        alpha = alpha_sigma(higher)[0]
        added = self.noise * level * jnp.sqrt(gamma * (2 + gamma))
        y = z / alpha_sigma(t)[0] + added * normal_like(keys, z)
        return alpha * y, higher
