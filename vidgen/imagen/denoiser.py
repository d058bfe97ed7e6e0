"""Networks that denoise, and the denoiser of compiled steps: x̂ = to_x0(network(z, λ))."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.parameterization import Parameterization, by_name
from vidgen.types import Conditioning, Params


class DenoisingNetwork(abc.ABC):
    """A network whose call denoises: a Linen module, or any pair of pure functions."""

    @abc.abstractmethod
    def init(self, rngs: Key[Array, ""], *args: Any, **kwargs: Any) -> Params:
        """Draw fresh parameters for the arguments of a call.

        Args:
          rngs: the key of the draw.
          *args: those of `apply` after the parameters: (z, log-SNR, conditioning).
          **kwargs: likewise: train.

        Returns:
          Parameters, as Linen's `init` gives them; leaves may be boxed with the names of their
          axes.
        """

    @abc.abstractmethod
    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:  # as Linen's
        """Compute the network's raw output, whose meaning the parameterization says.

        Args:
          variables: parameters, as `init` gives them.
          *args: (z "b t h w c", log-SNR "b", `Conditioning`).
          **kwargs: train, whether dropout acts, and rngs, its keys.

        Returns:
          The output "b t h w c", in the shape of z.
        """

    @property
    def stride(self) -> int:
        """Height and width of a clip must be multiples of this."""
        return 1

    @property
    def operators(self) -> Mapping[str, tuple[int, ...]]:
        """The levels that use each operator besides the spatial convolution."""
        return {}


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """The denoiser of a network, x̂ = to_x0(network(z, λ)), by one evaluation.

    A dataclass and no closure, so that equal settings compare equal and compiled steps are used
    again, also by a stage that is loaded anew or whose sampler is replaced.

    Attributes:
      network: a `VideoUNet`.
      parameterization: what its output means, as in `DiffusionStage`.
    """

    network: DenoisingNetwork
    parameterization: str | Parameterization

    def __hash__(self) -> int:
        return hash(type(self.network))  # settings may be lists, which have no hash

    def __call__(
        self,
        params: Params,
        cond: Conditioning,
        z: Float[Array, "b t h w c"],
        logsnr: Float[Array, "b"],
        step: Int[Array, ""] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """Compute x̂ by one evaluation, neither guided nor thresholded.

        Args:
          params: parameters of the network.
          cond: what the network reads besides z.
          z: noisy clips.
          logsnr: λ of each.
          step: not read: it is the same at every step.

        Returns:
          x̂, about in [-1, 1].
        """
        del step
        out = self.network.apply(params, z, logsnr, cond, train=False)
        return by_name(self.parameterization).to_x0(out.astype(z.dtype), z, logsnr)


def at_weight(
    denoise: Callable[..., Array],
    cond: Conditioning,
    weights: Float[Array, "steps b"],
    z: Float[Array, "b t h w c"],
    logsnr: Float[Array, "b"],
    step: Int[Array, ""],
) -> Float[Array, "b t h w c"]:
    """Compute x̂ by a network that has the step's guidance weight as an input.

    Args:
      denoise: x̂ of (conditioning, z, log-SNR), such as a `Denoiser` with its parameters.
      cond: what the network reads besides z; its guidance weight is set here.
      weights: w of each step and clip.
      z: noisy clips.
      logsnr: λ of each.
      step: number of the sampling step, from 0.

    Returns:
      x̂, about in [-1, 1].
    """
    return denoise(cond.replace(guidance_weight=weights[step]), z, logsnr)
