"""What a sampler is: one step from a noise level t to the next, cleaner level s.

A sampler is a frozen dataclass that is called once a step (`sampling.sample`) with the denoiser, so
that it may evaluate x̂ at more levels than t. Its class registers itself under a name:

    class Midpoint(Sampler, name="midpoint", evaluations=2):

is then `SamplerSpec.kind = "midpoint"` and `--sampler=midpoint`; with settings of its own it is
`SamplerSpec.kind = @midpoint.Midpoint()`. CONTRIBUTING.md has the whole of this example.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.schedules import Data, LogSnr, alpha_sigma, draw_noise, expand

SAMPLERS: dict[str, type[Sampler]] = {}  # by name; `Sampler` fills it


@runtime_checkable
class Spec(Protocol):
    """What a sampler may read of `samplers.SamplerSpec`."""

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        ...

    @property
    def gamma(self) -> float:
        """γ of the ancestral sampler, from 0 to 1; see `samplers.Ancestral`."""
        ...

    @property
    def churn(self) -> float:
        """S_churn of Heun's sampler, the noise that all its steps together add; 0 is none."""
        ...


# x̂ of (z, log-SNR), guided and thresholded.
Denoise = Callable[[Data, LogSnr], Data]


class StepLevels(NamedTuple):
    """The log-SNRs that one step may look at, noisiest first (stacked: those of all steps).

    Attributes:
      before: level of the previous x̂; -inf in a step that has none, such as the first.
      t: level of z.
      s: level to go to.
      beyond: the level after s, or s in the last step.
      earlier: level of the x̂ before the previous one, for samplers with a `memory` of 2.
    """

    before: Float[Array, "*steps"]
    t: Float[Array, "*steps"]
    s: Float[Array, "*steps"]
    beyond: Float[Array, "*steps"]
    earlier: Float[Array, "*steps"] | None = None


class Sampler(abc.ABC):
    """One step of sampling, from level t to the cleaner level s.

    A subclass is a frozen dataclass: compiled steps are kept by equal samplers.

    Attributes:
      name: of the class, for `SamplerSpec.kind` and `--sampler`; "" is not registered.
      evaluations: evaluations of the denoiser in a step.
    """

    name: ClassVar[str] = ""
    evaluations: ClassVar[int] = 1

    def __init_subclass__(cls, *, name: str = "", evaluations: int = 1) -> None:
        super().__init_subclass__()
        cls.name, cls.evaluations = name, evaluations
        if name:
            SAMPLERS[name] = cls

    @classmethod
    def from_spec(cls, spec: Spec) -> Sampler:
        """Make the sampler that `SamplerSpec.kind` names.

        Args:
          spec: settings, of which a sampler reads those that are its own; here none is.

        Returns:
          The sampler of this class.
        """
        del spec
        return cls()

    @property
    def memory(self) -> int:
        """How many earlier x̂ the sampler reads, 1 or 2."""
        return 1

    @abc.abstractmethod
    def __call__(
        self,
        denoise: Denoise,
        keys: Key[Array, "b"],
        z: Data,
        x0_before: Data | tuple[Data, Data],
        levels: StepLevels,
    ) -> tuple[Data, Data]:
        """Take one step.

        Args:
          denoise: x̂ at any z and level.
          keys: random keys of the noise of this step, one an example.
          z: z_t.
          x0_before: the x̂ that the step before returned; 0 in the first. With a `memory` of 2 it is
            a pair: of the step before, and of the one before that.
          levels: noise levels of this step.

        Returns:
          z_s, and x̂(z_t), which the last step of all returns as the data.
        """


def ddim_step(z: Data, x0: Data, logsnr_t: LogSnr, logsnr_s: LogSnr) -> Data:
    """Step from t to s, in either direction: z_s = α_s x0 + σ_s (z - α_t x0)/σ_t.

    From DDIM (2010.02502, eq. 12 without noise), in a form that loses no digits where t and s are
    close.

    Args:
      z: noisy data at level t.
      x0: prediction of the data.
      logsnr_t: λ of the level to leave.
      logsnr_s: λ of the level to reach.

    Returns:
      Noisy data at level s.
    """
    t, s = expand(logsnr_t, z), expand(logsnr_s, z)
    (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    return (sigma_s / sigma_t) * z - jnp.expm1(0.5 * (t - s)) * alpha_s * x0


def normal_like(keys: Key[Array, "b"], z: Data) -> Data:
    """Draw standard normal noise in the shape of z, each example from its own key.

    Args:
      keys: one an example.
      z: gives shape and dtype.

    Returns:
      The noise; that of an example does not depend on the others.
    """
    return jax.vmap(lambda key, x: draw_noise(key, x.shape, x.dtype))(keys, z)


def fold(keys: Key[Array, "b"], data: int | Int[Array, ""]) -> Key[Array, "b"]:
    """Fold the same number into each key, so that each use of a key gets its own noise.

    Args:
      keys: one an example.
      data: a whole number, such as that of the step.

    Returns:
      The new keys.
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
