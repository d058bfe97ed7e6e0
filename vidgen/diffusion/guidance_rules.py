"""How the predictions with and without text are put together, and at which noise levels.

With x̂_c = x̂(z, c), x̂_u = x̂(z) and the weight w (w = 0: unguided; papers print w + 1):

    classifier-free (2207.12598)        x̃ = x̂_c + w Δ,   Δ = x̂_c - x̂_u
    projected (APG, 2410.02416)         Δ' = Δ min(1, r/|Δ|),  Δ' = Δ∥ + Δ⊥  along x̂_c and across it
                                        x̃ = x̂_c + w (Δ⊥ + η Δ∥)
    with momentum (APG)                 Δ_n <- Δ_n + β Δ_{n-1}  before that, β < 0 against what was
    rescaled (2305.08891, eq. 15, 16)   x̃ <- φ (std x̂_c / std x̃) x̃ + (1 - φ) x̃
    in an interval (2404.07724)         x̃ where low < σ/α <= high, x̂_c elsewhere

All are of predictions of the data, as APG is and as thresholding is: rescaling does not then depend
on what a network's output means, where the paper has the output itself. |Δ| and r are root mean
squares over an example, so that r does not depend on its size; the paper's r = 15 over latents of
4 x 64 x 64 is .12. Momentum is the one state of a denoiser: the loop of sampling carries it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Int

from vidgen.diffusion.schedules import Data, LogSnr, expand


def guide(cond: Data, uncond: Data, w: LogSnr) -> Data:
    """Guide a prediction: (1 + w) cond - w uncond (classifier-free guidance, 2207.12598).

    Args:
      cond: predictions with the prompt.
      uncond: predictions without it.
      w: one weight, or one an example.

    Returns:
      The guided predictions; where w = 0 they are `cond` to the bit.
    """
    w = expand(w, cond).astype(cond.dtype)
    return (1 + w) * cond - w * uncond


def rescaled(guided: Data, cond: Data, share: float) -> Data:
    """Bring the standard deviation of each example back to that of `cond` (2305.08891, eq. 15).

    Args:
      guided: predictions after guidance.
      cond: the predictions with the prompt, before guidance.
      share: φ, how much of the way, from 0 (not at all) to 1 (all of it).

    Returns:
      `guided`, each example times a factor of its own; an example without any spread stays as it
      is.
    """
    axes = tuple(range(1, cond.ndim))
    wanted, there = (jnp.std(x, axis=axes, keepdims=True) for x in (cond, guided))
    factor = jnp.where(there > 0, wanted / jnp.where(there > 0, there, 1), 1)
    return (share * factor + (1 - share)) * guided


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projected:
    """Guidance across the prediction, and less of it along (APG).

    Equal settings compare equal, so compiled steps are reused.

    Attributes:
      parallel: η, how much is left of what lies along x̂_c, which saturates; 1 is all.
      norm: r, the largest root mean square of Δ; inf is any.
    """

    parallel: float = 1.0
    norm: float = math.inf

    def __call__(self, cond: Data, uncond: Data, w: LogSnr) -> Data:
        """Guide, with the change along the prediction held back (2410.02416); see `guide`."""
        axes = tuple(range(1, cond.ndim))
        change = cond - uncond
        if self.norm < math.inf:
            size = jnp.sqrt(jnp.mean(jnp.square(change), axis=axes, keepdims=True))
            change *= jnp.minimum(1, self.norm / jnp.maximum(size, jnp.finfo(size.dtype).tiny))
        square = jnp.sum(jnp.square(cond), axis=axes, keepdims=True)
        inner = jnp.sum(change * cond, axis=axes, keepdims=True)
        along = inner / jnp.where(square > 0, square, 1) * cond
        w = expand(w, cond).astype(cond.dtype)
        return cond + w * (change - (1 - self.parallel) * along)


@no_type_check  # its arrays may be shapes alone, as where a plan traces a step
class Momentum(PyTreeNode):
    """What guidance has changed so far, Δ of the evaluation before with all that went into it.

    A class of its own, so that the loop of sampling finds it in any denoiser, and carries it.

    Attributes:
      before: Δ_{n-1}, 0 at first.
      rate: β.
      now: a mutable array with the same value, of the loop; None outside of one, where guidance has
        no momentum.
    """

    before: Array
    rate: Array
    now: Any = None

    def without(self, cond: Data, uncond: Data) -> Data:
        """Compute what guidance leads away from with momentum, and keep Δ_n in `now`.

        Args:
          cond: x̂_c, the prediction with text.
          uncond: x̂_u, the one without.

        Returns:
          x̂_c - Δ_n; x̂_u itself where there is no momentum.
        """
        if self.now is None:
            return uncond
        change = cond - uncond + self.rate * self.now[...]
        self.now[...] = jax.lax.stop_gradient(change)
        return cond - change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescaled:
    """Guidance by another rule, and the spread of each example brought back (2305.08891).

    Attributes:
      share: φ, how much of the way, from 0 to 1.
      rule: the rule that makes the guided prediction; None is `guide`.
    """

    share: float
    rule: Projected | None = None

    def __call__(self, cond: Data, uncond: Data, w: LogSnr) -> Data:
        """Guide by the other rule and rescale, except examples of weight 0; see `guide`."""
        guided = (self.rule or guide)(cond, uncond, w)
        return jnp.where(expand(w, cond) == 0, cond, rescaled(guided, cond, self.share))


@dataclasses.dataclass(frozen=True)
class NoiseInterval:
    """A test whether noise levels σ/α = e^{-λ/2} are in (low, high], called with (z, λ, step)."""

    low: float
    high: float

    def __call__(self, z: Data, logsnr: LogSnr, step: Int[Array, ""]) -> Bool[Array, "*b"]:
        """Test for each example whether its noise level is in the interval.

        Args:
          z: noisy data; not read.
          logsnr: λ of each example, or one for all.
          step: number of the step; not read.

        Returns:
          True where low < σ/α <= high, in the shape of `logsnr`.
        """
        level = jnp.exp(-0.5 * logsnr)
        return (self.low < level) & (level <= self.high)


@dataclasses.dataclass(frozen=True)
class StepInterval:
    """A test whether the share of steps left is in (low, high], called with (tokens, step)."""

    low: float
    high: float
    steps: int

    def __call__(self, tokens: Array, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Test whether the step is in the interval, for all examples at once.

        Args:
          tokens: the masked tokens; not read.
          step: number of the step, from 0.

        Returns:
          True where low < 1 - step/steps <= high.
        """
        left = 1 - step / self.steps
        return (self.low < left) & (left <= self.high)


def within(inside: NoiseInterval | StepInterval, guided: Partial, alone: Partial) -> Partial:
    """Guide inside an interval only; outside of it one evaluation is made, not two.

    All examples have to be at one noise level, as they are in sampling: where one of them is
    inside, all are guided.

    Args:
      inside: tests whether an example is in the interval, from the arguments of the other two.
      guided: predicts with guidance.
      alone: predicts without.

    Returns:
      A function of the same arguments, whose result is that of one of the two.
    """
    return Partial(_Within(inside), guided, alone)


@dataclasses.dataclass(frozen=True)
class _Within:
    inside: Any

    def __call__(self, guided, alone, *arguments):
        return jax.lax.cond(jnp.any(self.inside(*arguments)), guided, alone, *arguments)


def checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Check an interval of noise levels, as `GuidanceSpec.interval` has it.

    Args:
      interval: (low, high), numbers or what `float` reads.

    Returns:
      The two as floats.

    Raises:
      ValueError: where there are not two, or not 0 <= low < high.
    """
    ends = tuple(map(float, interval))
    if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
        raise ValueError(
            f"GuidanceSpec.interval is {tuple(interval)}; it must be (low, high), 0 <= low < high."
        )
    return ends[0], ends[1]
