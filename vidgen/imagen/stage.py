"""One diffusion model of the cascade: how it is trained and how it generates.

    training    u ~ times,  λ = schedule(u),  z = α x + σ ε
                loss = weight(λ) · mean (network(z, λ, conditioning) - target(x, ε, λ))²
    sampling    x̂ = to_x0(network(z, λ)),  guided, then thresholded;  z moves from noise to data

A stage may train on less than it generates, a window of frames or a crop of each frame: what it
generates is as large as its low-resolution video says.

The text of an example is dropped with a fixed rate, tokens and pooled path together, so that one
network gives both halves of classifier-free guidance (Imagen Video; Imagen).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vidgen import checks, traced
from vidgen.diffusion import guidance, parameterization, sampling, schedules
from vidgen.diffusion import known as known_content
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen import conditioning, self_conditioning
from vidgen.imagen.conditioning import Conditioner, NoLowRes
from vidgen.imagen.denoiser import Denoiser, DenoisingNetwork
from vidgen.imagen.earlier_frames import EarlierFrames
from vidgen.imagen.error_by_noise import by_noise
from vidgen.imagen.frame_rate import at_rate
from vidgen.imagen.guided import guided, guided_student
from vidgen.imagen.learned import Learned, check_no_negative, check_student
from vidgen.model import SampledModel
from vidgen.nn import axes
from vidgen.types import (
    ByValue,
    Conditioning,
    Frozen,
    Known,
    Mean,
    Metrics,
    OnStep,
    Params,
    TextEmbedding,
    TextMix,
    VideoBatch,
    VideoShape,
    null_text_where,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionStage(SampledModel):
    """A stage of the cascade.

    Attributes:
      name: "base", "tsr1", ...: also its gin scope.
      shape: the clip it generates.
      train_shape: the clip it trains on, a window of frames and pixels; None is `shape`.
      network: a `VideoUNet`.
      schedule: log-SNR as a function of u.
      times: distribution of u in training, or of the noise level itself.
      parameterization: what the network's output means: "v", "eps", "x0", "edm", "flow", or an
        object of diffusion/parameterization.py with settings, such as `Edm(sigma_data=0.3)`.
      loss_weight: weight of the squared error, as a function of log-SNR: a name in
        `parameterization.LOSS_WEIGHTS`, or an object with settings, such as `MinSnr(gamma=3)`.
      conditioner: what the network reads besides the text.
      guidance: classifier-free guidance and thresholding in sampling.
      sampler: steps and kind of sampler.
      text_drop_rate: share of training examples that lose their text (Imagen: 0.1).
      guidance_input: True of a distilled student (imagen/distillation.py): the guidance weight is
        an input of the network, and guidance costs one evaluation instead of two.
      learned: what a student may be asked for; None of a stage that is none, or is not known.
      self_conditioning: share of the batches whose network reads its own estimate in training
        (imagen/self_conditioning.py); 0 is a network without such an input. 2208.04202: 0.5.
      fps_condition: whether the network reads the frame rate of its clips (data/sources/rates.py).
      joint: whether it was trained on packs of images, too (data/sources/images.py); one frame by
        itself is then an image, and its temporal operators are passed over as theirs were.
    """

    name: str = "base"
    train_shape: VideoShape | None = None
    network: DenoisingNetwork
    schedule: schedules.LogSnrSchedule = schedules.Cosine()
    times: schedules.Times = schedules.UniformTimes()
    parameterization: str | parameterization.Parameterization = "v"
    loss_weight: str | parameterization.LossWeight = "v_mse"
    conditioner: Conditioner = NoLowRes()
    sampler: SamplerSpec = SamplerSpec(kind="ancestral", steps=256)
    text_drop_rate: float = 0.1
    guidance_input: bool = False
    learned: Learned | None = None
    self_conditioning: float = 0.0
    fps_condition: bool = False
    joint: bool = False

    def __post_init__(self) -> None:
        parameterization.by_name(self.parameterization)
        parameterization.loss_weight_by_name(self.loss_weight)
        checks.share(self, "text_drop_rate", "self_conditioning")
        if self.guidance_input:
            check_student(self.name, self.guidance, self._least)
        conditioning.check_parameterization(self.conditioner, self.parameterization)
        if self.learned is not None:
            self.learned.check(self.name, self.guidance, self.sampler)

    @property
    def _least(self) -> float:
        """The guidance weight of a student that is nearest to none."""
        return 0.0 if self.learned is None else self.learned.least_weight

    @property
    def input_shape(self) -> VideoShape | None:
        """The clip that the stage before must give; None for the base."""
        return conditioning.input_shape(self.shape, self.conditioner)

    @property
    def stride(self) -> int:
        """Height and width of a clip must be multiples of this."""
        return self.network.stride

    @property
    def operators(self) -> Mapping[str, tuple[int, ...]]:
        """The levels of the network that use each operator."""
        return self.network.operators

    @property
    def continues(self) -> int | None:
        """The most frames that it was trained to go on from; None: it was not trained to."""
        conditioner = self.conditioner
        return conditioner.frames if isinstance(conditioner, EarlierFrames) else None

    @property
    def lacks_single_frames(self) -> bool:
        """Whether it works over time, and was trained on clips of several frames alone."""
        temporal = any(self.operators.get(f"temporal {name}") for name in ("conv", "attention"))
        return temporal and not self.joint and (self.train_shape or self.shape).frames > 1

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"] | None:
        """Shrink clips to those of the stage before; see `Generator.degrade`."""
        return self.conditioner.degrade(video)

    def without_guidance(self) -> SampledModel:
        """Leave guidance out; a student stays as it is, as its weight costs nothing."""
        return self if self.guidance_input else super().without_guidance()

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> VideoBatch:
        """Describe a batch of clips of `train_shape` with their text; see `Model.batch_spec`."""
        sizes, spec = (batch_size, text_length, text_dim), jax.ShapeDtypeStruct
        return (
            super()
            .batch_spec(*sizes, captions_per_clip=captions_per_clip)
            .replace(
                video=spec((batch_size, *(self.train_shape or self.shape).thwc), jnp.float32),
                fps=spec((batch_size,), jnp.float32) if self.fps_condition else None,
            )
        )

    # ---- training ----------------------------------------------------------------------------

    def conditioned(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """Make the clean video to learn, and what the network gets besides its noisy copy.

        Args:
          batch: clips in [-1, 1] with their text.
          key: random key of the noise on the low-resolution video, or of the frames that are shown.

        Returns:
          The clips x, and the conditioning, with the frame rate where the network has it as an
          input.
        """
        x, cond = self.conditioner.for_training(batch, key)
        return x, at_rate(cond, batch.fps, self.shape.fps) if self.fps_condition else cond

    def init(self, key: Key[Array, ""], batch: VideoBatch) -> Params:
        """Draw fresh parameters of the network; see `Model.init`."""
        cond_key, init_key = jax.random.split(key)
        x, cond = self.conditioned(batch, cond_key)
        if self.guidance_input:
            cond = cond.replace(guidance_weight=jnp.zeros(x.shape[0]))
        if self.self_conditioning:
            cond = self_conditioning.without_estimate(cond, x.shape)
        return self.network.init(init_key, x, jnp.zeros(x.shape[0]), cond, train=False)

    def loss(
        self, params: Params, frozen: Frozen, batch: VideoBatch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the weighted denoising error, mean over the batch; see `Model.loss`.

        What is logged beside it: the share of the texts that were dropped, and the error by noise
        level.
        """
        del frozen
        cond_key, time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 5)
        x, cond = self.conditioned(batch, cond_key)
        logsnr = schedules.draw_logsnrs(self.times, self.schedule, time_key, x.shape[0])
        eps = schedules.draw_noise(noise_key, x.shape, x.dtype)
        dropped = jax.random.bernoulli(drop_key, self.text_drop_rate, (x.shape[0],))
        cond = cond.replace(text=null_text_where(dropped, cond.text))
        z = schedules.diffuse(x, eps, logsnr)
        if rate := self.self_conditioning:
            draw = {"key": jax.random.fold_in(drop_key, 1), "rate": rate}
            cond = self_conditioning.in_training(self._denoiser, params, cond, z, logsnr, **draw)
        rngs = {"dropout": dropout_key} if train else None
        out = self.network.apply(params, z, logsnr, cond, train=train, rngs=rngs)
        head = parameterization.by_name(self.parameterization)
        weight = parameterization.loss_weight_by_name(self.loss_weight)(head, logsnr)
        square = (out.astype(jnp.float32) - head.target(x, eps, logsnr)) ** 2
        if isinstance(self.conditioner, EarlierFrames):
            square = self.conditioner.of_new_frames(square, cond)
        error = weight * jnp.mean(square, axis=(1, 2, 3, 4))
        return jnp.mean(error), {"text_dropped": Mean.of(dropped), **by_noise(error, logsnr)}

    # ---- sampling ----------------------------------------------------------------------------

    def x0_fn(
        self,
        params: Params,
        cond: Conditioning,
        steps: int,
        known: Known | None = None,
        mix: TextMix | None = None,
        negative: TextEmbedding | None = None,
    ) -> guidance.X0Fn:
        """Build the denoiser of the sampler: guided, drawn towards known content, thresholded.

        Args:
          params: parameters of the network.
          cond: its conditioning, for b clips; that of the first prompt where there is a `mix`.
          steps: sampling steps.
          known: content that the rest is drawn to agree with, by `GuidanceSpec.reconstruction`.
          mix: two prompts a clip; x̂ is then between the guided predictions of both.
          negative: a prompt a clip that guidance leads away from; None is no text.

        Returns:
          x̂ of (z, log-SNR, step), a PyTree over parameters and conditioning.

        Raises:
          ValueError: a student has negative prompts.
        """
        spec = self.guidance
        if mix is not None:
            cond = guidance.pair(cond, cond.replace(text=mix.second))
            negative = None if negative is None else guidance.pair(negative, negative)
        network = (self._denoiser, params, cond, spec)
        if self.guidance_input:
            check_no_negative(self.name, negative)
            x0_fn = guided_student(*network, steps=steps, least=self._least)
        else:
            size = self._size(cond)
            x0_fn = guided(*network, steps=steps, size=size, negative=negative)
        if mix is not None:
            x0_fn = guidance.mixed(x0_fn, mix.weight)
        if known is not None:
            x0_fn = known_content.reconstruction_guidance(x0_fn, known, spec.reconstruction)
        return guidance.thresholded(x0_fn, method=spec.threshold, percentile=spec.percentile)

    def generate(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        *,
        on_step: OnStep | None = None,
        known: Known | None = None,
        negative: TextEmbedding | None = None,
        init: Float[Array, "b t h w c"] | None = None,
    ) -> Float[Array, "b t h w c"]:
        """Make videos by the stage's sampler; see `Generator.generate`.

        They are as long and as large as `low_res` says, `shape` for the base. Where `known` has
        content, that comes out unchanged, and the rest is made to go with it. With `on_step` the
        steps are run one by one, with the same result as the single compiled scan.

        Raises:
          ValueError: `init` comes without a strength below 1, or such a strength without `init`;
            `low_res` is missing, or not wanted; or `known` does not fit the clips.
        """
        x0_fn, z, keys = self._start(params, text, low_res, keys, known, negative)
        spec, levels = self.sampler, self.sampler.logsnrs(self.schedule)
        if (init is None) != (spec.strength == 1):
            raise ValueError(
                f"stage {self.name}: a video to begin with and a strength below 1 go together; "
                f"strength is {spec.strength}."
            )
        if init is not None:
            z = schedules.diffuse(init, z, jnp.asarray(levels[spec.first]))
        times = 1 if known is None else spec.resample
        walk = sampling.walk_of(spec.steps, first=spec.first, times=times, jump=spec.resample_jump)
        return sampling.sample(
            x0_fn, spec.sampler(), logsnrs=levels, z=z, keys=keys, walk=walk, on_step=on_step
        )

    def _start(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        keys: Key[Array, "b"],
        known: Known | None,
        negative: TextEmbedding | None = None,
    ) -> tuple[guidance.X0Fn, Float[Array, "b t h w c"], Key[Array, "b"]]:
        """Build the denoiser, and draw the noise and the keys that sampling starts from."""
        mix, first = (text, text.first) if isinstance(text, TextMix) else (None, text)
        args = (ByValue(self), keys, low_res, first, known)
        cond, z, keys = traced.call(_conditioned_noise, *args, static=(0,))
        x0_fn = self.x0_fn(params, cond, self.sampler.steps, known, mix, negative)
        if known is not None:
            x0_fn = known_content.replace_known(x0_fn, known, z)
        return x0_fn, z, keys

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one clip."""
        once = self.sampler.evaluations
        if self.guidance.is_unguided or self.guidance_input:
            return once
        levels = np.exp(-0.5 * self.sampler.logsnrs(self.schedule)[self.sampler.first : -1])
        return round(once * (1 + self.guidance.share_inside(levels)))

    def step_spec(
        self, params: Params, batch_size: int, text_length: int, text_dim: int
    ) -> tuple[Any, tuple[Any, ...]]:
        """Describe a step of the sampler, with guidance; see `SampledModel.step_spec`."""
        spec: Any = jax.ShapeDtypeStruct  # stands for the arrays
        text = self.batch_spec(batch_size, text_length, text_dim).text
        small = self.input_shape
        low_res = None if small is None else spec((batch_size, *small.thwc), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
        x0_fn, z, keys = jax.eval_shape(self._start, params, text, low_res, keys, None)
        leaves, tree = jax.tree.flatten(x0_fn)
        weights = jax.tree.leaves(params)  # the first of what the denoiser holds
        x0_fn = tree.unflatten([*weights, *leaves[len(weights) :]])
        level = spec((), z.dtype)
        sampler = self.sampler.sampler()
        step = (spec((), jnp.int32), (level,) * (3 + sampler.memory), spec((), jnp.bool_))
        carry = jax.eval_shape(lambda f, z: sampling.first_carry(f, sampler, z), x0_fn, z)
        return sampling.compiled_step, (x0_fn, sampler, keys, carry, *step)

    def _size(self, cond: Conditioning) -> tuple[int, int, int, int]:
        """Return (t, h, w, c) of the clips to generate."""
        t, h, w = self.shape.thwc[:3] if cond.low_res is None else cond.low_res.shape[1:4]
        return (t, h, w, self.shape.channels)

    def denoise(
        self,
        params: Params,
        cond: Conditioning,
        z: Float[Array, "b t h w c"],
        logsnr: Float[Array, "b"],
    ) -> Float[Array, "b t h w c"]:
        """Compute x̂ by one evaluation of the network: neither guided nor thresholded.

        Args:
          params: parameters of the network.
          cond: what the network reads besides z; a missing estimate is one of 0.
          z: noisy clips.
          logsnr: λ of each.

        Returns:
          x̂, about in [-1, 1].
        """
        if self.self_conditioning and cond.estimate is None:
            cond = self_conditioning.without_estimate(cond, z.shape)
        return self._denoiser(params, cond, z, logsnr)

    @property
    def _denoiser(self) -> Denoiser:
        return Denoiser(self.network, self.parameterization)


# One program, where single operations would be 120 of the demo's seven stages. It lays the arrays
# out over the mesh as activations are: each device makes its own part of the noise, and a mesh
# whose devices do not divide an axis is no error. The keys come first, since JAX gives results the
# layout of the first argument where that is equal, in the words in which it was given ("data" of
# one device): z would then not be laid out as the result of a step, which was compiled twice.
@functools.partial(jax.jit, static_argnums=0)
def _conditioned_noise(
    by_value: ByValue[DiffusionStage],
    keys: Key[Array, "b"],
    low_res: Float[Array, "b t0 h0 w0 c"] | None,
    text: TextEmbedding,
    known: Known | None,
) -> tuple[Conditioning, Float[Array, "b t h w c"], Key[Array, "b"]]:
    """Make what the network gets besides z, the z that sampling starts from, and its keys."""
    stage = by_value.value
    split = jax.vmap(jax.random.split)(keys)
    cond = stage.conditioner.for_sampling(low_res, text, split[:, 0])
    if stage.fps_condition:
        cond = at_rate(cond, None, stage.shape.fps)
    if isinstance(stage.conditioner, EarlierFrames):
        cond = stage.conditioner.with_known(cond, known, stage.shape.thwc)
    if cond.low_res is not None:
        cond = cond.replace(low_res=axes.constrain_video(cond.low_res))
    size = stage._size(cond)
    if stage.joint and size[0] == 1:
        cond = cond.replace(independent_frames=jnp.ones(len(keys), bool))
    z = axes.constrain_video(sampling.initial_noise(split[:, 1], size))
    if stage.self_conditioning:
        cond = self_conditioning.without_estimate(cond, z.shape)
    return cond, z, split[:, 1]
