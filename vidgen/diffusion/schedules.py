"""Noise schedules and the Gaussian algebra of diffusion, in log-SNR.

Variance preserving diffusion of data x with noise ε ~ N(0, I) (Imagen Video, VDM sec. 2):

    z = α x + σ ε            α² = sigmoid(λ)    σ² = sigmoid(-λ)    λ = log(α²/σ²)

For a cleaner level s and a noisier level t, λ_t <= λ_s:

    q(z_t | z_s)    = N((α_t/α_s) z_s, σ²_{t|s} I)      σ²_{t|s} = (1 - e^{λ_t-λ_s}) σ_t²
    q(z_s | z_t, x) = N(μ̃, σ̃² I)                        σ̃²       = (1 - e^{λ_t-λ_s}) σ_s²
                      μ̃ = e^{λ_t-λ_s} (α_s/α_t) z_t + (1 - e^{λ_t-λ_s}) α_s x

λ is the only noise coordinate that leaves this module. A schedule maps a time u in [0, 1]
(0: data, 1: noise) to λ, decreasing; training draws u, or λ itself. The variance exploding noise
level of EDM is σ_edm = σ/α = e^{-λ/2}, with z_edm = z/α. Every formula is safe in float32 for
|λ| <= 20: differences of exponentials are `expm1`, and no cosine is taken close to its zero.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, Shaped

from vidgen import checks

LOGSNR_MIN, LOGSNR_MAX = -20.0, 20.0  # truncation used by VDM, CFG and progressive distillation

LogSnr = Float[Array, "b"] | Float[Array, ""]  # one level per example, or one for all of them
Data = Float[Array, "b *x"]  # b examples of any shape: x, z, ε and their estimates


@runtime_checkable
class LogSnrSchedule(Protocol):
    """A decreasing map from time u in [0, 1] (0: data, 1: noise) to log-SNR."""

    def __call__(self, u: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Compute the log-SNR at time u.

        Args:
          u: times in [0, 1], from data to noise.

        Returns:
          λ of each, decreasing in u.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """Truncated cosine schedule: λ(u) = -2 log tan(a u + b) + shift, which is α ≈ cos(πu/2).

    b = atan(e^{-λmax/2}), a = atan(e^{-λmin/2}) - b (progressive distillation, appendix; CFG).

    Attributes:
      logsnr_min: λ at u = 1, before the shift.
      logsnr_max: λ at u = 0, before the shift.
      shift: added to λ. Video of a higher resolution keeps more signal at the same λ; moving from
        side d0 to side d takes 2 log(d0/d) (later practice). Neither paper mentions one: 0.
    """

    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_range(self.logsnr_min, self.logsnr_max)

    def __call__(self, u: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Compute λ(u), from the nearer end so that no tangent is taken close to π/2.

        Args:
          u: times in [0, 1], from data to noise.

        Returns:
          λ of each, from logsnr_max + shift down to logsnr_min + shift.
        """
        clean = math.atan(math.exp(-self.logsnr_max / 2))
        noisy = math.atan(math.exp(self.logsnr_min / 2))
        slope = math.pi / 2 - clean - noisy
        from_clean = -2 * jnp.log(jnp.tan(slope * jnp.minimum(u, 0.5) + clean))
        from_noisy = 2 * jnp.log(jnp.tan(slope * (1 - jnp.maximum(u, 0.5)) + noisy))
        return jnp.where(u < 0.5, from_clean, from_noisy) + self.shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImprovedCosine:
    """The cosine schedule of improved DDPM, ᾱ(u) = cos²θ(u) / cos²θ(0), cut to the λ range.

    θ(u) = (u + s)/(1 + s) π/2. From cos²θ0 - cos²θ = sin(θ - θ0) sin(θ + θ0):
    λ(u) = 2 log sin(c (1-u)) - log sin(c u) - log sin(c u + 2 c s), c = π/2/(1 + s).

    Attributes:
      offset: s; keeps the first noise levels from being too small.
      logsnr_min: smallest λ, reached before u = 1.
      logsnr_max: largest λ, reached before u = 0.
    """

    offset: float = 0.008
    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX

    def __post_init__(self) -> None:
        _check_range(self.logsnr_min, self.logsnr_max)

    def __call__(self, u: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Compute λ(u), cut to the range; see `LogSnrSchedule.__call__`."""
        c = math.pi / 2 / (1 + self.offset)
        log_alpha2 = 2 * jnp.log(jnp.sin(c * (1 - u)))
        log_sigma2 = jnp.log(jnp.sin(c * u)) + jnp.log(jnp.sin(c * u + 2 * c * self.offset))
        return jnp.clip(log_alpha2 - log_sigma2, self.logsnr_min, self.logsnr_max)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearBetas:
    """The DDPM schedule, β linear over `steps` discrete steps, made continuous in u.

    Step k = 1 ... steps lies at u = (k-1)/(steps-1), where λ is exact; between steps λ is linear.

    Attributes:
      beta_min: β of the first step.
      beta_max: β of the last step.
      steps: number of discrete steps.
      zero_terminal_snr: rescale so that the last step holds no signal (`rescale_zero_terminal`).
        λ is cut at `logsnr_min` there; only x0, v and EDM outputs can be sampled from such a level.
      logsnr_min: smallest λ.
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000
    zero_terminal_snr: bool = False
    logsnr_min: float = LOGSNR_MIN

    def __post_init__(self) -> None:
        checks.at_least(self, steps=2)
        if not 0 < self.beta_min <= self.beta_max < 1:
            raise ValueError(
                f"LinearBetas has beta_min {self.beta_min} and beta_max {self.beta_max}; "
                "they must satisfy 0 < beta_min <= beta_max < 1."
            )

    def table(self) -> Float[np.ndarray, "steps"]:
        """Tabulate λ of the discrete steps, in float64.

        Returns:
          λ of step 1, the cleanest, to the last, decreasing and at least `logsnr_min`.
        """
        alpha_bar = cumulative_alpha(np.linspace(self.beta_min, self.beta_max, self.steps))
        if self.zero_terminal_snr:
            alpha_bar = rescale_zero_terminal(alpha_bar)
        with np.errstate(divide="ignore"):
            logsnr = np.log(alpha_bar) - np.log1p(-alpha_bar)
        return np.maximum(logsnr, self.logsnr_min)

    def __call__(self, u: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Interpolate λ(u) between the discrete steps; see `LogSnrSchedule.__call__`."""
        position = u * (self.steps - 1)
        table = jnp.asarray(self.table(), position.dtype)
        return jnp.interp(position, jnp.arange(self.steps, dtype=position.dtype), table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """The straight path x_t = (1 - t) x + t ε, where SNR = ((1 - t)/t)²: λ = -2 logit(t).

    Its time is u = t without a shift. Where a resolution of m pixels is to see noise as one of n
    pixels did, t = s u/(1 + (s - 1) u) with s = √(m/n), so that λ = -2 logit(u) - 2 log s: as
    much as `Cosine.shift` of the same resolutions (2403.03206, sec. 5.3.2).

    Attributes:
      shift: s; more than 1 leans to noise, in training and in sampling. 2403.03206 takes 3 at 1024
        pixels a side. 1: none.
      logsnr_min: smallest λ, reached before u = 1.
      logsnr_max: largest λ, reached before u = 0.
    """

    shift: float = 1.0
    logsnr_min: float = LOGSNR_MIN
    logsnr_max: float = LOGSNR_MAX

    def __post_init__(self) -> None:
        _check_range(self.logsnr_min, self.logsnr_max)
        if not 0 < self.shift < math.inf:
            raise ValueError(
                f"RectifiedFlow.shift is {self.shift}; it must be positive: the side of a frame by "
                "that of the resolution whose noise it is to look like (1: no shift)."
            )

    def __call__(self, u: Float[Array, "*x"]) -> Float[Array, "*x"]:
        """Compute λ(u), with the ends, where it is infinite, cut; see `LogSnrSchedule.__call__`."""
        logsnr = 2 * (jnp.log1p(-u) - jnp.log(u)) - 2 * math.log(self.shift)
        return jnp.clip(logsnr, self.logsnr_min, self.logsnr_max)


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"logsnr_min is {low} and logsnr_max is {high}; min must be below max.")


def cumulative_alpha(betas: Float[np.ndarray, "steps"]) -> Float[np.ndarray, "steps"]:
    """Compute ᾱ_k = α_k² = Π_{j<=k} (1 - β_j), in float64 (DDPM, sec. 2).

    Args:
      betas: β of the discrete steps, each in (0, 1).

    Returns:
      ᾱ of the steps, decreasing, in (0, 1).
    """
    return np.cumprod(1 - betas.astype(np.float64))


def rescale_zero_terminal(alpha_bar: Float[np.ndarray, "steps"]) -> Float[np.ndarray, "steps"]:
    """Shift and scale √ᾱ so that the last is 0 and the first stays (2305.08891, Alg. 1).

    Args:
      alpha_bar: ᾱ of the discrete steps, decreasing.

    Returns:
      ᾱ of the steps, whose last one holds no signal.
    """
    alpha = np.sqrt(alpha_bar)
    return np.square((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]))


# ---- Gaussian algebra ----------------------------------------------------------------------------


def expand(a: Shaped[Array, "*y"], like: Shaped[Array, "*x"]) -> Shaped[Array, "*z"]:
    """Append axes of size 1 until an array broadcasts against another.

    Args:
      a: numbers or flags, such as one an example.
      like: an array of at least as many axes.

    Returns:
      `a` with as many axes as `like`; its size is the same.
    """
    return jnp.reshape(a, a.shape + (1,) * (like.ndim - a.ndim))


def alpha_sigma(
    logsnr: Float[Array, "*x"],
) -> tuple[Float[Array, "*x"], Float[Array, "*x"]]:
    """Compute the amplitudes of signal and noise, α² = sigmoid(λ) and σ² = sigmoid(-λ).

    Args:
      logsnr: λ.

    Returns:
      (α, σ), each in (0, 1), with α² + σ² = 1.
    """
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def draw_noise(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = "float32"
) -> Float[Array, "*x"]:
    """Draw ε ~ N(0, I): the numbers of `jax.random.normal`.

    On one device they are drawn as one long axis: the bits of an element depend on its place in the
    array alone, and XLA:CPU compiles the draw over one axis in 0.16 s, over four in 0.47. On a mesh
    the axes stay, so that each device draws its own part.

    Args:
      key: random key of the draw.
      shape: shape of the noise.
      dtype: dtype of the noise.

    Returns:
      Standard normal noise.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        return jax.random.normal(key, shape, dtype)
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def diffuse(x0: Data, eps: Data, logsnr: LogSnr) -> Data:
    """Mix data and noise: z = α x0 + σ eps.

    Args:
      x0: clean data.
      eps: standard normal noise.
      logsnr: λ of the result.

    Returns:
      The noisy data z.
    """
    alpha, sigma = alpha_sigma(expand(logsnr, x0))
    return alpha * x0 + sigma * eps


def transition_variance(
    logsnr_t: Float[Array, "*x"], logsnr_s: Float[Array, "*x"]
) -> Float[Array, "*x"]:
    """Compute σ²_{t|s}, the variance of the noise between the cleaner level s and the noisier t.

    Args:
      logsnr_t: λ of the noisier level.
      logsnr_s: λ of the cleaner level, at least that of t.

    Returns:
      (1 - e^{λ_t-λ_s}) σ_t², in [0, 1); 0 where the levels are equal.
    """
    return -jnp.expm1(logsnr_t - logsnr_s) * jax.nn.sigmoid(-logsnr_t)


def posterior_mean(z: Data, x0: Data, logsnr_t: LogSnr, logsnr_s: LogSnr) -> Data:
    """Compute μ̃, the mean of q(z_s | z_t, x) (VDM sec. 2).

    Args:
      z: noisy data at level t.
      x0: the data x, or its prediction.
      logsnr_t: λ of the noisier level.
      logsnr_s: λ of the cleaner level.

    Returns:
      The mean of z_s.
    """
    t, s = expand(logsnr_t, z), expand(logsnr_s, z)
    alpha_t, alpha_s = alpha_sigma(t)[0], alpha_sigma(s)[0]
    return jnp.exp(t - s) * (alpha_s / alpha_t) * z - jnp.expm1(t - s) * alpha_s * x0


def renoise(z: Data, eps: Data, logsnr_s: LogSnr, logsnr_t: LogSnr) -> Data:
    """Add noise from level s to the noisier level t: z_t = (α_t/α_s) z_s + σ_{t|s} eps.

    Args:
      z: noisy data at level s.
      eps: standard normal noise.
      logsnr_s: λ of the cleaner level.
      logsnr_t: λ of the noisier level.

    Returns:
      Noisy data at level t.
    """
    t, s = expand(logsnr_t, z), expand(logsnr_s, z)
    alpha_t, alpha_s = alpha_sigma(t)[0], alpha_sigma(s)[0]
    return (alpha_t / alpha_s) * z + jnp.sqrt(transition_variance(t, s)) * eps


def edm_sigmas(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float[np.ndarray, "steps"]:
    """Compute the EDM grid of noise levels, without its closing 0 (EDM eq. 5).

    Args:
      steps: number of levels.
      sigma_min: the last level σ/α; the default is the paper's, for data of standard deviation 0.5.
      sigma_max: the first level, likewise.
      rho: ρ, how much closer the clean levels lie; 1 spreads them evenly, and the paper takes 7.

    Returns:
      σ/α of the levels, noisy to clean, in float64.
    """
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.linspace(*ends, steps) ** rho


# ---- times to train on ---------------------------------------------------------------------------


@runtime_checkable
class TimeSampler(Protocol):
    """Draws the times of one training batch."""

    def __call__(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        """Draw the times of a training batch.

        Args:
          key: random key of the draw.
          batch_size: examples b.

        Returns:
          u in [0, 1], one an example.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformTimes:
    """u ~ U[low, high] for every example.

    Attributes:
      low: smallest time.
      high: largest time.
      stratified: one offset u0 for the batch, u = (i + u0)/b in shuffled order. Each u is still
        uniform and does not depend on which example it lands on, but the batch covers the noise
        levels evenly, which lowers the variance of the loss (VDM, appendix I.1).
    """

    low: float = 0.0
    high: float = 1.0
    stratified: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"UniformTimes covers {self.low} to {self.high}; it must be 0 <= low < high <= 1."
            )

    def __call__(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        """Draw u in [low, high], stratified where `stratified`; see `TimeSampler.__call__`."""
        return self.low + (self.high - self.low) * self._unit(key, batch_size)

    def _unit(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        offset_key, order_key = jax.random.split(key)
        if not self.stratified:
            return jax.random.uniform(offset_key, (batch_size,))
        order = jax.random.permutation(order_key, batch_size)
        return (order + jax.random.uniform(offset_key)) / batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormalTimes:
    """u = sigmoid(n), n ~ N(mean, std²): more of the middle noise levels (SD3 sec. 3.1).

    Attributes:
      mean: positive leans towards noise.
      std: spread of the logit.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, "std")

    def __call__(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        """Draw u in (0, 1) as the sigmoid of a normal number; see `TimeSampler.__call__`."""
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (batch_size,)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormalSigmas:
    """ln σ ~ N(mean, std²) of the noise level σ = e^{-λ/2}, whatever the schedule is (EDM sec. 5).

    Levels beyond the ends of the schedule, where nothing is sampled, are moved there.

    Attributes:
      mean: P_mean.
      std: P_std.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        checks.positive(self, "std")

    def logsnrs(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        """Draw λ = -2 ln σ, without regard to a schedule (EDM table 1, "noise distribution").

        Args:
          key: random key of the draw.
          batch_size: examples b.

        Returns:
          λ of each example, of any size.
        """
        return -2 * (self.mean + self.std * jax.random.normal(key, (batch_size,)))


Times = TimeSampler | LogNormalSigmas


def draw_logsnrs(
    times: Times, schedule: LogSnrSchedule, key: Key[Array, ""], batch_size: int
) -> Float[Array, "b"]:
    """Draw the noise levels of a training batch.

    Args:
      times: draws times u, or noise levels (`LogNormalSigmas`), which are cut to those of the
        schedule.
      schedule: maps u to λ.
      key: random key of the draw.
      batch_size: examples b.

    Returns:
      λ of each example, between λ(1) and λ(0) of the schedule.
    """
    if isinstance(times, LogNormalSigmas):
        noise, data = schedule(jnp.array([1.0, 0.0]))
        return jnp.clip(times.logsnrs(key, batch_size), noise, data)
    return schedule(times(key, batch_size))
