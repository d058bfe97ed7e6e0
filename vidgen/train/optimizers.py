"""Optimizers and learning rates of optax, as settings that gin can fill.

Learning rate at update n (0 for the first), with peak η, warm-up W, total T and floor f:

    warm-up      η (n + 1) / W                                       while n < W
    constant     η
    linear       η [f + (1 − f)(1 − p)]           p = (n − W) / (T − W), clipped to [0, 1]
    cosine       η [f + (1 − f)(1 + cos πp) / 2]
    rsqrt        η √(max(W, 1) / n)

Gradients are clipped by their global norm first. Weight decay touches matrices and kernels only:
arrays of one axis or none are norm scales and biases.

What the optimizer compiles counts kernels: XLA:CPU compiles one for each array that it keeps, some
10 ms each. A small network's 194 parameters came to ten each with optax's clipping, norms and
scaling by the rate, and come to five with those of this module. Their states are those of
`optax.adamw` and `optax.sgd`, so that checkpoints of either are those of the other.
`optax.adafactor` is not used: it takes the momentum of updates that have the learning rate already,
and its weight decay does not follow the rate.

`Grouped` gives each top-level part of the parameters an optimizer of its own: a generator and its
discriminator are one model with one loss, and each is clipped by its own norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vidgen.nn import platforms
from vidgen.types import Params

DECAYS = ("constant", "cosine", "linear", "rsqrt")
MOMENT_DTYPES = ("float32", "bfloat16")
_SMALL = 2**14  # elements of a leaf that a norm copies


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up to `peak`, then one of `DECAYS`.

    Attributes:
      peak: the highest learning rate η.
      warmup_steps: updates W until the peak; 0 starts there.
      decay: what follows: constant, cosine, linear or rsqrt.
      total_steps: update T at which cosine and linear reach their floor.
      floor: the floor as a fraction f of the peak.
    """

    peak: float
    warmup_steps: int = 0
    decay: str = "constant"
    total_steps: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"LearningRate.decay is {self.decay!r}; choose one of {DECAYS}.")
        if not self.peak > 0:
            raise ValueError(f"LearningRate.peak is {self.peak}; it must be positive.")
        if self.warmup_steps < 0:
            raise ValueError(f"LearningRate.warmup_steps is {self.warmup_steps}; it must be >= 0.")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"LearningRate.floor is {self.floor}; it is a fraction, 0 to 1.")
        if self.decay in ("cosine", "linear") and (self.total_steps or 0) < 1:
            raise ValueError(
                f"LearningRate.decay is {self.decay!r}, which needs total_steps >= 1; "
                f"it is {self.total_steps}."
            )

    def __call__(self, count: jax.typing.ArrayLike) -> Float[Array, ""]:
        """Return the learning rate of update number `count`, from 0."""
        warmup, schedule = self.warmup_steps, self._after_warmup()
        if warmup:
            rising = optax.linear_schedule(self.peak / warmup, self.peak, warmup - 1)
            schedule = optax.join_schedules([rising, schedule], [warmup])
        return jnp.asarray(schedule(jnp.asarray(count)), jnp.float32)

    def _after_warmup(self) -> optax.Schedule:
        """Return the rate as a function of the updates since the warm-up."""
        span = max((self.total_steps or 1) - self.warmup_steps, 1)
        if self.decay == "cosine":
            return optax.cosine_decay_schedule(self.peak, span, alpha=self.floor)
        if self.decay == "linear":
            return optax.linear_schedule(self.peak, self.peak * self.floor, span)
        if self.decay == "rsqrt":  # which optax has not
            first = max(self.warmup_steps, 1)
            return lambda n: self.peak * jnp.sqrt(first / jnp.maximum(n + self.warmup_steps, first))
        return optax.constant_schedule(self.peak)


def decayed(params: Params) -> Any:
    """Mark the parameters that weight decay applies to: arrays of two axes or more.

    Args:
      params: arrays or ShapeDtypeStructs.

    Returns:
      A tree like it of booleans.
    """
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def global_norm(tree: Params) -> Float[Array, ""]:
    """Compute the square root of the sum of the squares of all elements of a tree.

    It is optax's, but on one device small leaves are summed as one array: a sum of its own for each
    is up to three kernels, half of what XLA:CPU compiled for the optimizer of a small network.

    Args:
      tree: gradients, updates or parameters.

    Returns:
      The Euclidean norm.
    """
    leaves = jax.tree.leaves(tree)
    small = [x for x in leaves if x.size < _SMALL] if platforms.is_one_device() else []
    if len(small) > 1:
        leaves = [x for x in leaves if x.size >= _SMALL]
        leaves.append(jnp.concatenate([x.reshape(-1) for x in small]))
    return optax.tree.norm(leaves)


def clipped(
    clip_norm: float | None, tx: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Put optax's clipping by the global norm before a transformation, with fewer kernels.

    Args:
      clip_norm: the largest norm that gradients keep; larger ones are scaled down to it. None does
        not clip.
      tx: what gets the clipped gradients.

    Returns:
      The chain of both, whose state is that of optax's chain.
    """
    if clip_norm is None:
        return tx
    limit = clip_norm

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        norm = global_norm(updates)
        # A factor, where optax divides each gradient: XLA keeps the result of a division in memory,
        # and a product is part of the kernels that read it.
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.chain(optax.GradientTransformation(optax.init_empty_state, update), tx)


def _divided_by_rate(rate: LearningRate) -> optax.GradientTransformation:
    """Multiply the updates by minus the learning rate, as a division by its inverse.

    XLA makes one division of this and Adam's, A / B / C = A / (B C), and one kernel; a product with
    the rate is another, since the result of a division is kept in memory for all that read it.
    """

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        # Behind a barrier, as XLA makes a product of a division by a constant.
        inverse = jax.lax.optimization_barrier(-1.0 / rate(state.count))
        scaled = jax.tree.map(lambda u: u / inverse.astype(u.dtype), updates)
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(optax.scale_by_schedule(rate).init, update)


def check_common(settings: Any, *fractions: str) -> None:
    """Check the settings that optimizers share.

    Args:
      settings: those of an optimizer. Its `clip_norm` must be positive, or None; its
        `weight_decay`, if it has one, 0 or more.
      *fractions: names of fields that must be in [0, 1), or None.

    Raises:
      ValueError: one of them is out of range.
    """
    owner, clip_norm = type(settings).__name__, settings.clip_norm
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"{owner}.clip_norm is {clip_norm}; it must be positive, or None.")
    if (decay := getattr(settings, "weight_decay", 0.0)) < 0:
        raise ValueError(f"{owner}.weight_decay is {decay}; it must be >= 0.")
    for name in fractions:
        if (value := getattr(settings, name)) is not None and not 0.0 <= value < 1.0:
            raise ValueError(f"{owner}.{name} is {value}; it must be in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (two moments for each parameter).

    Attributes:
      learning_rate: see `LearningRate`.
      beta1, beta2, eps: Adam's constants.
      weight_decay: multiplied with the learning rate; 0 switches it off.
      clip_norm: largest global norm of the gradient; None does not clip.
      moment_dtype: dtype of the first moment; the second is always float32.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    moment_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_common(self, "beta1", "beta2")
        if self.moment_dtype not in MOMENT_DTYPES:
            raise ValueError(
                f"AdamW.moment_dtype is {self.moment_dtype!r}; choose one of {MOMENT_DTYPES}."
            )

    def build(self) -> optax.GradientTransformation:
        """Return the optax transformation that these settings describe."""
        tx = optax.chain(
            optax.scale_by_adam(
                b1=self.beta1, b2=self.beta2, eps=self.eps, mu_dtype=self.moment_dtype
            ),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            _divided_by_rate(self.learning_rate),
        )
        return clipped(self.clip_norm, tx)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor: the second moment of a large matrix is kept as a row and a column.

    Attributes:
      learning_rate: see `LearningRate`; relative to a parameter's size if `scale_by_parameter`.
      momentum: first moment, None for none (the memory-saving choice).
      decay_rate: exponent of the second moment's schedule, 1 - n^(-decay_rate).
      min_factored_size: matrices whose two largest axes reach this size are factored.
      scale_by_parameter: multiply the step by the parameter's root mean square.
      weight_decay: multiplied with the learning rate; 0 switches it off.
      clip_norm: largest global norm of the gradient; None does not clip.
    """

    learning_rate: LearningRate
    momentum: float | None = 0.9
    decay_rate: float = 0.8
    min_factored_size: int = 128
    scale_by_parameter: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_common(self, "momentum")

    def build(self) -> optax.GradientTransformation:
        """Return the optax transformation that these settings describe."""
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_factored_size
            ),
            optax.clip_by_block_rms(1.0),
        ]
        if self.momentum is not None:
            parts.append(optax.ema(self.momentum, debias=False))
        if self.scale_by_parameter:
            parts.append(optax.scale_by_param_block_rms())
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, mask=decayed))
        parts.append(optax.scale_by_learning_rate(self.learning_rate))
        return clipped(self.clip_norm, optax.chain(*parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD:
    """Plain gradient descent, θ ← θ − η g; nothing is kept.

    With the loss (a − m)²/2 it is a moving average of m with decay 1 − η, exactly.

    Attributes:
      learning_rate: see `LearningRate`.
      clip_norm: largest global norm of the gradient; None does not clip.
    """

    learning_rate: LearningRate
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_common(self)

    def build(self) -> optax.GradientTransformation:
        """Return the optax transformation that these settings describe."""
        return clipped(self.clip_norm, optax.sgd(self.learning_rate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped:
    """An optimizer for each top-level key of the parameters.

    Clipping, moments and weight decay of a group see that group alone. Groups that the parameters
    lack are left out, so that one config serves a model with and without its discriminator.

    Attributes:
      groups: optimizer settings (`AdamW`, `Adafactor`, `SGD`) by top-level key.
    """

    groups: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("Grouped.groups is empty; give each part of the model an optimizer.")
        for name, settings in self.groups.items():
            if not (hasattr(settings, "build") and hasattr(settings, "learning_rate")):
                raise ValueError(
                    f"Grouped.groups[{name!r}] is a {type(settings).__name__}; give it optimizer "
                    "settings such as AdamW."
                )

    @property
    def learning_rate(self) -> Any:
        """Return the learning rate of the first group, for the log."""
        return next(iter(self.groups.values())).learning_rate

    def build(self) -> optax.GradientTransformation:
        """Return the optax transformation that these settings describe.

        On use it raises ValueError where the parameters have a key without an optimizer.
        """
        built: dict[Any, Any] = {name: settings.build() for name, settings in self.groups.items()}
        return optax.partition(built, self._labels)

    def _labels(self, params: Params) -> Any:
        """Return the group of each top-level part of the parameters."""
        if not jax.tree.leaves(params):
            # optax asks for the form of the state with an empty stand-in for the parameters.
            return next(iter(self.groups))
        if not isinstance(params, Mapping):
            raise ValueError(
                f"Grouped needs parameters with top-level names, not a {type(params).__name__}."
            )
        missing = [name for name in params if name not in self.groups]
        if missing:
            raise ValueError(
                f"Grouped has no optimizer for the parameters under {missing[0]!r}; it has groups "
                f"{list(self.groups)} and the model has {list(params)}."
            )
        return {name: name for name in params}
