"""Students that need few steps: guided, then progressive distillation (Imagen Video; 2210.03142).

A student begins as a copy of its teacher, with the guidance weight w as one more input:

    guidance      x̂(z, w)  matches  (1 + w) x̂_T(z, text) - w x̂_T(z),   u ~ U[0, 1], w ~ U[range]
    progressive   one DDIM step of the student  t -> s  matches two of the teacher  t -> m -> s
                  on the grid u = i/N;  then N <- N/2 and the student is the teacher (2202.00512)

What guidance adds, w (x̂_T(z, text) - x̂_T(z)), is affine in w and depends on text and video: the
student's network has an output for it that w multiplies (`VideoUNet.guidance_head`), besides w in
its conditioning vector. By the latter alone, which starts at zero, a student made a tenth as much
of the teacher's change after 250 updates (`benchmarks/guidance_response.py` measures it).

With a = e^{(λ_t-λ_m)/2} and b = e^{(λ_m-λ_s)/2}, two DDIM steps with the predictions x̂₁ and x̂₂ are

    z_s = (σ_s/σ_t) z + α_s [b (1 - a) x̂₁ + (1 - b) x̂₂]
    x̃   = ω x̂₁ + (1 - ω) x̂₂,    ω = b (1 - a)/(1 - a b),

so the one prediction x̃ that lands at the same z_s is a mean of the two, whatever z is. Nothing
cancels: the paper's form of it, (z_s - (σ_s/σ_t) z)/(α_s - (σ_s/σ_t) α_t), is 0/0 where s is data.
There b = 0 and x̃ = x̂₂, as a sampler's last step returns x̂ itself. λ_s = inf says so.

The N-step stochastic sampler goes down by 2/N and back up by noise by 1/N, and takes a last step of
1/N to data. So a student for it learns jumps of 2/N from every t = i/N, made of two steps 1/N of
the N-step student, for i >= 2; and for i = 1, where there is no room for two, the teacher's own
single step (m = s, so that b = 1 and ω = 1). The paper prints no more of this than that the ends
are special. [guess]

Learned in the network's own output space with the stage's loss weight; v output and v_mse is the
paper's "SNR + 1". Predictions are not thresholded in training, no text is dropped, and there is no
dropout: the target is a function of what the student sees.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vidgen.diffusion import guidance, parameterization, samplers, schedules
from vidgen.diffusion.schedules import LogSnr, draw_noise, expand
from vidgen.imagen.error_by_noise import by_noise
from vidgen.imagen.learned import checked_range
from vidgen.imagen.stage import DiffusionStage
from vidgen.model import Student
from vidgen.types import (
    Conditioning,
    Frozen,
    Metrics,
    Params,
    TextEmbedding,
    TextMix,
    VideoBatch,
    VideoShape,
    null_text,
)

Denoise = Callable[[Float[Array, "b *x"], Float[Array, "b"]], Float[Array, "b *x"]]


class DistillationLevels(NamedTuple):
    """Where a step of the student begins (t) and ends (s), and where its teacher stops halfway."""

    t: Float[Array, "b"]
    mid: Float[Array, "b"]
    s: Float[Array, "b"]


def two_step_target(
    teacher: Denoise,
    z: Float[Array, "b *x"],
    logsnr_t: LogSnr,
    logsnr_mid: LogSnr,
    logsnr_s: LogSnr,
) -> Float[Array, "b *x"]:
    """Compute the x0 whose one DDIM step t -> s lands where two steps of the teacher land.

    Args:
      teacher: x̂ for (z, log-SNR).
      z: at the level t.
      logsnr_t: where the steps begin, λ_t < λ_mid.
      logsnr_mid: where the teacher's first step ends, λ_mid <= λ_s.
      logsnr_s: where they end; inf is data, where a sampler's last step returns x̂ itself.

    Returns:
      x̃ = ω x̂₁ + (1 - ω) x̂₂ of the module's docstring.
    """
    t, mid, s = (jnp.broadcast_to(level, z.shape[:1]) for level in (logsnr_t, logsnr_mid, logsnr_s))
    first = teacher(z, t)
    second = teacher(samplers.ddim_step(z, first, t, mid), mid)
    share = jnp.exp(0.5 * (mid - s)) * jnp.expm1(0.5 * (t - mid)) / jnp.expm1(0.5 * (t - s))
    share = expand(share, z).astype(z.dtype)
    return share * first + (1 - share) * second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Student):
    """What both phases share: a student is drawn towards the output of its teacher.

    Attributes:
      stage: the student.
      weight_range: guidance weights w that it learns, drawn evenly. 2210.03142 takes 0 to 4 for
        pixels; Imagen Video, which samples with up to 15, prints none.
    """

    name: str = dataclasses.field(init=False)
    shape: VideoShape = dataclasses.field(init=False)
    stage: DiffusionStage
    weight_range: Sequence[float] = (0.0, 4.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.stage.name)
        object.__setattr__(self, "shape", self.stage.shape)
        object.__setattr__(self, "weight_range", checked_range(self.weight_range))
        if not self.stage.guidance_input:
            raise ValueError(f"the stage {self.stage.name} is no student; make one by `student`.")

    @property
    @abc.abstractmethod
    def teacher(self) -> DiffusionStage:
        """The stage that the frozen parameters belong to."""

    @abc.abstractmethod
    def levels(self, key: Key[Array, ""], batch_size: int) -> DistillationLevels:
        """Draw the noise levels of a training batch.

        Args:
          key: random key of the draw.
          batch_size: examples b.

        Returns:
          λ where each example's step begins, where the teacher stops halfway, and where it ends.
        """

    @abc.abstractmethod
    def target(
        self,
        teacher: Params,
        cond: Conditioning,
        weight: Float[Array, "b"],
        z: Float[Array, "b t h w c"],
        levels: DistillationLevels,
    ) -> Float[Array, "b t h w c"]:
        """Compute what the student should output for z at `levels.t`.

        Args:
          teacher: parameters of the teacher.
          cond: what the network reads besides z.
          weight: guidance weight w of each example, in `weight_range`.
          z: noisy clips at `levels.t`.
          levels: noise levels of the steps, as drawn by `levels`.

        Returns:
          The target in the space of the network's output (`DiffusionStage.parameterization`).
        """

    def loss(
        self, params: Params, frozen: Frozen, batch: VideoBatch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the weighted squared distance to the teacher; see `Model.loss`.

        What is logged beside it is the same error by noise level. The mode `train` changes nothing.
        """
        del train
        stage, size = self.stage, batch.video.shape[0]
        cond_key, time_key, noise_key, weight_key = jax.random.split(key, 4)
        x, cond = stage.conditioned(batch, cond_key)
        levels = self.levels(time_key, size)
        eps = draw_noise(noise_key, x.shape, x.dtype)
        z = schedules.diffuse(x, eps, levels.t)
        low, high = self.weight_range
        weight = jax.random.uniform(weight_key, (size,), minval=low, maxval=high)
        target = jax.lax.stop_gradient(self.target(frozen["teacher"], cond, weight, z, levels))
        cond = cond.replace(guidance_weight=weight)
        out = stage.network.apply(params, z, levels.t, cond, train=False)
        head = parameterization.by_name(stage.parameterization)
        scale = parameterization.loss_weight_by_name(stage.loss_weight)(head, levels.t)
        square = (out.astype(jnp.float32) - target) ** 2
        error = scale * jnp.mean(square, axis=(1, 2, 3, 4))
        return jnp.mean(error), by_noise(error, levels.t)

    # ---- what else a run asks of a model ---------------------------------------------------------

    def init(self, key: Key[Array, ""], batch: VideoBatch) -> Params:
        """Draw fresh parameters of the student; see `Model.init`."""
        return self.stage.init(key, batch)

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> VideoBatch:
        """Describe a training batch, which is that of the stage; see `Model.batch_spec`."""
        sizes = (batch_size, text_length, text_dim)
        return self.stage.batch_spec(*sizes, captions_per_clip=captions_per_clip)

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"] | None:
        """Shrink clips to those of the stage before; see `Generator.degrade`."""
        return self.stage.degrade(video)

    def generate(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        **more: Any,
    ) -> Float[Array, "b t h w c"]:
        """Make clips with the student as it is now; see `Generator.generate`."""
        return self.stage.generate(params, text, low_res, keys, **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceDistillation(Distillation):
    """First phase: guidance in one evaluation instead of two, at any noise level.

    Attributes:
      times: distribution of u in training.
    """

    times: schedules.Times = schedules.UniformTimes()

    @property
    def teacher(self) -> DiffusionStage:
        """The stage as it was trained, without the guidance weight as an input."""
        return dataclasses.replace(self.stage, guidance_input=False, learned=None)

    def levels(self, key: Key[Array, ""], batch_size: int) -> DistillationLevels:
        """Draw one level each, as there is no step to take; see `Distillation.levels`."""
        logsnr = schedules.draw_logsnrs(self.times, self.stage.schedule, key, batch_size)
        return DistillationLevels(logsnr, logsnr, logsnr)

    def target(
        self,
        teacher: Params,
        cond: Conditioning,
        weight: Float[Array, "b"],
        z: Float[Array, "b t h w c"],
        levels: DistillationLevels,
    ) -> Float[Array, "b t h w c"]:
        """Guide the teacher's outputs, which is the same as guiding x̂; see `Distillation.target`.

        Every output space is affine in x0 with weights that add to one (diffusion/guidance.py).
        """
        both = guidance.pair(cond, cond.replace(text=null_text(cond.text)))
        noisy, logsnr = guidance.pair(z, z), guidance.pair(levels.t, levels.t)
        out = self.stage.network.apply(teacher, noisy, logsnr, both, train=False)
        out = out.astype(jnp.float32)
        return guidance.guide(out[0::2], out[1::2], weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressiveDistillation(Distillation):
    """A halving, or the last phase for the stochastic sampler; see the module docstring.

    Attributes:
      steps: N, sampling steps of the student. Its teacher is a student of 2N steps, or of N steps
        if `stochastic`.
      stochastic: learn jumps of 2/N, for the N-step stochastic sampler.
    """

    steps: int
    stochastic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 + self.stochastic:
            raise ValueError(
                f"ProgressiveDistillation.steps is {self.steps}; it must be >= "
                f"{1 + self.stochastic}{' for the stochastic sampler' * self.stochastic}."
            )
        if parameterization.by_name(self.stage.parameterization) == parameterization.EPS:
            raise ValueError(
                "a model with eps output cannot be distilled: it says nothing of the data where "
                "there is only noise, at the first of few steps; train one with v output."
            )

    @property
    def teacher(self) -> DiffusionStage:
        """The student of the phase before."""
        return self.stage

    def levels(self, key: Key[Array, ""], batch_size: int) -> DistillationLevels:
        """Draw a step from t = i/N, i even in 1 ... N; see `Distillation.levels`."""
        u = schedules.UniformTimes()(key, batch_size)
        return self.step_levels(jnp.minimum(jnp.floor(u * self.steps), self.steps - 1) + 1)

    def step_levels(self, i: Float[Array, "b"]) -> DistillationLevels:
        """Compute the levels of the step from t = i/N.

        Args:
          i: number of the step from the end: whole numbers in 1 ... N.

        Returns:
          λ at t, halfway and at the end; inf stands for data.
        """

        def level(j: Float[Array, "b"]) -> Float[Array, "b"]:
            return self.stage.schedule(jnp.maximum(j, 0) / self.steps)

        if not self.stochastic:
            return DistillationLevels(
                level(i), level(i - 0.5), jnp.where(i == 1, jnp.inf, level(i - 1))
            )
        return DistillationLevels(level(i), level(i - 1), jnp.where(i == 2, jnp.inf, level(i - 2)))

    def target(
        self,
        teacher: Params,
        cond: Conditioning,
        weight: Float[Array, "b"],
        z: Float[Array, "b t h w c"],
        levels: DistillationLevels,
    ) -> Float[Array, "b t h w c"]:
        """Compute the output that stands for `two_step_target`; see `Distillation.target`."""
        cond = cond.replace(guidance_weight=weight)

        def denoise(z: Float[Array, "b t h w c"], logsnr: Float[Array, "b"]) -> Array:
            return self.stage.denoise(teacher, cond, z, logsnr)

        x0 = two_step_target(denoise, z, *levels)
        eps = parameterization.eps_from_x0(x0, z, levels.t)
        head = parameterization.by_name(self.stage.parameterization)
        return head.target(x0, eps, levels.t)
