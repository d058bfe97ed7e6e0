"""From noise to data: the loop over the steps of a sampler.

A sampler walks up a ladder of log-SNR levels λ_0 < λ_1 < ... < λ_N. At every step it gets the
denoiser x̂ and moves z to the next, cleaner level (`samplers`); the last step returns x̂ itself.

Randomness: every example has its own key and draws its own noise, so a sample does not depend on
the size of its batch or its place in it. A key is folded with 0 for the initial noise and with
step + 1 for each step, so the same keys serve both; where steps are made again (`walk_of`), with
the number of the visit + 1. Use JAX's default (threefry) keys: other families do not keep vmapped
streams apart.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen import traced
from vidgen.diffusion.guidance import X0Fn, as_tree
from vidgen.diffusion.guidance_rules import Momentum
from vidgen.diffusion.sampler_step import Sampler, StepLevels, fold, normal_like
from vidgen.diffusion.schedules import Data, draw_noise, renoise
from vidgen.types import Estimate, OnStep

Ladder = Float[Array, "levels"] | Float[np.ndarray, "levels"]


def initial_noise(keys: Key[Array, "b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Draw standard normal z at pure noise, each example from its own key.

    Args:
      keys: one an example.
      shape: shape of one example, without the batch, such as (t, h, w, c).

    Returns:
      float32 noise; an example has the same noise in any batch.
    """
    return jax.vmap(lambda key: draw_noise(key, shape))(fold(keys, 0))


def sample(
    x0_fn: X0Fn,
    sampler: Sampler,
    *,
    logsnrs: Ladder,
    z: Data,
    keys: Key[Array, "b"],
    to_data: bool = True,
    walk: Walk | None = None,
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
      z: noise at the first level, as from `initial_noise(keys, ...)`, or a z at the level where the
        walk begins.
      keys: one an example.
      to_data: True: the last step returns x̂. False: it moves to the last level like the others,
        and the result is a z at that level.
      walk: the order of the steps; None makes each of them once (`walk_of`).
      on_step: is called after every step, once its result is there, with (steps done, steps, a
        function that returns the step's x̂). The steps are then a compiled one that Python drives;
        without, they are one `lax.scan`, with the same result.

    Returns:
      The samples, in the shape of z.
    """
    if len(logsnrs) < 2:
        raise ValueError(f"A sampler needs at least 2 log-SNR levels, got {len(logsnrs)}.")
    walk = walk_of(len(logsnrs) - 1) if walk is None else walk
    plan = _plan(logsnrs, z, to_data, walk, sampler.memory)
    carry = first_carry(x0_fn, sampler, z)
    if on_step is None:

        def step(carry, xs):
            return _step(x0_fn, sampler, keys, carry, *xs), None

        return jax.lax.scan(step, carry, plan)[0][0]
    # Laid out as z is, or the second step, whose x̂ before is a result, would be compiled anew.
    carry = jax.tree.map(lambda x: jax.device_put(x, z.sharding), carry)
    steps, program = len(walk), None
    for i in range(steps):
        xs = jax.tree.map(lambda a, i=i: a[i], plan)
        args = (as_tree(x0_fn), sampler, keys, carry, *xs)
        program = program or traced.program(compiled_step, *args, static=(1,))
        carry = jax.block_until_ready(program(*args))
        x0 = carry[1][0] if sampler.memory > 1 else carry[1]
        on_step(i + 1, steps, functools.partial(jnp.asarray, x0))
    return carry[0]


class Visit(NamedTuple):
    """One step of a walk.

    Attributes:
      step: its number: it goes from level `step` to level `step + 1`.
      at: the number of the level at which z is: `step`, or a cleaner one, from which z is noised
        back to level `step` first.
    """

    step: int
    at: int


Walk = Sequence[Visit]


def walk_of(steps: int, *, first: int = 0, times: int = 1, jump: int = 1) -> Walk:
    """List the steps in the order in which they are made.

    Runs of `jump` steps are made several times, each but the first after z is noised back to where
    the run began (RePaint, algorithm 1 and appendix). The last step, which returns x̂, is in no
    run: there is no noise left to change. The first run is the shorter one.

    RePaint draws the noise of the known part anew at every step; here it stays that of the sample
    (`known`). With it fixed, runs of one step with an exact chain are Gibbs sampling of the rest
    given the known part as it is at that level, whose limit is the exact conditional distribution.

    Args:
      steps: N, of the whole ladder.
      first: the number of the first step; more than 0 begins in the middle (SDEdit).
      times: how many times a run is made; 1 is once, as without RePaint.
      jump: steps of a run.

    Returns:
      The visits in order: N - first of them where `times` is 1, and more otherwise.
    """
    last = steps - 1
    ends = sorted({last - k for k in range(0, last - first, jump)}) if times > 1 else []
    visits, begin = [Visit(i, i) for i in range(first, last if times == 1 else first)], first
    for end in ends:
        run = [Visit(i, i) for i in range(begin, end)]
        again = [Visit(begin, end), *run[1:]]
        visits += run + (times - 1) * again
        begin = end
    return [*visits, Visit(last, last)]


def first_carry(x0_fn: X0Fn, sampler: Sampler, z: Data) -> tuple:
    """Collect what the first step is handed, and each step hands on to the next.

    Args:
      x0_fn: the denoiser; each `Momentum` among its leaves begins with its own value.
      sampler: says of how many earlier x̂ it reads.
      z: noise at the first level.

    Returns:
      (z, x̂ of the steps before, the sums of momenta), the x̂ as zeros.
    """
    before = jax.device_put(np.zeros(z.shape, z.dtype))  # compiles nothing
    momenta = jax.tree.leaves(x0_fn, is_leaf=_is_momentum)
    sums = [leaf.before for leaf in momenta if _is_momentum(leaf)]
    return z, before if sampler.memory == 1 else (before,) * sampler.memory, sums


def _plan(logsnrs: Ladder, z: Data, to_data: bool, walk: Walk, memory: int) -> tuple:
    """Stack (step number, levels, whether to return x̂) of all steps.

    Where steps are made again, also (level at which z is, number of the visit).
    """
    xp = np if isinstance(logsnrs, np.ndarray) else jnp  # numpy compiles nothing
    ladder, last = logsnrs.astype(z.dtype), len(logsnrs) - 2
    steps = np.array([visit.step for visit in walk])
    at = np.array([visit.at for visit in walk])
    known = np.ones((memory, len(walk)), bool)  # whether the x̂ of the steps before is of this way
    for back in range(memory):
        known[back, : back + 1] = False
        for i in range(back + 1, len(walk)):
            known[back, i] = all(
                at[j] == steps[j] == steps[j - 1] + 1 for j in range(i - back, i + 1)
            )
    earlier = [
        xp.where(known[back], ladder[np.maximum(steps - back - 1, 0)], -np.inf).astype(z.dtype)
        for back in range(memory)
    ]
    levels = (earlier[0], ladder[steps], ladder[steps + 1], ladder[np.minimum(steps + 2, last + 1)])
    plan = (
        xp.asarray(steps, np.int32),
        (*levels, *earlier[1:]),
        xp.asarray(steps == last) & to_data,
    )
    if (at == steps).all():
        return plan
    return (*plan, ladder[at], xp.arange(len(walk), dtype=np.int32))


def renew_estimate(x0_fn: X0Fn, x0_before: Data | tuple[Data, ...]) -> X0Fn:
    """Give a self-conditioned denoiser the x̂ of the step before; any other stays as it is.

    Args:
      x0_fn: a denoiser; each `Estimate` among its leaves is replaced. A denoiser of more examples,
        such as the pairs of guidance, has those of a clip side by side.
      x0_before: the x̂ of the step before, or a tuple that begins with it (`Sampler.memory`).

    Returns:
      The denoiser with the new estimate.
    """
    last = x0_before[0] if isinstance(x0_before, tuple) else x0_before

    def renewed(leaf):
        if not isinstance(leaf, Estimate):
            return leaf
        return Estimate(video=jnp.repeat(last, leaf.video.shape[0] // last.shape[0], axis=0))

    return jax.tree.map(renewed, x0_fn, is_leaf=lambda leaf: isinstance(leaf, Estimate))


def _is_momentum(leaf: object) -> bool:
    return isinstance(leaf, Momentum)


def _with_momenta(x0_fn: X0Fn, arrays: Sequence[jax.Ref]) -> X0Fn:
    """Give the momenta of a denoiser, in their order, arrays that they change."""
    left = iter(arrays)

    def renewed(leaf):
        return leaf.replace(now=next(left)) if _is_momentum(leaf) else leaf

    return jax.tree.map(renewed, x0_fn, is_leaf=_is_momentum)


def _step(x0_fn, sampler, keys, carry, number, levels, is_last, at=None, visit=None):
    z, x0_before, sums = carry
    momenta = [jax.new_ref(value) for value in sums]
    x0_fn = _with_momenta(renew_estimate(x0_fn, x0_before), momenta)

    def denoise(z, logsnr):
        return x0_fn(z, jnp.broadcast_to(logsnr, z.shape[:1]), number)

    keys = fold(keys, (number if visit is None else visit) + 1)
    levels = StepLevels(*levels)
    if at is not None:
        noisier = renoise(z, normal_like(fold(keys, 0), z), at, levels.t)
        z = jnp.where(at > levels.t, noisier, z)
    moved, x0 = sampler(denoise, keys, z, x0_before, levels)
    remembered = x0 if sampler.memory == 1 else (x0, *x0_before[:-1])
    return jnp.where(is_last, x0, moved), remembered, [jax.freeze(ref) for ref in momenta]


compiled_step = jax.jit(_step, static_argnums=1)
