"""From noise to data: the loop over the steps of a sampler.

A sampler walks up a ladder of log-SNR levels λ_0 < λ_1 < ... < λ_N. At every step it gets the
denoiser x̂ and moves z to the next, cleaner level (`samplers`); the last step returns x̂ itself.

Randomness: every example has its own key and draws its own noise, so a sample does not depend on
the size of its batch or its place in it. A key is folded with 0 for the initial noise and with
step + 1 for each step, so the same keys serve both. Use JAX's default (threefry) keys: other
families do not keep vmapped streams apart.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.diffusion.guidance import X0Fn, as_tree
from vidgen.diffusion.samplers import Sampler, StepLevels, fold
from vidgen.diffusion.schedules import Data
from vidgen.types import OnStep

Ladder = Float[Array, "levels"] | Float[np.ndarray, "levels"]


def initial_noise(keys: Key[Array, "b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Draw standard normal z at pure noise, `shape` for each of the b keys."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, 0))


def sample(
    x0_fn: X0Fn,
    sampler: Sampler,
    *,
    logsnrs: Ladder,
    z: Data,
    keys: Key[Array, "b"],
    to_data: bool = True,
    on_step: OnStep | None = None,
) -> Data:
    """Draw data.

    Args:
      x0_fn: the denoiser, already guided and thresholded. Make it a `jax.tree_util.Partial` over
        its arrays (parameters, conditioning): then a second call with `on_step` and of the same
        shapes compiles nothing. The arrays that a plain function closes over become constants of a
        program of its own.
      sampler: takes the steps.
      logsnrs: the ladder of N + 1 levels, increasing.
      z: noise at the first level, as from `initial_noise(keys, ...)`.
      keys: one an example.
      to_data: True: the last step returns x̂. False: it moves to the last level like the others,
        and the result is a z at that level.
      on_step: is called after every step, once its result is there, with (steps done, steps, a
        function that returns the step's x̂). The steps are then a compiled one that Python drives;
        without, they are one `lax.scan`, with the same result.

    Returns:
      The samples, in the shape of z.
    """
    plan, before = _plan(logsnrs, z, to_data), jnp.zeros_like(z)
    if on_step is None:

        def step(carry, xs):
            return _step(x0_fn, sampler, keys, carry, *xs), None

        return jax.lax.scan(step, (z, before), plan)[0][0]
    # Laid out as z is, or the second step, whose x̂ before is a result, would be compiled anew.
    carry, steps = (z, jax.device_put(before, z.sharding)), len(logsnrs) - 1
    for i in range(steps):
        xs = jax.tree.map(lambda a, i=i: a[i], plan)
        carry = jax.block_until_ready(compiled_step(as_tree(x0_fn), sampler, keys, carry, *xs))
        on_step(i + 1, steps, functools.partial(operator.getitem, carry, 1))
    return carry[0]


def _plan(
    logsnrs: Ladder, z: Data, to_data: bool
) -> tuple[Int[Array, "steps"] | np.ndarray, tuple, Bool[Array, "steps"] | np.ndarray]:
    """Stack (step number, StepLevels, whether to return x̂) of all steps."""
    if len(logsnrs) < 2:
        raise ValueError(f"A sampler needs at least 2 log-SNR levels, got {len(logsnrs)}.")
    xp = np if isinstance(logsnrs, np.ndarray) else jnp  # numpy compiles nothing
    ladder = logsnrs.astype(z.dtype)
    before = xp.concatenate([xp.full(1, -xp.inf, z.dtype), ladder[:-2]])
    beyond = xp.concatenate([ladder[2:], ladder[-1:]])
    number = xp.arange(len(ladder) - 1, dtype=np.int32)
    is_last = (number == len(ladder) - 2) & to_data
    return number, (before, ladder[:-1], ladder[1:], beyond), is_last


def _step(x0_fn, sampler, keys, carry, number, levels, is_last):
    z, x0_before = carry

    def denoise(z, logsnr):
        return x0_fn(z, jnp.broadcast_to(logsnr, z.shape[:1]), number)

    keys = fold(keys, number + 1)
    moved, x0 = sampler(denoise, keys, z, x0_before, StepLevels(*levels))
    return jnp.where(is_last, x0, moved), x0


compiled_step = jax.jit(_step, static_argnums=1)
