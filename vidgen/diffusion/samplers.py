"""Samplers: how z moves from one noise level t to the next, cleaner level s.

Imagen Video; VDM sec. 3; progressive distillation; DPM-Solver++ (2211.01095). With x̂ = x̂(z_t):

    ddim        z_s = α_s x̂ + σ_s ε̂ = (σ_s/σ_t) z_t + (1 - e^{(λ_t-λ_s)/2}) α_s x̂
    ancestral   z_s = μ̃(z_t, x̂) + √((σ̃²)^{1-γ} (σ²_{t|s})^γ) n       (see `schedules`)
    stochastic  z_k = ddim to the level k beyond s;  z_s = (α_s/α_k) z_k + σ_{s|k} n
    dpmpp_2m    ddim with D in place of x̂:  D = x̂ + (h/2h') (x̂ - x̂'),
                h = (λ_s - λ_t)/2 the length of this step, h' and x̂' of the one before
    euler       x_s = x_t + (s - t) (ε̂ - x̂)   of the flow x_t = z/(α + σ), t = σ/(α + σ)

    Langevin corrector (VDM sec. 3):  z <- z - (δ/2) σ ε̂(z) + √δ σ n, at one level

A sampler is a frozen dataclass that is called once a step (`sampling.sample`) with the denoiser, so
that it may evaluate x̂ at more levels than t. Its class registers itself under a name:

    class Heun(Sampler, name="heun", evaluations=2):

is then `SamplerSpec.kind = "heun"` and `--sampler=heun`; with settings of its own it is
`SamplerSpec.kind = @heun.Heun()`. CONTRIBUTING.md has the whole of this example.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.parameterization import eps_from_x0
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

SPACINGS = ("time", "logsnr", "edm")
SAMPLERS: dict[str, type[Sampler]] = {}  # by name; `Sampler` fills it

# x̂ of (z, log-SNR), guided and thresholded.
Denoise = Callable[[Data, LogSnr], Data]


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


class Sampler(abc.ABC):
    """One step of sampling, from level t to the cleaner level s.

    A subclass is a frozen dataclass: compiled steps are kept by equal samplers.

    Attributes:
      name: of the class, for `SamplerSpec.kind` and `--sampler`; "" is not registered.
      evaluations: of the denoiser in a step.
    """

    name: ClassVar[str] = ""
    evaluations: ClassVar[int] = 1

    def __init_subclass__(cls, *, name: str = "", evaluations: int = 1) -> None:
        super().__init_subclass__()
        cls.name, cls.evaluations = name, evaluations
        if name:
            SAMPLERS[name] = cls

    @classmethod
    def from_spec(cls, spec: SamplerSpec) -> Sampler:
        """Make the sampler that `SamplerSpec.kind` names, with the settings that the spec has."""
        del spec
        return cls()

    @abc.abstractmethod
    def __call__(
        self,
        denoise: Denoise,
        keys: Key[Array, "b"],
        z: Data,
        x0_before: Data,
        levels: StepLevels,
    ) -> tuple[Data, Data]:
        """Take one step.

        Args:
          denoise: x̂ at any z and level.
          keys: of the noise of this step, one an example.
          z: z_t.
          x0_before: the x̂ that the step before returned; 0 in the first.
          levels: of this step.

        Returns:
          z_s, and x̂(z_t), which the last step of all returns as the data.
        """


def ddim_step(z: Data, x0: Data, logsnr_t: LogSnr, logsnr_s: LogSnr) -> Data:
    """Step from t to s, in either direction: z_s = α_s x0 + σ_s (z - α_t x0)/σ_t."""
    t, s = expand(logsnr_t, z), expand(logsnr_s, z)
    (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    return (sigma_s / sigma_t) * z - jnp.expm1(0.5 * (t - s)) * alpha_s * x0


@dataclasses.dataclass(frozen=True)
class Ddim(Sampler, name="ddim"):
    """Deterministic, of first order."""

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
        x0 = denoise(z, levels.t)
        return ddim_step(z, x0, levels.t, levels.s), x0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler, name="ancestral"):
    """The reverse Markov chain of DDPM.

    Attributes:
      gamma: where the noise variance lies between its bounds in log space: 0 lower, 1 upper. VDM
        takes 0.3 for text-to-video; Imagen Video's value is not published.
    """

    gamma: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"Ancestral.gamma is {self.gamma}; it must be in [0, 1].")

    @classmethod
    def from_spec(cls, spec: SamplerSpec) -> Ancestral:
        """Make it with the gamma of the spec."""
        return cls(gamma=spec.gamma)

    def noise_std(
        self, logsnr_t: Float[Array, "*x"], logsnr_s: Float[Array, "*x"]
    ) -> Float[Array, "*x"]:
        """Compute √(1 - e^{λ_t-λ_s}) σ_s^{1-γ} σ_t^γ."""
        (_, sigma_t), (_, sigma_s) = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
        mixed = sigma_s ** (1 - self.gamma) * sigma_t**self.gamma
        return jnp.sqrt(-jnp.expm1(logsnr_t - logsnr_s)) * mixed

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
        x0 = denoise(z, levels.t)
        mean = posterior_mean(z, x0, levels.t, levels.s)
        return mean + self.noise_std(levels.t, levels.s) * normal_like(keys, z), x0


@dataclasses.dataclass(frozen=True)
class StochasticNStep(Sampler, name="stochastic"):
    """Two levels down by DDIM, one back up by noise: for distilled models (2210.03142)."""

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
        x0 = denoise(z, levels.t)
        beyond = ddim_step(z, x0, levels.t, levels.beyond)
        return renoise(beyond, normal_like(keys, z), levels.beyond, levels.s), x0


@dataclasses.dataclass(frozen=True)
class DpmSolverPP2M(Sampler, name="dpmpp_2m"):
    """Deterministic, of second order in the step length, by the x̂ of the step before.

    The first step is of order 1: its `before` is -inf, h' is infinite and h/2h' is 0.
    """

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
        x0 = denoise(z, levels.t)
        extrapolation = 0.5 * (levels.s - levels.t) / (levels.t - levels.before)
        corrected = x0 + extrapolation * (x0 - x0_before)
        return ddim_step(z, corrected, levels.t, levels.s), x0


@dataclasses.dataclass(frozen=True)
class Euler(Sampler, name="euler"):
    """Euler's step of a rectified flow, along dx/dt = ε̂ - x̂ = (x_t - x̂)/t.

    The path of one x̂ and ε̂ is straight in x_t and an arc in z: for the same levels this is the step
    of `Ddim`, and what differs are the levels. Even times of `schedules.RectifiedFlow` are those
    of flow models.
    """

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; see `Sampler`."""
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
    """Move z towards its marginal at the same level; `x0` is x̂(z), δ = 0.1 as in VDM."""
    sigma = alpha_sigma(expand(logsnr, z))[1]
    drift = 0.5 * delta * sigma * eps_from_x0(x0, z, logsnr)
    return z - drift + delta**0.5 * sigma * normal_like(keys, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected(Sampler):
    """Another sampler, and Langevin steps at each level before it goes on from there.

    Attributes:
      sampler: the other one.
      steps: how many.
      delta: δ of each.
    """

    sampler: Sampler
    steps: int
    delta: float

    def __call__(self, denoise, keys, z, x0_before, levels):
        """Take one step; the first z of all is pure noise, and is not corrected."""

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
      gamma: that of `Ancestral`, where `kind` is its name.
      spacing: how levels are spread: evenly in time (the papers), evenly in logsnr, or edm.
      rho: of edm, how much closer the clean levels lie (EDM eq. 5).
      corrector_steps: Langevin steps at each level, with as many more evaluations; VDM takes 1 with
        the ancestral sampler where a video is continued.
      corrector_delta: δ, the size of these steps (VDM: 0.1).
    """

    kind: str | Sampler = "ancestral"
    steps: int = 256
    gamma: float = 0.3
    spacing: str = "time"
    rho: float = 7.0
    corrector_steps: int = 0
    corrector_delta: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.kind, str) and self.kind not in SAMPLERS:
            raise ValueError(
                f"Unknown sampler kind {self.kind!r}; choose one of {', '.join(SAMPLERS)}."
            )
        if self.spacing not in SPACINGS:
            raise ValueError(
                f"Unknown sampler spacing {self.spacing!r}; choose one of {', '.join(SPACINGS)}."
            )
        if self.steps < 1:
            raise ValueError(f"SamplerSpec.steps is {self.steps}; it must be >= 1.")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"SamplerSpec.gamma is {self.gamma}; it must be in [0, 1].")
        if self.corrector_steps < 0:
            raise ValueError(
                f"SamplerSpec.corrector_steps is {self.corrector_steps}; it must be >= 0 (0: none)."
            )
        for name, value in (("rho", self.rho), ("corrector_delta", self.corrector_delta)):
            if not 0 < value < float("inf"):
                raise ValueError(f"SamplerSpec.{name} is {value}; it must be positive.")

    @property
    def name(self) -> str:
        """The name of the sampler's class."""
        return self.kind if isinstance(self.kind, str) else self.kind.name

    def _uncorrected(self) -> Sampler:
        return SAMPLERS[self.kind].from_spec(self) if isinstance(self.kind, str) else self.kind

    def sampler(self) -> Sampler:
        """Make the sampler, with its corrector."""
        sampler = self._uncorrected()
        if not self.corrector_steps:
            return sampler
        return Corrected(sampler=sampler, steps=self.corrector_steps, delta=self.corrector_delta)

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser for one sample."""
        return self.steps * (self._uncorrected().evaluations + self.corrector_steps)

    def logsnrs(self, schedule: LogSnrSchedule) -> Float[np.ndarray, "levels"]:
        """Compute the ladder of steps + 1 levels, from the schedule's noise to its data."""
        with jax.ensure_compile_time_eval():
            u = jnp.asarray(np.linspace(1.0, 0.0, self.steps + 1))
            levels = np.asarray(jax.jit(lambda u: schedule(u))(u))
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


def normal_like(keys: Key[Array, "b"], z: Data) -> Data:
    """Draw standard normal noise in the shape of z, each example from its own key."""
    return jax.vmap(lambda key, x: jax.random.normal(key, x.shape, x.dtype))(keys, z)


def fold(keys: Key[Array, "b"], data: int | Int[Array, ""]) -> Key[Array, "b"]:
    """Fold each key with the same number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
