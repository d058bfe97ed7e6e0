"""From noise to data: one loop, and the transitions that it can take.

A sampler walks down a ladder of log-SNR levels λ_0 < λ_1 < ... < λ_N. At every step the denoiser
gives x̂ = x̂(z_t), and a transition moves z_t to the next, cleaner level s; the last step returns x̂
itself. Imagen Video; VDM sec. 3; progressive distillation; DPM-Solver++ (2211.01095).

    ddim        z_s = α_s x̂ + σ_s ε̂ = (σ_s/σ_t) z_t + (1 - e^{(λ_t-λ_s)/2}) α_s x̂
    ancestral   z_s = μ̃(z_t, x̂) + √((σ̃²)^{1-γ} (σ²_{t|s})^γ) n       (see `schedules`)
    stochastic  z_k = ddim to the level k beyond s;  z_s = (α_s/α_k) z_k + σ_{s|k} n
    dpmpp_2m    ddim with D in place of x̂:  D = x̂ + (h/2h') (x̂ - x̂'),
                h = (λ_s - λ_t)/2 the length of this step, h' and x̂' of the one before

    Langevin corrector (VDM sec. 3):  z <- z - (δ/2) σ ε̂(z) + √δ σ n

Randomness: every example has its own key and draws its own noise, so a sample does not depend on
the size of its batch or its place in it. A key is folded with 0 for the initial noise and with
step + 1 for each step, so the same keys serve both. Use JAX's default (threefry) keys: other
families do not keep vmapped streams apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.guidance import X0Fn, as_tree
from vidgen.diffusion.parameterization import eps_from_x0
from vidgen.diffusion.schedules import (
    LogSnr,
    LogSnrSchedule,
    alpha_sigma,
    edm_sigmas,
    expand,
    posterior_mean,
    renoise,
)

KINDS = ("ddim", "ancestral", "stochastic", "dpmpp_2m")
SPACINGS = ("time", "logsnr", "edm")
Ladder = Float[Array, "levels"] | Float[np.ndarray, "levels"]


class Levels(NamedTuple):
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
        levels: Levels,
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
        levels: Levels,
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
        levels: Levels,
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
        levels: Levels,
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
        levels: Levels,
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


# ---- noise ---------------------------------------------------------------------------------------


def initial_noise(keys: Key[Array, "b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal z at pure noise, `shape` for each of the b keys."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(_fold(keys, 0))


def normal_like(keys: Key[Array, "b"], z: Float[Array, "b *x"]) -> Float[Array, "b *x"]:
    """Standard normal noise in the shape of z, each example from its own key."""
    return jax.vmap(lambda key, x: jax.random.normal(key, x.shape, x.dtype))(keys, z)


def _fold(keys: Key[Array, "b"], data: int | Int[Array, ""]) -> Key[Array, "b"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


# ---- the loop ------------------------------------------------------------------------------------


def sample(
    x0_fn: X0Fn,
    transition: Transition,
    *,
    logsnrs: Ladder,
    z: Float[Array, "b *x"],
    keys: Key[Array, "b"],
    to_data: bool = True,
) -> Float[Array, "b *x"]:
    """Data drawn by one `lax.scan` over the steps.

    Args:
      x0_fn: the denoiser, already guided and thresholded.
      transition: how to go from one level to the next.
      logsnrs: the ladder of N + 1 levels, increasing.
      z: noise at the first level, as from `initial_noise(keys, ...)`.
      keys: one key per example.
      to_data: True: the last step returns x̂. False: it moves to the last level like the others,
        and the result is a z at that level.
    """

    def step(carry, xs):
        return _step(x0_fn, transition, keys, carry, *xs), None

    (z, _), _ = jax.lax.scan(step, (z, jnp.zeros_like(z)), _plan(logsnrs, z, to_data))
    return z


def sample_stepwise(
    x0_fn: X0Fn,
    transition: Transition,
    *,
    logsnrs: Ladder,
    z: Float[Array, "b *x"],
    keys: Key[Array, "b"],
    to_data: bool = True,
    on_step: Callable[[int, int], None],
) -> Float[Array, "b *x"]:
    """What `sample` returns, by one compiled step driven from Python.

    Args:
      x0_fn: as in `sample`. Make it a `jax.tree_util.Partial` over its arrays (parameters,
        conditioning): then a second call of the same shapes compiles nothing. The arrays that a
        plain function closes over become constants of a program of its own.
      transition: as in `sample`.
      logsnrs: as in `sample`.
      z: as in `sample`.
      keys: as in `sample`.
      to_data: as in `sample`.
      on_step: called after every step, once its result is there, with (steps done, steps).
    """
    plan = _plan(logsnrs, z, to_data)
    steps = len(logsnrs) - 1
    # Laid out as z is, or the second step, whose x̂ before is a result, would be compiled anew.
    carry = (z, jax.device_put(jnp.zeros_like(z), z.sharding))
    for i in range(steps):
        xs = jax.tree.map(lambda a, i=i: a[i], plan)
        carry = jax.block_until_ready(compiled_step(as_tree(x0_fn), transition, keys, carry, *xs))
        on_step(i + 1, steps)
    return carry[0]


def _plan(logsnrs: Ladder, z: Float[Array, "b *x"], to_data: bool):
    """(step number, Levels, return x̂?) of all steps, stacked."""
    if len(logsnrs) < 2:
        raise ValueError(f"A sampler needs at least 2 log-SNR levels, got {len(logsnrs)}.")
    xp = np if isinstance(logsnrs, np.ndarray) else jnp  # numpy compiles nothing
    ladder = logsnrs.astype(z.dtype)
    before = xp.concatenate([xp.full(1, -xp.inf, z.dtype), ladder[:-2]])
    beyond = xp.concatenate([ladder[2:], ladder[-1:]])
    number = xp.arange(len(ladder) - 1, dtype=np.int32)
    is_last = (number == len(ladder) - 2) & to_data
    return number, (before, ladder[:-1], ladder[1:], beyond), is_last


def _step(x0_fn, transition, keys, carry, number, levels, is_last):
    z, x0_before = carry
    levels = Levels(*levels)
    x0 = x0_fn(z, jnp.full(z.shape[:1], levels.t), number)
    moved = transition(_fold(keys, number + 1), z, x0, x0_before, levels)
    return jnp.where(is_last, x0, moved), x0


compiled_step = jax.jit(_step, static_argnums=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a stage samples.

    Attributes:
      kind: ddim, ancestral, stochastic (for distilled models) or dpmpp_2m.
      steps: evaluations of the denoiser; Imagen Video takes 256 for the base, 128 for the others,
        8 once distilled.
      gamma: of the ancestral sampler, in [0, 1]. VDM takes 0.3 for text-to-video; Imagen Video's
        value is not published.
      spacing: how levels are spread: evenly in time (the papers), evenly in logsnr, or edm.
    """

    kind: str = "ancestral"
    steps: int = 256
    gamma: float = 0.3
    spacing: str = "time"

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("spacing", SPACINGS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"Unknown sampler {name} {value!r}; choose one of {', '.join(choices)}."
                )
        if self.steps < 1:
            raise ValueError(f"SamplerSpec.steps is {self.steps}; it must be >= 1.")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"SamplerSpec.gamma is {self.gamma}; it must be in [0, 1].")

    def transition(self) -> Transition:
        """The transition of this kind."""
        if self.kind == "ancestral":
            return Ancestral(gamma=self.gamma)
        return {"ddim": Ddim, "stochastic": StochasticNStep, "dpmpp_2m": DpmSolverPP2M}[self.kind]()

    def logsnrs(self, schedule: LogSnrSchedule) -> Float[np.ndarray, "levels"]:
        """The ladder of steps + 1 levels, from the schedule's noise to its data; also under jit."""
        with jax.ensure_compile_time_eval():
            u = jnp.asarray(np.linspace(1.0, 0.0, self.steps + 1))
            levels = np.asarray(jax.jit(lambda u: schedule(u))(u))
        noise, data = float(levels[0]), float(levels[-1])
        if self.spacing == "logsnr":
            return np.linspace(noise, data, self.steps + 1, dtype=levels.dtype)
        if self.spacing == "edm":
            return np.append(_edm_levels(self.steps, noise, data), data).astype(levels.dtype)
        return levels


def _edm_levels(steps: int, noise: float, data: float) -> Float[np.ndarray, "steps"]:
    """The EDM grid as log-SNR, its ends kept within what the schedule covers."""
    sigma_max, sigma_min = min(80.0, np.exp(-noise / 2)), max(0.002, np.exp(-data / 2))
    return -2 * np.log(edm_sigmas(steps, sigma_min=float(sigma_min), sigma_max=float(sigma_max)))
