"""What the network's output means, and how its error is weighted.

Imagen Video, progressive distillation sec. 4. With z = α x + σ ε:

    name   target                       x0 from the output         x0-MSE / output-MSE =: k(λ)
    eps    ε                            (z - σ out)/α              1/SNR
    x0     x                            out                        1
    v      v = α ε - σ x                α z - σ out                σ² = 1/(1 + SNR)
    edm    (σ x - d² α ε)/(d √D)        (d² α/D) z + (σ d/√D) out  1/(d⁻² + SNR)
    flow   ε - x                        (z - σ out)/(α + σ)        t² = 1/(1 + √SNR)²

where D = σ² + α² d² and d is the standard deviation of the data; edm is EDM's c_skip and c_out
written for z = z_edm α, and d = 1 gives -v. flow is the velocity of a rectified flow, dx_t/dt on
the straight path x_t = (1 - t) x + t ε (2209.03003; 2403.03206): z and x_t differ by a factor, so
that one level is both, t = σ/(α + σ) and x_t = z/(α + σ). v, edm and flow are safe at every noise
level; eps amplifies the network's error by 1/α (22026 at λ = -20) and should not be sampled from
pure noise.

A loss weight is a function w_x(λ) on the squared error of x0:

    v_mse 1 + SNR · eps_mse SNR · x_mse 1 · min_snr min(SNR, γ) · truncated_snr max(SNR, 1)
    flow_mse (1 + √SNR)²

A configuration names them, or gives objects with settings: `@parameterization.Edm()` for
`Edm.sigma_data`, `@parameterization.MinSnr()` for `MinSnr.gamma`.

It is applied to the output's own mean squared error, as the multiplier w_x(λ) k(λ). Both factors
are kept as logarithms until the end, so neither e^20 nor its rounding error ever meets a small
error of x0, and a loss in the output's own space has the multiplier 1 to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen import checks
from vidgen.diffusion.schedules import Data, LogSnr, alpha_sigma, expand


@runtime_checkable
class Parameterization(Protocol):
    """The meaning of the network's output."""

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Compute what the network should output for z = α x0 + σ eps.

        Args:
          x0: clean data, in [-1, 1].
          eps: the standard normal noise that it was mixed with.
          logsnr: λ of z.

        Returns:
          The training target, in the shape of the data.
        """
        ...

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Compute the data x̂ that an output stands for.

        Args:
          out: output of the network.
          z: the noisy data that it was computed from.
          logsnr: λ of z.

        Returns:
          x̂, about in [-1, 1]; nothing is clipped.
        """
        ...

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Compute the noise ε̂ that an output stands for.

        Args:
          out: output of the network.
          z: the noisy data that it was computed from.
          logsnr: λ of z.

        Returns:
          ε̂, about standard normal, with z = α x̂ + σ ε̂.
        """
        ...

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Compute log k(λ), by which an error of the output becomes one of x0.

        Args:
          logsnr: λ.

        Returns:
          The logarithm of the squared error of x0 per unit of squared error of the output, at each
          λ.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Eps:
    """The network outputs the noise ε."""

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Return ε; see `Parameterization.target`."""
        return eps

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return x0 = (z - σ out)/α; see `Parameterization.to_x0`."""
        alpha, sigma = alpha_sigma(expand(logsnr, z))
        return (z - sigma * out) / alpha

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return the output itself; see `Parameterization.to_eps`."""
        return out

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Return log 1/SNR = -λ; see `Parameterization.log_x0_error`."""
        return -logsnr


@dataclasses.dataclass(frozen=True)
class X0Output:
    """The network outputs the data x."""

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Return x; see `Parameterization.target`."""
        return x0

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return the output itself; see `Parameterization.to_x0`."""
        return out

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return ε = (z - α out)/σ; see `Parameterization.to_eps`."""
        return eps_from_x0(out, z, logsnr)

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Return 0: the output is x0, so k = 1 at every λ; see `Parameterization.log_x0_error`."""
        return jnp.zeros_like(logsnr)


@dataclasses.dataclass(frozen=True)
class Velocity:
    """The network outputs v = α ε - σ x, the derivative of z by the angle atan(σ/α)."""

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Return v = α ε - σ x; see `Parameterization.target`."""
        alpha, sigma = alpha_sigma(expand(logsnr, x0))
        return alpha * eps - sigma * x0

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return x0 = α z - σ out; see `Parameterization.to_x0`."""
        alpha, sigma = alpha_sigma(expand(logsnr, z))
        return alpha * z - sigma * out

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return ε = σ z + α out; see `Parameterization.to_eps`."""
        alpha, sigma = alpha_sigma(expand(logsnr, z))
        return sigma * z + alpha * out

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Return log σ² = -log(1 + SNR); see `Parameterization.log_x0_error`."""
        return -jnp.logaddexp(logsnr, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edm:
    """The network outputs EDM's F: x0 = c_skip z_edm + c_out F (EDM table 1).

    Attributes:
      sigma_data: d, standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        checks.positive(self, "sigma_data")

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Return F = (σ x - d² α ε)/(d √D); see `Parameterization.target`."""
        alpha, sigma, d = *alpha_sigma(expand(logsnr, x0)), self.sigma_data
        return (sigma * x0 - d**2 * alpha * eps) / (d * jnp.sqrt(sigma**2 + (alpha * d) ** 2))

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return x0 = (d² α/D) z + (σ d/√D) out; see `Parameterization.to_x0`."""
        alpha, sigma, d = *alpha_sigma(expand(logsnr, z)), self.sigma_data
        total = sigma**2 + (alpha * d) ** 2
        return (d**2 * alpha / total) * z + (sigma * d / jnp.sqrt(total)) * out

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return ε = (σ/D) z - (α d/√D) out; see `Parameterization.to_eps`."""
        alpha, sigma, d = *alpha_sigma(expand(logsnr, z)), self.sigma_data
        total = sigma**2 + (alpha * d) ** 2
        return (sigma / total) * z - (alpha * d / jnp.sqrt(total)) * out

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Return log c_out² = -log(1/d² + SNR); see `Parameterization.log_x0_error`."""
        return -jnp.logaddexp(logsnr, -2 * math.log(self.sigma_data))


@dataclasses.dataclass(frozen=True)
class FlowVelocity:
    """The network outputs ε - x, the velocity of a rectified flow (2403.03206, sec. 2).

    It goes with `schedules.RectifiedFlow`, whose times are those of the flow, and the loss weight
    "flow_mse", which is 1 for it.
    """

    def target(self, x0: Data, eps: Data, logsnr: LogSnr) -> Data:
        """Return ε - x, the same at every level; see `Parameterization.target`."""
        return eps - x0

    def to_x0(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return x0 = x_t - t out = (z - σ out)/(α + σ); see `Parameterization.to_x0`."""
        alpha, sigma = alpha_sigma(expand(logsnr, z))
        return (z - sigma * out) / (alpha + sigma)

    def to_eps(self, out: Data, z: Data, logsnr: LogSnr) -> Data:
        """Return ε = x_t + (1 - t) out = (z + α out)/(α + σ); see `Parameterization.to_eps`."""
        alpha, sigma = alpha_sigma(expand(logsnr, z))
        return (z + alpha * out) / (alpha + sigma)

    def log_x0_error(self, logsnr: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Return log t² = -2 log(1 + √SNR); see `Parameterization.log_x0_error`."""
        return -2 * jnp.logaddexp(0.5 * logsnr, 0.0)


T = TypeVar("T")


def _lookup(kind: str, name: str, choices: Mapping[str, T]) -> T:
    if name not in choices:
        raise ValueError(f"Unknown {kind} {name!r}; choose one of {', '.join(choices)}.")
    return choices[name]


EPS, X0, V, EDM, FLOW = Eps(), X0Output(), Velocity(), Edm(), FlowVelocity()
PARAMETERIZATIONS: Mapping[str, Parameterization] = {
    "eps": EPS,
    "x0": X0,
    "v": V,
    "edm": EDM,
    "flow": FLOW,
}


def by_name(choice: str | Parameterization) -> Parameterization:
    """Look up what a network's output means.

    Args:
      choice: a name in `PARAMETERIZATIONS`: "eps", "x0", "v", "edm" (d = 0.5) or "flow"; or an
        object, with settings of its own.

    Returns:
      The parameterization of that name; an object is returned as it is.

    Raises:
      ValueError: for any other name.
    """
    if not isinstance(choice, str):
        return choice
    return _lookup("parameterization", choice, PARAMETERIZATIONS)


def eps_from_x0(x0: Data, z: Data, logsnr: LogSnr) -> Data:
    """Compute the noise that goes with a guided or thresholded x0: ε = (z - α x0)/σ.

    Args:
      x0: prediction of the data.
      z: the noisy data that it was made from.
      logsnr: λ of z; at λ = 20 σ is 4.5e-5, and the difference has lost most of its digits.

    Returns:
      ε̂, with z = α x0 + σ ε̂.
    """
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return (z - alpha * x0) / sigma


# ---- loss weights --------------------------------------------------------------------------------


@runtime_checkable
class LossWeight(Protocol):
    """Weight of one example's loss by its noise level."""

    def __call__(self, parameterization: Parameterization, logsnr: LogSnr) -> LogSnr:
        """Compute the multiplier of the mean squared error of the output against `target`.

        Args:
          parameterization: what the output means.
          logsnr: λ of each example, or one for all.

        Returns:
          w_x(λ) k(λ) > 0, in the shape of `logsnr`.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class MseIn:
    """The unweighted squared error in the space of another parameterization.

    Attributes:
      space: where the error is measured, whatever the network outputs: a name, or a
        parameterization with settings of its own.
    """

    space: str | Parameterization

    def __post_init__(self) -> None:
        by_name(self.space)

    def __call__(self, parameterization: Parameterization, logsnr: LogSnr) -> LogSnr:
        """Return k(λ) / k_space(λ); see `LossWeight.__call__`."""
        space = by_name(self.space)
        return jnp.exp(parameterization.log_x0_error(logsnr) - space.log_x0_error(logsnr))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSnr:
    """w_x = min(SNR, γ) (2303.09556).

    Attributes:
      gamma: SNR above which clean levels gain no more weight.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        checks.positive(self, "gamma")

    def __call__(self, parameterization: Parameterization, logsnr: LogSnr) -> LogSnr:
        """Return min(SNR, γ) k(λ); see `LossWeight.__call__`."""
        log_weight = jnp.minimum(logsnr, math.log(self.gamma))
        return jnp.exp(log_weight + parameterization.log_x0_error(logsnr))


@dataclasses.dataclass(frozen=True)
class TruncatedSnr:
    """w_x = max(SNR, 1), the larger of x-MSE and ε-MSE (progressive distillation sec. 4)."""

    def __call__(self, parameterization: Parameterization, logsnr: LogSnr) -> LogSnr:
        """Return max(SNR, 1) k(λ); see `LossWeight.__call__`."""
        return jnp.exp(jnp.maximum(logsnr, 0) + parameterization.log_x0_error(logsnr))


V_MSE, EPS_MSE = MseIn(space="v"), MseIn(space="eps")
X_MSE, EDM_MSE = MseIn(space="x0"), MseIn(space="edm")
FLOW_MSE = MseIn(space="flow")
LOSS_WEIGHTS: Mapping[str, LossWeight] = {
    "v_mse": V_MSE,
    "eps_mse": EPS_MSE,
    "x_mse": X_MSE,
    "edm_mse": EDM_MSE,
    "flow_mse": FLOW_MSE,
    "min_snr": MinSnr(),
    "truncated_snr": TruncatedSnr(),
}


def loss_weight_by_name(choice: str | LossWeight) -> LossWeight:
    """Look up how the squared error of an example is weighted by its noise level.

    Args:
      choice: a name in `LOSS_WEIGHTS`, with its usual settings (min_snr has γ = 5, edm_mse d =
        0.5); or an object, with settings of its own.

    Returns:
      The loss weight of that name; an object is returned as it is.

    Raises:
      ValueError: for any other name.
    """
    if not isinstance(choice, str):
        return choice
    return _lookup("loss weight", choice, LOSS_WEIGHTS)
