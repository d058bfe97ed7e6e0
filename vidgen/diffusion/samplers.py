"""From noise to data: one loop, and the transitions that it can take.

A sampler walks down a ladder of log-SNR levels λ_0 < λ_1 < ... < λ_N. At every step the denoiser
gives x̂ = x̂(z_t), and a transition moves z_t to the next, cleaner level s; the last step returns x̂
itself. Imagen Video; VDM sec. 3; progressive distillation; DPM-Solver++ (2211.01095).

    at each level, but the first:  Langevin corrector, `corrector_steps` times, an x̂ each
    x̂ = x̂(z_t);  z_s = transition(z_t, x̂)             see `transitions`

Randomness: every example has its own key and draws its own noise, so a sample does not depend on
the size of its batch or its place in it. A key is folded with 0 for the initial noise and with
step + 1 for each step, so the same keys serve both. Use JAX's default (threefry) keys: other
families do not keep vmapped streams apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen.diffusion.guidance import X0Fn, as_tree
from vidgen.diffusion.schedules import LogSnrSchedule, edm_sigmas
from vidgen.diffusion.transitions import (
    Ancestral,
    Corrected,
    Ddim,
    DpmSolverPP2M,
    StepLevels,
    StochasticNStep,
    Transition,
    ddim_step,
    fold,
    langevin_step,
    normal_like,
)

__all__ = [
    "KINDS",
    "SPACINGS",
    "Ancestral",
    "Corrected",
    "Ddim",
    "DpmSolverPP2M",
    "StepLevels",
    "SamplerSpec",
    "StochasticNStep",
    "Transition",
    "ddim_step",
    "initial_noise",
    "langevin_step",
    "normal_like",
    "sample",
    "sample_stepwise",
]

KINDS = ("ddim", "ancestral", "stochastic", "dpmpp_2m")
SPACINGS = ("time", "logsnr", "edm")
Ladder = Float[Array, "levels"] | Float[np.ndarray, "levels"]


# ---- noise ---------------------------------------------------------------------------------------


def initial_noise(keys: Key[Array, "b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal z at pure noise, `shape` for each of the b keys."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, 0))


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
    """(step number, StepLevels, return x̂?) of all steps, stacked."""
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
    levels = StepLevels(*levels)
    keys, logsnr = fold(keys, number + 1), jnp.full(z.shape[:1], levels.t)
    if isinstance(transition, Corrected):
        z = transition.corrected(x0_fn, keys, z, logsnr, number)
    x0 = x0_fn(z, logsnr, number)
    moved = transition(keys, z, x0, x0_before, levels)
    return jnp.where(is_last, x0, moved), x0


compiled_step = jax.jit(_step, static_argnums=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a stage samples.

    Attributes:
      kind: ddim, ancestral, stochastic (for distilled models) or dpmpp_2m.
      steps: sampling steps, an evaluation of the denoiser each; Imagen Video takes 256 for the
        base, 128 for the others, 8 once distilled.
      gamma: of the ancestral sampler, in [0, 1]. VDM takes 0.3 for text-to-video; Imagen Video's
        value is not published.
      spacing: how levels are spread: evenly in time (the papers), evenly in logsnr, or edm.
      rho: of edm, how much closer the clean levels lie (EDM eq. 5).
      corrector_steps: Langevin steps at each level, with as many more evaluations; VDM takes 1 with
        the ancestral sampler where a video is continued.
      corrector_delta: δ, the size of these steps (VDM: 0.1).
    """

    kind: str = "ancestral"
    steps: int = 256
    gamma: float = 0.3
    spacing: str = "time"
    rho: float = 7.0
    corrector_steps: int = 0
    corrector_delta: float = 0.1

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
        if self.corrector_steps < 0:
            raise ValueError(
                f"SamplerSpec.corrector_steps is {self.corrector_steps}; it must be >= 0 (0: none)."
            )
        for name in ("rho", "corrector_delta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"SamplerSpec.{name} is {getattr(self, name)}; it must be positive."
                )

    def transition(self) -> Transition:
        """The transition of this kind, with its corrector."""
        kinds: dict[str, Any] = {
            "ddim": Ddim,
            "stochastic": StochasticNStep,
            "dpmpp_2m": DpmSolverPP2M,
        }
        kinds["ancestral"] = functools.partial(Ancestral, gamma=self.gamma)
        found = kinds[self.kind]()
        if not self.corrector_steps:
            return found
        return Corrected(transition=found, steps=self.corrector_steps, delta=self.corrector_delta)

    @property
    def evaluations(self) -> int:
        """Of the denoiser, for one sample."""
        return self.steps * (1 + self.corrector_steps)

    def logsnrs(self, schedule: LogSnrSchedule) -> Float[np.ndarray, "levels"]:
        """The ladder of steps + 1 levels, from the schedule's noise to its data; also under jit."""
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
        """The EDM grid as log-SNR, its ends kept within what the schedule covers."""
        low, high = max(0.002, np.exp(-data / 2)), min(80.0, np.exp(-noise / 2))
        ends = {"sigma_min": float(low), "sigma_max": float(high)}
        return -2 * np.log(edm_sigmas(self.steps, rho=self.rho, **ends))
