"""Functions on denoisers: guidance and thresholding, as X0Fn -> X0Fn.

Imagen Video and Imagen, classifier-free guidance (2207.12598). With the guidance
weight w (w = 0: unguided; Imagen prints w_I = 1 + w):

    guided x̃ = (1 + w) x̂(z, c) - w x̂(z)
    static threshold:   clip(x̃, -1, 1)
    dynamic threshold:  clip(x̃, -s, s)/s,  s = max(1, p-th percentile of |x̃| over the example)
    oscillating w:      high for the first steps, then low and high in turn, low in the last step
    rescaled, projected, in an interval of noise levels:  `guidance_rules`
    two prompts:        (1 - m) x̃(z, a) + m x̃(z, b),   m from 0 to 1 on the way from a to b

x0, ε and v are affine in each other with weights that add to one, so guidance may be done in any of
them; thresholding may not, and comes after guidance. Samplers recompute ε from the result.

Reconstruction guidance (VDM sec. 3.1) draws a sample towards known data a = A(x), for instance the
first frames:  x̃ = x̂(z) - (w_r α/2) ∇_z ||a - A(x̂(z))||².

What these functions return is a `jax.tree_util.Partial`, a PyTree: if the functions they are given
are Partials over the parameters, then the parameters stay arguments of a compiled step and are not
baked into it (`sampling.sample`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from vidgen import checks
from vidgen.diffusion.guidance_rules import Momentum, Projected, Rescaled, checked_interval, guide
from vidgen.diffusion.schedules import Data, alpha_sigma, expand

T = TypeVar("T")  # a PyTree
THRESHOLDS = ("none", "static", "dynamic")
Weights = Float[Array, "steps"] | Float[np.ndarray, "steps"]
Mask = Bool[Array, "b *t s"] | Bool[np.ndarray, "b *t s"]
EachWeights = Float[Array, "steps b"]
Rule = Callable[[Array, Array, Array], Array]  # of (x̂ with text, x̂ without, w)


@runtime_checkable
class X0Fn(Protocol):
    """The best guess of the data behind a noisy z."""

    def __call__(self, z: Data, logsnr: Float[Array, "b"], step: Int[Array, ""]) -> Data:
        """Predict the data x̂ behind a noisy z.

        Args:
          z: noisy data at the levels `logsnr`.
          logsnr: λ of each example.
          step: number of the sampling step from 0, for what changes on the way, such as the weight.

        Returns:
          x̂, in the shape of z; about in [-1, 1] where the data are.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceSpec:
    """How a stage is guided.

    Attributes:
      weight: w; 0 is unguided. With `low`, the high weight.
      low: the second weight of oscillating guidance, or None for a constant weight.
      constant_fraction: share of the steps, rounded to a whole number, that keep `weight` before
        the oscillation begins. [guess] Imagen Video does not publish it; a tenth is usual.
      threshold: none, static or dynamic, applied after guidance.
      percentile: percentile of the dynamic threshold, in percent (Imagen's figures use 99.5).
      rescale: φ in [0, 1], how far the spread of a guided prediction is brought back to that of the
        prediction with text (2305.08891, which takes 0.7). 0: not at all.
      interval: (low, high): guided only at noise levels low < σ/α <= high, and evaluated once
        elsewhere (2404.07724); of Phenaki low < u <= high, u from 1 to 0 being the share of the
        steps still to be made. None: everywhere.
      parallel: η in [0, 1], how much is left of the guidance along the prediction, which saturates
        (APG, 2410.02416, which takes 0). 1: all of it.
      norm: r, the largest root mean square that guidance with w = 1 may change a value by (APG);
        None: any.
      momentum: β in (-1, 1), how much of the guidance of the evaluations before goes into the next
        (APG, which takes -0.5 to -0.75: against the way that was gone). 0: none.
      reconstruction: w_r, how strongly what is not known is drawn to agree with what is
        (diffusion/known.py); without known content it has no effect. 0 saves the backward pass.
    """

    weight: float = 0.0
    low: float | None = None
    constant_fraction: float = 0.1
    threshold: str = "none"
    percentile: float = 99.5
    rescale: float = 0.0
    interval: Sequence[float] | None = None
    parallel: float = 1.0
    norm: float | None = None
    momentum: float = 0.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "low"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(
                    f"GuidanceSpec.{name} is {value}; it must be a number >= 0 (0: unguided)."
                )
        checks.share(self, "constant_fraction", "rescale", "parallel")
        if self.norm is not None and not self.norm > 0:
            raise ValueError(f"GuidanceSpec.norm is {self.norm}; it must be more than 0.")
        if not -1 < self.momentum < 1:
            raise ValueError(f"GuidanceSpec.momentum is {self.momentum}; it must be in (-1, 1).")
        if self.interval is not None:
            object.__setattr__(self, "interval", checked_interval(self.interval))
        if not 0 <= self.reconstruction < float("inf"):
            raise ValueError(
                f"GuidanceSpec.reconstruction is {self.reconstruction}; it must be >= 0 (0: none)."
            )
        _check_threshold(self.threshold, self.percentile)

    def weights(self, steps: int) -> Float[np.ndarray, "steps"]:
        """Compute the guidance weight w of every sampling step.

        Oscillating, the last step has `low`, the one before it `weight`, and so on, back to step n
        = round(constant_fraction * steps), but at most steps - 1: steps 0 ... n-1 have `weight`.
        With a fraction of 1 nothing oscillates.

        Args:
          steps: number of sampling steps.

        Returns:
          w of each step in the order in which they are made, noisiest first; w >= 0, and 0 is
          unguided.
        """
        weights = np.full(steps, self.weight, np.float32)
        if self.low is not None and self.constant_fraction < 1:
            first = min(round(self.constant_fraction * steps), steps - 1)
            weights[first:][::-2] = self.low
        return weights

    @property
    def is_unguided(self) -> bool:
        """Whether every weight is 0, so that the unconditional model is never needed."""
        return self.weight == 0 and not self.low

    def share_inside(self, levels: Float[np.ndarray, "steps"]) -> float:
        """Compute the share of the sampling steps that the interval guides.

        Args:
          levels: of the steps, in the unit of `interval`: σ/α of a diffusion model, the share of
            the steps that are left of Phenaki.

        Returns:
          The share of them in (low, high], from 0 to 1; 1 without an interval.
        """
        if self.interval is None:
            return 1.0
        low, high = self.interval
        return float(np.mean((low < levels) & (levels <= high)))

    @property
    def rule_flags(self) -> tuple[str, ...]:
        """The flags in use that shape a difference of two predictions, beyond its weight."""
        settings = {
            "guidance_rescale": self.rescale != 0,
            "guidance_parallel": self.parallel != 1,
            "guidance_norm": self.norm is not None,
            "guidance_momentum": self.momentum != 0,
        }
        return tuple(flag for flag, is_set in settings.items() if is_set)

    @property
    def rule(self) -> Rule:
        """The function that joins the predictions with and without text (`guidance_rules`)."""
        rule = None
        if self.parallel != 1 or self.norm is not None:
            rule = Projected(parallel=self.parallel, norm=self.norm or math.inf)
        return Rescaled(share=self.rescale, rule=rule) if self.rescale else rule or guide


def with_text(weights: Weights, mask: Mask, least: float = 0.0) -> Float[Array, "steps b"]:
    """Give every example its weight at each step, and `least` to examples without text.

    Both halves are the same there, and (1 + w) x - w x would be x only nearly.

    Args:
      weights: w of the steps.
      mask: True on the tokens of the examples; a row without True is an example without text.
      least: 0, or, for a network whose input is the guidance weight, the least weight it was
        trained with.

    Returns:
      The weight of every example at every step.
    """
    has_text = jnp.any(jnp.asarray(mask), axis=tuple(range(1, mask.ndim)))
    return jnp.where(has_text, jnp.asarray(weights)[:, None], least)


def classifier_free_batched(
    both_fn: Callable[..., Array],
    weights: Weights | EachWeights,
    rule: Rule = guide,
    momentum: Momentum | None = None,
) -> Partial:
    """Guide x0, or logits, by one evaluation of twice the batch.

    Two evaluations of the batch are no faster for a transformer: on one core of a CPU a batch of 2
    clips took 679 ms in two and 672 in one (576 tokens of 256 features), 26 and 23 (144 of 128).
    For a U-Net see imagen/guided.py.

    Args:
      both_fn: predicts for a batch of 2b in the order of `pair`: example 0 with its condition,
        example 0 without, example 1 with, ... Its condition is `pair(condition, null_condition)`.
      weights: one w per sampling step, or one for every example too.
      rule: makes one prediction of the one with text, the one without and w; see
        `GuidanceSpec.rule`.
      momentum: of the difference between both; None is none.

    Returns:
      A function of (arrays "b ...", step) with the guided prediction "b ..." as its result: an
      `X0Fn` where `both_fn` takes (z, log-SNR, step).
    """
    return Partial(_GuidePairs(rule), as_tree(both_fn), jnp.asarray(weights), momentum)


def mixed(both_fn: Callable[..., Array], weight: Float[Array, "b"]) -> Partial:
    """Mix the guided predictions for two prompts: (1 - weight) a + weight b.

    Predictions are comparable where states of a text encoder are not: a network may norm each
    state, which undoes any weight. Logits so mixed are the normed product of the powers 1 - weight
    and weight of both distributions; [guess] no paper prints how it passes between prompts.

    Args:
      both_fn: predicts for a batch of 2b in the order of `pair`, from (arrays "2b ...", step).
      weight: share of the second prompt in each example, from 0 to 1.

    Returns:
      A function of (arrays "b ...", step) with the mixed prediction "b ..." as its result.
    """
    return Partial(_mix, as_tree(both_fn), weight)


def pair(first: T, second: T) -> T:
    """Interleave two batches (PyTrees of "b ...") to one of "2b ...".

    Neighbours stay together, so a batch axis sharded over devices needs no communication.

    Args:
      first: the examples that go to the places 0, 2, 4, ...
      second: the examples that go to 1, 3, 5, ...; of the same structure and shapes.

    Returns:
      A PyTree of the same structure, each leaf with twice the examples.
    """

    def interleave(a, b):
        return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])

    return jax.tree.map(interleave, first, second)


def static_threshold(x0: Data) -> Data:
    """Clip x0 to [-1, 1] (Imagen, sec. 2.3).

    Args:
      x0: predictions, guided already.

    Returns:
      The same within [-1, 1].
    """
    return jnp.clip(x0, -1, 1)


def dynamic_threshold(x0: Data, percentile: float = 99.5) -> Data:
    """Divide x0 by s and clip it to [-1, 1]; s is the percentile of an example's |x0|, at least 1.

    From Imagen, sec. 2.3: pixels that guidance saturated are pulled inwards.

    Args:
      x0: predictions, guided already.
      percentile: percentile of the absolute values of an example, in percent, in (0, 100].

    Returns:
      Data within [-1, 1]; x0 itself where its percentile is below 1 and no value is beyond it.
    """
    axes = tuple(range(1, x0.ndim))
    s = jnp.maximum(jnp.percentile(jnp.abs(x0), percentile, axis=axes, keepdims=True), 1)
    return jnp.clip(x0 / s, -1, 1)  # in this order: rounded division of s by s may exceed 1


def thresholded(x0_fn: X0Fn, *, method: str, percentile: float = 99.5) -> X0Fn:
    """Threshold the result of a denoiser, after guidance.

    Args:
      x0_fn: a denoiser, guided already.
      method: "none", "static" (`static_threshold`) or "dynamic" (`dynamic_threshold`).
      percentile: percentile of the dynamic threshold, in percent, in (0, 100].

    Returns:
      A denoiser of the same arguments; `x0_fn` itself with "none".

    Raises:
      ValueError: for another method, or a percentile outside (0, 100].
    """
    _check_threshold(method, percentile)
    if method == "none":
        return x0_fn
    return Partial(_Thresholded(method, percentile), as_tree(x0_fn))


def reconstruction_guided(
    x0_fn: X0Fn,
    observe: Callable[[Data], Float[Array, "b *y"]],
    observed: Float[Array, "b *y"],
    weight: float,
) -> X0Fn:
    """Draw a denoiser towards data with `observe(x0) == observed` (VDM eq. 7).

    It costs a backward pass through the denoiser at every step.

    Args:
      x0_fn: a differentiable denoiser.
      observe: A, differentiable: picks the known frames, or downsamples.
      observed: a, what A gives on the true data.
      weight: w_r; VDM uses 2 to 50.

    Returns:
      A denoiser of the same arguments, whose result is x̂ - (w_r α/2) ∇_z ||a - A(x̂)||².
    """
    return Partial(_reconstruct, as_tree(x0_fn), as_tree(observe), observed, jnp.asarray(weight))


def as_tree(function: Callable[..., Any]) -> Partial:
    """Turn a function into a PyTree, so that it may be an argument of a compiled function.

    Args:
      function: a Partial, whose bound arrays are the leaves, or any other function.

    Returns:
      A Partial as it is; any other function as a constant without leaves, by whose identity (or
      equality) programs are compiled.
    """
    return function if isinstance(function, Partial) else Partial(function)


@dataclasses.dataclass(frozen=True)
class _GuidePairs:
    """Guides by a rule what a function of pairs predicts.

    A dataclass, not a closure: equal rules compare equal, so compiled steps are reused.
    """

    rule: Rule

    def __call__(self, both_fn, weights, momentum, *arrays_and_step):
        with_text, without = _in_pairs(both_fn, *arrays_and_step)
        if momentum is not None:
            without = momentum.without(with_text, without)
        return self.rule(with_text, without, weights[arrays_and_step[-1]])


def _mix(both_fn, weight, *arrays_and_step):
    first, second = _in_pairs(both_fn, *arrays_and_step)
    weight = expand(weight, first).astype(first.dtype)
    return (1 - weight) * first + weight * second


def _in_pairs(both_fn, *arrays_and_step):
    """Predict for the first and the second of every pair, by a function of twice the batch."""
    *arrays, step = arrays_and_step
    both = both_fn(*(pair(x, x) for x in arrays), step)
    return both[0::2], both[1::2]


@dataclasses.dataclass(frozen=True)
class _Thresholded:
    """Thresholds what a denoiser predicts.

    A dataclass, not a closure: equal settings compare equal, so compiled steps are reused.
    """

    method: str
    percentile: float

    def __call__(self, x0_fn, z, logsnr, step):
        x0 = x0_fn(z, logsnr, step)
        if self.method == "static":
            return static_threshold(x0)
        return dynamic_threshold(x0, self.percentile)


def _reconstruct(x0_fn, observe, observed, weight, z, logsnr, step):
    def error(z):
        x0 = x0_fn(z, logsnr, step)
        return jnp.sum(jnp.square(observed - observe(x0))), x0

    gradient, x0 = jax.grad(error, has_aux=True)(z)
    return x0 - expand(0.5 * weight * alpha_sigma(logsnr)[0], z).astype(z.dtype) * gradient


def _check_threshold(method: str, percentile: float) -> None:
    if method not in THRESHOLDS:
        raise ValueError(f"Unknown threshold {method!r}; choose one of {', '.join(THRESHOLDS)}.")
    if not 0 < percentile <= 100:
        raise ValueError(f"The threshold percentile is {percentile}; it must be in (0, 100].")
