"""What a stage reads besides its noisy video: the text, and for later stages a smaller video.

    training    low = degrade(video),  low' = α low + σ n,  the network sees up(low') and log α²/σ²
    sampling    low = what the stage before made; the same at a fixed, small level of noise

`degrade` is what tells two stages apart: averaging squares of pixels (spatial super-resolution) or
skipping frames (temporal). `up` is bilinear in space; in time it repeats frames or leaves blanks,
and a mask tells the frames that were there from those that were not. The noise makes up for the
difference between true videos and those of the stage before, so that all stages can be trained at
the same time (Imagen Video, noise conditioning augmentation; cascaded diffusion, 2106.15282).

Dropping the text for classifier-free guidance zeroes the tokens *and* the mask, so the
cross-attention and the pooled vector both lose it (Imagen).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vidgen import checks
from vidgen.diffusion import samplers, schedules
from vidgen.diffusion.parameterization import X0, Parameterization, by_name
from vidgen.diffusion.schedules import expand
from vidgen.imagen.preconditioning import residual_variance
from vidgen.types import Conditioning, TextEmbedding, VideoBatch, VideoShape

FILLS = ("repeat", "blank", "interpolate")
NOISED = ("input", "upsampled")


@runtime_checkable
class Conditioner(Protocol):
    """How a stage makes its training target and its conditioning."""

    @property
    def factors(self) -> tuple[int, int]:
        """How much more the stage gives than it gets: (frames, pixels along a side)."""
        ...

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"] | None:
        """Shrink a video to what the stage before would have made.

        Args:
          video: clips in [-1, 1].

        Returns:
          Smaller clips in [-1, 1]; None where there is no stage before.
        """
        ...

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """Make the clean video to learn, and the conditioning of the network.

        Args:
          batch: clips in [-1, 1] with their text.
          key: random key of the noise and its level.

        Returns:
          The clips x that the network learns to restore, and what it gets besides their noisy copy.
        """
        ...

    def for_sampling(
        self,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        text: TextEmbedding,
        keys: Key[Array, "b"],
    ) -> Conditioning:
        """Make the conditioning of the network when it generates.

        Args:
          low_res: clips of the stage before, in [-1, 1]; None for the base.
          text: one prompt a clip.
          keys: random keys of the noise on `low_res`, one a clip.

        Returns:
          What the network gets besides the noisy video.

        Raises:
          ValueError: `low_res` is missing, or not wanted.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Noise on the low-resolution video, at a level that the network reads too.

    Attributes:
      times: distribution of the level in training, as times of `schedule`; neither paper prints
        it. Imagen draws it evenly.
      schedule: log-SNR of a time.
      sampling_logsnr: level when generating; None leaves the video clean. Imagen Video takes "an
        SNR of 3 or 5", which may mean log-SNR 1.1 and 1.6, or 3 and 5. [guess] 3, as the noise is
        called small. The demo takes 7: at 3 the restored clips of its `ssr1` had 21.3 dB against
        the truth, at 6 24.0 (500 steps).
      noised: "input" noises the video before it is up-sampled, as cascaded diffusion does, so
        that the noise is as coarse as the stage before; "upsampled" after it.
    """

    times: schedules.Times = schedules.UniformTimes()
    schedule: schedules.LogSnrSchedule = schedules.Cosine()
    sampling_logsnr: float | None = 3.0
    noised: str = "input"

    def __post_init__(self) -> None:
        checks.one_of(self, noised=NOISED)

    def training_level(self, key: Key[Array, ""], batch_size: int) -> Float[Array, "b"]:
        """Draw the log-SNR of each example's noise; see `schedules.draw_logsnrs`."""
        return schedules.draw_logsnrs(self.times, self.schedule, key, batch_size)

    def sampling_level(self, batch_size: int) -> Float[Array, "b"]:
        """Give every example the same log-SNR, the cleanest of all where there is no noise.

        Args:
          batch_size: examples b.

        Returns:
          `sampling_logsnr` for each; `LOGSNR_MAX`, 20, where that is None.
        """
        if self.sampling_logsnr is None:
            return jnp.full((batch_size,), schedules.LOGSNR_MAX)
        return jnp.full((batch_size,), self.sampling_logsnr)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoLowRes:
    """The conditioner of the base stage: text alone."""

    @property
    def factors(self) -> tuple[int, int]:
        """(1, 1): the base stage makes every frame and pixel itself."""
        return (1, 1)

    def degrade(self, video: Float[Array, "b t h w c"]) -> None:
        """Return None, as there is no stage before the base; see `Conditioner.degrade`."""

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """Return the batch's own video, conditioned on its text; see `Conditioner.for_training`."""
        del key
        return batch.video, Conditioning(
            text=batch.text, independent_frames=batch.independent_frames
        )

    def for_sampling(
        self,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        text: TextEmbedding,
        keys: Key[Array, "b"],
    ) -> Conditioning:
        """Condition on the text alone; see `Conditioner.for_sampling`.

        Raises:
          ValueError: there is a low-resolution video.
        """
        del keys
        if low_res is not None:
            raise ValueError("the base stage takes no low-resolution video; start at a later one.")
        video = jnp.zeros(text.mask.shape[:1], bool)
        return Conditioning(text=text, independent_frames=video)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsample(abc.ABC):
    """Up-sampling by a factor; `SpatialUpsample` and `TemporalUpsample` say along which axes.

    Attributes:
      factor: how many frames, or pixels along each side, come out for one that goes in.
      augmentation: the noise on what goes in.
      residual_std: standard deviation of the difference between a video and what `up` makes of its
        small copy, in the frames that are not in it (all of them in space). With it the network
        learns that difference alone (imagen/preconditioning.py), and "x0" is its parameterization;
        None, as in the paper, has it learn the whole video.
    """

    factor: int = 2
    augmentation: Augmentation = Augmentation()
    residual_std: float | None = None

    def __post_init__(self) -> None:
        checks.at_least(self, factor=2)
        checks.positive(self, "residual_std")

    @property
    @abc.abstractmethod
    def factors(self) -> tuple[int, int]:
        """How much more the stage gives than it gets: (frames, pixels along a side)."""

    @abc.abstractmethod
    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"]:
        """Shrink clips to the size of the stage before; see `Conditioner.degrade`."""

    @abc.abstractmethod
    def up(self, low: Float[Array, "b t0 h0 w0 c"]) -> Float[Array, "b t h w c"]:
        """Enlarge small clips to the size of the stage's output.

        Args:
          low: clips of the stage before.

        Returns:
          Clips of `factors` times the size; frames that the fill "blank" leaves out are 0.
        """

    @abc.abstractmethod
    def known_frames(self, low: Float[Array, "b t0 h0 w0 c"]) -> Bool[Array, "b t"] | None:
        """Mark the frames of the output that are in `low`.

        Args:
          low: clips of the stage before.

        Returns:
          True where a frame of the output is one of the input; None where all are.
        """

    def for_training(
        self, batch: VideoBatch, key: Key[Array, ""]
    ) -> tuple[Float[Array, "b t h w c"], Conditioning]:
        """Condition clips on their degraded, noised copies; see `Conditioner.for_training`."""
        level_key, noise_key = jax.random.split(key)
        low = self.degrade(batch.video)
        logsnr = self.augmentation.training_level(level_key, low.shape[0])
        keys = jax.random.split(noise_key, low.shape[0])
        return batch.video, self._conditioning(
            low, logsnr, keys, batch.text, batch.independent_frames
        )

    def for_sampling(
        self,
        low_res: Float[Array, "b t0 h0 w0 c"] | None,
        text: TextEmbedding,
        keys: Key[Array, "b"],
    ) -> Conditioning:
        """Condition on the slightly noised video and the text; see `Conditioner.for_sampling`."""
        if low_res is None:
            raise ValueError(
                f"{type(self).__name__} needs the video of the stage before; generate with the "
                "whole cascade, or give a video (--from, --init)."
            )
        logsnr = self.augmentation.sampling_level(low_res.shape[0])
        videos = jnp.zeros(text.mask.shape[:1], bool)
        return self._conditioning(low_res, logsnr, keys, text, videos)

    def _conditioning(
        self,
        low: Float[Array, "b t0 h0 w0 c"],
        logsnr: Float[Array, "b"],
        keys: Key[Array, "b"],
        text: TextEmbedding,
        independent: Bool[Array, "b"],
    ) -> Conditioning:
        """Noise and up-sample a small video, and note the level of noise and the known frames."""
        noise_first = self.augmentation.noised == "input"
        low_res = self.up(_noised(low, logsnr, keys) if noise_first else low)
        if not noise_first:
            low_res = _noised(low_res, logsnr, keys)
        known = self.known_frames(low)
        shown = jnp.ones(low_res.shape[:2], bool)
        if known is not None:
            # An unrelated image tells nothing of its neighbour, nor does a blank.
            filled = self.up(jnp.ones_like(low))[:, :, 0, 0, 0] > 0
            shown = known | (filled & ~independent[:, None])
            low_res = jnp.where(expand(shown, low_res), low_res, 0)
        return Conditioning(
            text=text,
            independent_frames=independent,
            low_res=low_res,
            aug_logsnr=logsnr,
            low_res_variance=residual_variance(self.residual_std, logsnr, known, shown),
            known_frames=known,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpatialUpsample(Upsample):
    """Spatial super-resolution: the same frames, `factor` times as high and as wide."""

    @property
    def factors(self) -> tuple[int, int]:
        """(1, factor): as many frames, and so many times the pixels along a side."""
        return (1, self.factor)

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h0 w0 c"]:
        """Average squares of factor x factor pixels; see `Conditioner.degrade`.

        It is anti-aliased, as the data is resized.

        Raises:
          ValueError: height or width is no multiple of the factor.
        """
        b, t, h, w, c = video.shape
        f = self.factor
        if h % f or w % f:
            raise ValueError(f"frames of {h}x{w} do not shrink by {f}; take multiples of {f}.")
        return video.reshape(b, t, h // f, f, w // f, f, c).mean((3, 5))

    def up(self, low: Float[Array, "b t h0 w0 c"]) -> Float[Array, "b t h w c"]:
        """Enlarge frames bilinearly; see `Upsample.up`."""
        b, t, h, w, c = low.shape
        return jax.image.resize(low, (b, t, h * self.factor, w * self.factor, c), "bilinear")

    def known_frames(self, low: Float[Array, "b t h0 w0 c"]) -> None:
        """Return None, as every frame is known; see `Upsample.known_frames`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalUpsample(Upsample):
    """Temporal super-resolution: `factor` times as many frames of the same size.

    Frame i of the input is frame factor * i of the output. Repeating and blanks are both in the
    paper, which does not say where it takes which; a mask tells the network.

    Attributes:
      fill: what stands in a gap: "repeat" the frame before, "blank" zeros, "interpolate" the frames
        before and after in proportion (the last frame is repeated), which is not in the paper.
    """

    fill: str = "repeat"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(self, fill=FILLS)

    @property
    def factors(self) -> tuple[int, int]:
        """(factor, 1): so many times the frames, of the same size."""
        return (self.factor, 1)

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h w c"]:
        """Keep every factor-th frame, from the first; see `Conditioner.degrade`.

        Raises:
          ValueError: the number of frames is no multiple of the factor.
        """
        if video.shape[1] % self.factor:
            raise ValueError(
                f"a clip of {video.shape[1]} frames cannot be made from every {self.factor}th of "
                f"them; take a multiple of {self.factor}."
            )
        return video[:, :: self.factor]

    def up(self, low: Float[Array, "b t0 h w c"]) -> Float[Array, "b t h w c"]:
        """Show each frame once, and fill the gap after it; see `Upsample.up`."""
        video = jnp.repeat(low, self.factor, axis=1)
        if self.fill == "interpolate":
            after = jnp.repeat(jnp.concatenate([low[:, 1:], low[:, -1:]], 1), self.factor, axis=1)
            share = jnp.arange(video.shape[1]) % self.factor / self.factor
            return video + share[:, None, None, None] * (after - video)
        if self.fill == "repeat":
            return video
        return jnp.where(expand(self.known_frames(low), video), video, 0)

    def known_frames(self, low: Float[Array, "b t0 h w c"]) -> Bool[Array, "b t"]:
        """Mark every factor-th frame, from the first; see `Upsample.known_frames`."""
        known = jnp.arange(low.shape[1] * self.factor) % self.factor == 0
        return jnp.broadcast_to(known, (low.shape[0], known.size))


def check_parameterization(conditioner: Conditioner, choice: str | Parameterization) -> None:
    """Check that a network which learns a residual gives x0.

    Args:
      conditioner: the conditioner of the stage; only one with `residual_std` asks for it.
      choice: the parameterization of the stage, as `DiffusionStage.parameterization`.

    Raises:
      ValueError: the conditioner has a `residual_std`, and the output means anything but x0.
    """
    residual = isinstance(conditioner, Upsample) and conditioner.residual_std is not None
    if residual and by_name(choice) != X0:
        raise ValueError(
            f"DiffusionStage.parameterization is {choice!r}, but with "
            f"{type(conditioner).__name__}.residual_std a network gives x0; set 'x0'."
        )


def input_shape(shape: VideoShape, conditioner: Conditioner) -> VideoShape | None:
    """Compute the clip from which a stage makes one of `shape`.

    Args:
      shape: shape of the stage's output.
      conditioner: the conditioner of the stage, for its factors.

    Returns:
      The smaller clip, with a lower frame rate where frames are left out; None for the base.

    Raises:
      ValueError: the factors do not divide `shape`.
    """
    time, space = conditioner.factors
    if (time, space) == (1, 1):
        return None
    if shape.frames % time or shape.height % space or shape.width % space:
        raise ValueError(
            f"a clip of {shape} cannot come from one with {time} times fewer frames and {space} "
            "times fewer pixels along each side: the numbers do not divide."
        )
    return dataclasses.replace(
        shape,
        frames=shape.frames // time,
        height=shape.height // space,
        width=shape.width // space,
        fps=shape.fps / time,
    )


def _noised(
    video: Float[Array, "b t h w c"], logsnr: Float[Array, "b"], keys: Key[Array, "b"]
) -> Float[Array, "b t h w c"]:
    """Compute α video + σ n, each example with its own level and noise."""
    return schedules.diffuse(video, samplers.normal_like(keys, video), logsnr)
