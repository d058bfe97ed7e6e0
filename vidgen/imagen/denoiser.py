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
        """Draw fresh parameters for the arguments of a call."""

    @abc.abstractmethod
    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:  # as Linen's
        """Compute the raw output "b t h w c" for (z, log-SNR, conditioning, train=...)."""

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
    """A dataclass, not a method: equal settings compare equal, so compiled steps are reused.

    By a stage that is loaded again, too, or whose sampling is replaced.

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
        """Compute x̂ by one evaluation, the same at every step: neither guided nor thresholded."""
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
    """Compute x̂ by a network that has the step's guidance weight as an input."""
    return denoise(cond.replace(guidance_weight=weights[step]), z, logsnr)
