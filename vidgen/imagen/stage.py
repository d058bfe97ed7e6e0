"""One diffusion model of the cascade: how it is trained and how it generates.

    training    u ~ times,  λ = schedule(u),  z = α x + σ ε
                loss = weight(λ) · mean (network(z, λ, conditioning) - target(x, ε, λ))²
    sampling    x̂ = to_x0(network(z, λ)),  guided, then thresholded;  z moves from noise to data

The text of an example is dropped with a fixed rate, tokens and pooled path together, so that one
network gives both halves of classifier-free guidance (Imagen Video; Imagen).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vidgen.diffusion import guidance, parameterization, samplers, schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import Conditioner, NoLowRes, drop_text
from vidgen.types import (
    Conditioning,
    Frozen,
    Mean,
    Metrics,
    Params,
    TextEmbedding,
    VideoBatch,
    VideoShape,
    null_text,
)


@runtime_checkable
class Network(Protocol):
    """A pair of pure functions: a Linen module whose call denoises (imagen/unet.py)."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Params:
        """Fresh parameters."""
        ...

    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:
        """The raw output for (z, logsnr, conditioning, train=...)."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionStage:
    """A stage of the cascade; satisfies the trainer's `Model`.

    Attributes:
      name: "base", "tsr1", ...: also its gin scope.
      shape: the clip it generates.
      network: a `VideoUNet`.
      schedule: log-SNR as a function of u.
      times: distribution of u in training.
      parameterization: what the network's output means: "v", "eps" or "x0".
      loss_weight: of the squared error, as a function of log-SNR: "v_mse", "eps_mse", ... (see
        diffusion/parameterization.py).
      conditioner: what the network is told besides the text.
      guidance: classifier-free guidance and thresholding in sampling.
      sampler: steps and kind of sampler.
      text_drop_rate: share of training examples that lose their text (Imagen: 0.1).
      published_parameters: size in the paper, for `vidgen plan`; None where there is none.
    """

    name: str = "base"
    shape: VideoShape
    network: Network
    schedule: schedules.LogSnrSchedule = schedules.Cosine()
    times: schedules.TimeSampler = schedules.UniformTimes()
    parameterization: str = "v"
    loss_weight: str = "v_mse"
    conditioner: Conditioner = NoLowRes()
    guidance: GuidanceSpec = GuidanceSpec()
    sampler: SamplerSpec = SamplerSpec(kind="ancestral", steps=256)
    text_drop_rate: float = 0.1
    published_parameters: float | None = None

    def __post_init__(self) -> None:
        parameterization.by_name(self.parameterization)
        parameterization.loss_weight_by_name(self.loss_weight)
        if not 0 <= self.text_drop_rate <= 1:
            raise ValueError(
                f"DiffusionStage.text_drop_rate is {self.text_drop_rate}; it must be in [0, 1]."
            )

    def batch_spec(self, batch_size: int, text_length: int, text_dim: int) -> VideoBatch:
        """The shapes of a training batch."""
        spec: Any = jax.ShapeDtypeStruct  # stands for the arrays
        return VideoBatch(
            video=spec((batch_size, *self.shape.thwc), jnp.float32),
            text=TextEmbedding(
                tokens=spec((batch_size, text_length, text_dim), jnp.float32),
                mask=spec((batch_size, text_length), jnp.bool_),
            ),
            independent_frames=spec((batch_size,), jnp.bool_),
        )

    # ---- training ----------------------------------------------------------------------------

    def init(self, key: Key[Array, ""], batch: VideoBatch) -> Params:
        """Fresh parameters, boxed with their logical axis names."""
        cond_key, init_key = jax.random.split(key)
        x, cond = self.conditioner.for_training(batch, cond_key)
        return self.network.init(init_key, x, jnp.zeros(x.shape[0]), cond, train=False)

    def loss(
        self, params: Params, frozen: Frozen, batch: VideoBatch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted denoising error, mean over the batch, and the same by noise level."""
        del frozen
        cond_key, time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 5)
        x, cond = self.conditioner.for_training(batch, cond_key)
        logsnr = self.schedule(self.times(time_key, x.shape[0]))
        eps = jax.random.normal(noise_key, x.shape, x.dtype)
        dropped = jax.random.bernoulli(drop_key, self.text_drop_rate, (x.shape[0],))
        cond = cond.replace(text=drop_text(cond.text, dropped))
        out = self.network.apply(
            params,
            schedules.diffuse(x, eps, logsnr),
            logsnr,
            cond,
            train=train,
            rngs={"dropout": dropout_key} if train else None,
        )
        head = parameterization.by_name(self.parameterization)
        weight = parameterization.loss_weight_by_name(self.loss_weight)(head, logsnr)
        square = (out.astype(jnp.float32) - head.target(x, eps, logsnr)) ** 2
        error = weight * jnp.mean(square, axis=(1, 2, 3, 4))
        return jnp.mean(error), {"text_dropped": Mean.of(dropped), **_by_noise(error, logsnr)}

    # ---- sampling ----------------------------------------------------------------------------

    def x0_fn(self, params: Params, cond: Conditioning, steps: int) -> guidance.X0Fn:
        """What the sampler sees: clean video, guided and thresholded.

        Guidance evaluates both halves in one batch of twice the size; without guidance the network
        is evaluated once, and its conditional prediction is returned bit for bit.
        """
        if self.guidance.is_unguided:
            x0_fn = jax.tree_util.Partial(self._denoise, params, cond)
        else:
            both = guidance.pair(cond, cond.replace(text=null_text(cond.text)))
            x0_fn = guidance.classifier_free_batched(
                jax.tree_util.Partial(self._denoise, params, both), self.guidance.weights(steps)
            )
        spec = self.guidance
        return guidance.thresholded(x0_fn, method=spec.threshold, percentile=spec.percentile)

    def generate(
        self,
        params: Params,
        text: TextEmbedding,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """Videos for `text`, in about [-1, 1]; each depends on its own text and key alone.

        With `on_step(done, total)` the steps are run one by one, with the same result as the
        single compiled scan.
        """
        split = jax.vmap(jax.random.split)(keys)
        cond = self.conditioner.for_sampling(low_res, text, split[:, 0])
        logsnrs = self.sampler.logsnrs(self.schedule)
        run: dict[str, Any] = dict(
            logsnrs=logsnrs,
            z=samplers.initial_noise(split[:, 1], self.shape.thwc),
            keys=split[:, 1],
        )
        x0_fn = self.x0_fn(params, cond, self.sampler.steps)
        if on_step is None:
            return samplers.sample(x0_fn, self.sampler.transition(), **run)
        return samplers.sample_stepwise(x0_fn, self.sampler.transition(), on_step=on_step, **run)

    def _denoise(
        self,
        params: Params,
        cond: Conditioning,
        z: Float[Array, "b t h w c"],
        logsnr: Float[Array, "b"],
        step: Any,
    ) -> Float[Array, "b t h w c"]:
        del step
        out = self.network.apply(params, z, logsnr, cond, train=False)
        head = parameterization.by_name(self.parameterization)
        return head.to_x0(out.astype(z.dtype), z, logsnr)


def _by_noise(error: Float[Array, "b"], logsnr: Float[Array, "b"]) -> dict[str, Mean]:
    """The mean error over three ranges of log-SNR: below -2, to 2, above."""
    noisy, clean = logsnr < -2, logsnr > 2
    return {
        "loss_noisy": Mean.of(error, noisy),
        "loss_middle": Mean.of(error, ~(noisy | clean)),
        "loss_clean": Mean.of(error, clean),
    }
