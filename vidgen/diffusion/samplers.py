"""Samplers: how z moves from one noise level t to the next, cleaner level s.

Imagen Video; VDM sec. 3; progressive distillation. With x̂ = x̂(z_t):

    ddim        z_s = α_s x̂ + σ_s ε̂ = (σ_s/σ_t) z_t + (1 - e^{(λ_t-λ_s)/2}) α_s x̂
    ancestral   z_s = μ̃(z_t, x̂) + √((σ̃²)^{1-γ} (σ²_{t|s})^γ) n       (see `schedules`)
    stochastic  z_k = ddim to the level k beyond s;  z_s = (α_s/α_k) z_k + σ_{s|k} n
    euler       x_s = x_t + (s - t) (ε̂ - x̂)   of the flow x_t = z/(α + σ), t = σ/(α + σ)

    Langevin corrector (VDM sec. 3):  z <- z - (δ/2) σ ε̂(z) + √δ σ n, at one level

Those of higher order are in `solvers`, what a sampler is in `sampler_step`.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vidgen import checks
from vidgen.diffusion.parameterization import eps_from_x0
from vidgen.diffusion.sampler_step import SAMPLERS, Sampler, Spec, ddim_step, fold, normal_like
from vidgen.diffusion.schedules import (
    Data,
    LogSnr,
    LogSnrSchedule,
    alpha_sigma,
    edm_sigmas,
    expand,
    posterior_mean,
    renoise,
)

# They are in `SAMPLERS` once they are imported, and configurations find them here too.
from vidgen.diffusion.solvers import DpmSolverPP2M, DpmSolverPP2S, DpmSolverPP3M, Heun, UniPC  # noqa: F401
from vidgen.types import ByValue

SPACINGS = ("time", "logsnr", "edm")


@dataclasses.dataclass(frozen=True)
class Ddim(Sampler, name="ddim"):
    """DDIM (2010.02502): deterministic, of first order in the step length."""

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Move z straight to level s with the noise that it holds; see `Sampler.__call__`."""
        x0 = denoise(z, levels.t)
        return ddim_step(z, x0, levels.t, levels.s), x0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler, name="ancestral"):
    """The reverse Markov chain of DDPM (2006.11239), with VDM's choice of noise.

    Attributes:
      gamma: where the noise variance lies between its bounds in log space: 0 lower, 1 upper. VDM
        takes 0.3 for text-to-video; Imagen Video's value is not published.
    """

    gamma: float = 0.3

    def __post_init__(self) -> None:
        checks.share(self, "gamma")

    @classmethod
    def from_spec(cls, spec: Spec) -> Ancestral:
        """Take over `SamplerSpec.gamma`; see `Sampler.from_spec`."""
        return cls(gamma=spec.gamma)

    def noise_std(
        self, logsnr_t: Float[Array, "*x"], logsnr_s: Float[Array, "*x"]
    ) -> Float[Array, "*x"]:
        """Compute the standard deviation of a step's noise: √(1 - e^{λ_t-λ_s}) σ_s^{1-γ} σ_t^γ.

        Args:
          logsnr_t: λ of the noisier level t.
          logsnr_s: λ of the cleaner level s, at least that of t.

        Returns:
          √((σ̃²)^{1-γ} (σ²_{t|s})^γ), between the lower bound (γ = 0) and the upper (γ = 1) of VDM
          sec. 3.
        """
        (_, sigma_t), (_, sigma_s) = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
        mixed = sigma_s ** (1 - self.gamma) * sigma_t**self.gamma
        return jnp.sqrt(-jnp.expm1(logsnr_t - logsnr_s)) * mixed

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Draw z_s around the mean of the reverse step; see `Sampler.__call__`."""
        x0 = denoise(z, levels.t)
        mean = posterior_mean(z, x0, levels.t, levels.s)
        return mean + self.noise_std(levels.t, levels.s) * normal_like(keys, z), x0


@dataclasses.dataclass(frozen=True)
class StochasticNStep(Sampler, name="stochastic"):
    """Two levels down by DDIM, one back up by noise: for distilled models (2210.03142)."""

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Go down to the level beyond s, and back up to s by new noise; see `Sampler.__call__`."""
        x0 = denoise(z, levels.t)
        beyond = ddim_step(z, x0, levels.t, levels.beyond)
        return renoise(beyond, normal_like(keys, z), levels.beyond, levels.s), x0


@dataclasses.dataclass(frozen=True)
class Euler(Sampler, name="euler"):
    """Euler's step of a rectified flow, along dx/dt = ε̂ - x̂ = (x_t - x̂)/t.

    The path of one x̂ and ε̂ is straight in x_t and an arc in z: for the same levels this is the step
    of `Ddim`, and what differs are the levels. Even times of `schedules.RectifiedFlow` are those
    of flow models.
    """

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Go along the straight line between x_t and x̂; see `Sampler.__call__`."""
        x0 = denoise(z, levels.t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(levels.t), alpha_sigma(levels.s)
        total_t, total_s = alpha_t + sigma_t, alpha_s + sigma_s
        x, t, s = z / total_t, sigma_t / total_t, sigma_s / total_s
        return total_s * (x + (s - t) * (x - x0) / t), x0


def langevin_step(
    keys: Key[Array, "b"],
    z: Data,
    x0: Data,
    logsnr: LogSnr,
    *,
    delta: float = 0.1,
) -> Data:
    """Move z towards its distribution at the same noise level by a Langevin step (VDM sec. 3).

    Args:
      keys: random keys of the noise, one an example.
      z: noisy data.
      x0: x̂(z).
      logsnr: λ of z.
      delta: δ, the size of the step; VDM takes 0.1.

    Returns:
      z - (δ/2) σ ε̂ + √δ σ n, at the same level.
    """
    sigma = alpha_sigma(expand(logsnr, z))[1]
    drift = 0.5 * delta * sigma * eps_from_x0(x0, z, logsnr)
    return z - drift + delta**0.5 * sigma * normal_like(keys, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected(Sampler):
    """Another sampler, and Langevin steps at each level before it goes on from there.

    Attributes:
      sampler: the sampler that moves z to the next level.
      steps: number of Langevin steps at each level.
      delta: δ, the size of each.
    """

    sampler: Sampler
    steps: int
    delta: float

    @property
    def memory(self) -> int:
        """How many earlier x̂ the sampler that is corrected reads."""
        return self.sampler.memory

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Correct z, unless it is pure noise (the first), and move it; see `Sampler.__call__`."""

        logsnr = jnp.broadcast_to(levels.t, z.shape[:1])

        def one(i: Int[Array, ""], z: Data) -> Data:
            x0 = denoise(z, logsnr)
            return langevin_step(fold(keys, i + 1), z, x0, logsnr, delta=self.delta)

        is_first = levels.before == -jnp.inf
        z = jnp.where(is_first, z, jax.lax.fori_loop(0, self.steps, one, z))
        return self.sampler(denoise, keys, z, x0_before, levels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a stage samples.

    Attributes:
      kind: a sampler with its settings, such as `Ancestral(gamma=0.5)`, or a name in `SAMPLERS`.
      steps: sampling steps; Imagen Video takes 256 for the base, 128 for the others, 8 once
        distilled.
      gamma: γ of `Ancestral`, where `kind` is its name.
      spacing: how levels are spread: evenly in time (the papers), evenly in logsnr, or edm.
      rho: ρ of edm, how much closer the clean levels lie (EDM eq. 5).
      corrector_steps: Langevin steps at each level, with as many more evaluations; VDM takes 1 with
        the ancestral sampler where a video is continued.
      corrector_delta: δ, the size of these steps (VDM: 0.1).
      churn: S_churn of Heun's sampler, where `kind` is its name: how much noise all steps together
        add (EDM algorithm 2; the paper takes 10 to 80 for 18 to 256 steps). 0 is deterministic.
      strength: share of the steps that is made, the last ones, in (0, 1]: less than 1 begins in the
        middle of the schedule, from a video that is noised to that level (SDEdit, 2108.01073).
      resample: how many times every run of steps is made where content is known: z is noised back
        to where the run began, and so the new content comes to agree with the known (RePaint,
        2201.09865, which takes 10). 1 is once, as without.
      resample_jump: steps of such a run; RePaint has 10 of 250.
    """

    kind: str | Sampler = "ancestral"
    steps: int = 256
    gamma: float = 0.3
    spacing: str = "time"
    rho: float = 7.0
    corrector_steps: int = 0
    corrector_delta: float = 0.1
    churn: float = 0.0
    strength: float = 1.0
    resample: int = 1
    resample_jump: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.kind, str) and self.kind not in SAMPLERS:
            raise ValueError(
                f"Unknown sampler kind {self.kind!r}; choose one of {', '.join(SAMPLERS)}."
            )
        checks.one_of(self, spacing=SPACINGS)
        checks.at_least(self, steps=1, resample=1, resample_jump=1)
        checks.share(self, "gamma")
        checks.positive(self, "rho", "corrector_delta")
        if self.corrector_steps < 0:
            raise ValueError(
                f"SamplerSpec.corrector_steps is {self.corrector_steps}; it must be >= 0 (0: none)."
            )
        if not 0 <= self.churn < float("inf"):
            raise ValueError(f"SamplerSpec.churn is {self.churn}; it must be >= 0 (0: none).")
        if not 0 < self.strength <= 1:
            raise ValueError(
                f"SamplerSpec.strength is {self.strength}; it must be more than 0, and at most 1."
            )

    @property
    def name(self) -> str:
        """The name of the sampler's class."""
        return self.kind if isinstance(self.kind, str) else self.kind.name

    def _uncorrected(self) -> Sampler:
        return SAMPLERS[self.kind].from_spec(self) if isinstance(self.kind, str) else self.kind

    def sampler(self) -> Sampler:
        """Make the sampler, and wrap it in its corrector where there are corrector steps.

        Returns:
          The sampler, with `gamma` and `churn` of this spec where `kind` is a name.
        """
        sampler = self._uncorrected()
        if not self.corrector_steps:
            return sampler
        return Corrected(sampler=sampler, steps=self.corrector_steps, delta=self.corrector_delta)

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser for one sample, without resampling."""
        return (self.steps - self.first) * (self._uncorrected().evaluations + self.corrector_steps)

    @property
    def first(self) -> int:
        """The number of the first step that is made; 0 with all of the strength."""
        return min(round((1 - self.strength) * self.steps), self.steps - 1)

    def logsnrs(self, schedule: LogSnrSchedule) -> Float[np.ndarray, "levels"]:
        """Compute the ladder of noise levels that is sampled along.

        Args:
          schedule: gives the noisiest level, u = 1, the cleanest, u = 0, and with the spacing
            "time" all between.

        Returns:
          steps + 1 values of λ, increasing: from noise to data.
        """
        with jax.ensure_compile_time_eval():
            u = jnp.asarray(np.linspace(1.0, 0.0, self.steps + 1))
            levels = np.asarray(_at_times(ByValue(schedule), u))
        noise, data = float(levels[0]), float(levels[-1])
        if self.spacing == "logsnr":
            return np.linspace(noise, data, self.steps + 1, dtype=levels.dtype)
        if self.spacing == "edm":
            return np.append(self._edm_levels(noise, data), data).astype(levels.dtype)
        return levels

    def _edm_levels(self, noise: float, data: float) -> Float[np.ndarray, "steps"]:
        """Compute the EDM grid as log-SNR, its ends kept within what the schedule covers."""
        low, high = max(0.002, np.exp(-data / 2)), min(80.0, np.exp(-noise / 2))
        sigmas = edm_sigmas(self.steps, rho=self.rho, sigma_min=float(low), sigma_max=float(high))
        return -2 * np.log(sigmas)


@functools.partial(jax.jit, static_argnums=0)  # the stages of a cascade share their schedules
def _at_times(
    schedule: ByValue[LogSnrSchedule], u: Float[Array, "levels"]
) -> Float[Array, "levels"]:
    return schedule.value(u)
