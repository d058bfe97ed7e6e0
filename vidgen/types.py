"""The structures that cross module borders, and the one legend of axis letters.

    b batch · t frames · h w pixels · c channels · s text tokens · d features
    gt gh gw token grid · n flat tokens · k codes · *x any further axes

Video is channels last, time second, float in [-1, 1] between the data pipeline and the file
writer. Noise levels cross borders as log-SNR, λ = log(α²/σ²), never as a bare time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float, Int

from vidgen import checks

Settings = TypeVar("Settings")
Params = Any  # a PyTree of arrays, or of Linen boxes that carry logical axis names
Frozen = Any  # a PyTree that a loss may read and must not change: teachers, feature networks
Batch = Any  # a PyTree of arrays whose first axis is the batch: VideoBatch, TokenBatch

# The stages of the Imagen Video cascade, in the order in which they run: temporal (t) and spatial
# (s) super-resolution after the base.
STAGES = ("base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoShape:
    """Size of one clip, without the batch axis.

    Attributes:
      frames: number of frames t.
      height: pixels h.
      width: pixels w.
      channels: 3 for RGB.
      fps: frames per second; together with `frames` it says which stretch of time a clip covers.
    """

    frames: int
    height: int
    width: int
    channels: int = 3
    fps: float = 8.0

    def __post_init__(self) -> None:
        checks.at_least(self, frames=1, height=1, width=1, channels=1)
        checks.positive(self, "fps")

    @property
    def thwc(self) -> tuple[int, int, int, int]:
        """(t, h, w, c), the shape of one example."""
        return (self.frames, self.height, self.width, self.channels)

    @property
    def seconds(self) -> float:
        """The time that the clip takes."""
        return self.frames / self.fps

    @property
    def words(self) -> str:
        """Size and rate for people: "16 frames of 24x40 at 8 fps"."""
        return f"{self.frames} frames of {self.height}x{self.width} at {self.fps:g} fps"

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclasses.dataclass(frozen=True)
class ByValue(Generic[Settings]):
    """Settings as a static argument of a compiled function: equal ones share their program.

    Attributes:
      value: a model, or another dataclass of settings. A list among them, which a configuration or
        a notebook may well give, has no hash; this has the one of what they are printed as.
    """

    value: Settings

    def __hash__(self) -> int:
        return hash(repr(self.value))


@no_type_check
class TextEmbedding(PyTreeNode):
    """Encoded prompts, one a clip, or one a frame where frames are images with their own captions.

    `mask` is True on real tokens; an all-False row is the null prompt.
    """

    tokens: Float[Array, "b s d"] | Float[Array, "b t s d"]
    mask: Bool[Array, "b s"] | Bool[Array, "b t s"]


@runtime_checkable
class TextEncoder(Protocol):
    """What turns prompts into token states: a function of the host, which is never trained."""

    @property
    def name(self) -> str:
        """Identity of network and weights; equal names and lengths give equal embeddings."""
        ...

    @property
    def dim(self) -> int:
        """Width d of a token state."""
        ...

    @property
    def length(self) -> int:
        """Number s of tokens that every prompt is padded or cut to."""
        ...

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Encode prompts on the host.

        Args:
          prompts: one or more; of "" an encoder may keep the tokens that mark the ends.

        Returns:
          numpy arrays: float32 tokens "b s d", and a mask "b s" that is True on real ones.

        Raises:
          ValueError: there are no prompts.
        """
        ...


@no_type_check
class TextMix(PyTreeNode):
    """Two prompts a clip at once, as in a transition from one to the other.

    A model mixes its guided predictions of both: (1 - weight) of `first`, weight of `second`.
    """

    first: TextEmbedding
    second: TextEmbedding
    weight: Float[Array, "b"]


@no_type_check
class VideoBatch(PyTreeNode):
    """What a video model trains on.

    `independent_frames` is True where the "clip" is t unrelated images packed together (joint
    image-video training, Imagen Video): nothing may then flow between frames. `fps` has the frame
    rates of data with several; None: the one rate of the model's clip.
    """

    video: Float[Array, "b t h w c"]
    text: TextEmbedding
    independent_frames: Bool[Array, "b"]
    fps: Float[Array, "b"] | None = None


@no_type_check
class TokenBatch(PyTreeNode):
    """What a video transformer trains on where clips were encoded beforehand (see `VideoBatch`)."""

    tokens: Int[Array, "b gt gh gw"]
    text: TextEmbedding
    independent_frames: Bool[Array, "b"]


@no_type_check
class Estimate(PyTreeNode):
    """The x̂ of the step before, which a self-conditioned denoiser reads.

    A class of its own, so that the loop of sampling finds it in any denoiser, and renews it.
    """

    video: Float[Array, "b t h w c"]


@no_type_check
class Conditioning(PyTreeNode):
    """Everything a denoiser reads besides the noisy video and its noise level.

    Attributes:
      text: one prompt a clip, or one a frame.
      independent_frames: True of clips whose frames are unrelated images.
      low_res: the video of the stage before, noised and up-sampled; of a base that continues clips,
        the frames that are shown, and 0 elsewhere. None: neither.
      aug_logsnr: log-SNR of the noise on `low_res`; None without noise conditioning augmentation.
      low_res_variance: the mean square of low_res / α - x in each frame, infinite in a frame of
        which nothing is known; α belongs to `aug_logsnr`. A network that gets it predicts what z
        and the low-resolution video do not say already (imagen/preconditioning.py).
      known_frames: True on frames that are in `low_res`, False in the gaps between them; None where
        no frame is missing, or there is no `low_res`.
      guidance_weight: w, which a distilled student reads.
      estimate: x̂ of the step before, which a self-conditioned network reads.
      fps: frames per second, which a network with `fps_condition` reads.
    """

    text: TextEmbedding
    independent_frames: Bool[Array, "b"]
    low_res: Float[Array, "b t h w c"] | None = None
    aug_logsnr: Float[Array, "b"] | None = None
    low_res_variance: Float[Array, "b t"] | None = None
    known_frames: Bool[Array, "b t"] | None = None
    guidance_weight: Float[Array, "b"] | None = None
    estimate: Estimate | None = None
    fps: Float[Array, "b"] | None = None


@no_type_check
class Known(PyTreeNode):
    """Content that a sampled video must have: `video` wherever `mask` is True.

    The mask broadcasts to the video: (b, t, 1, 1, 1) for whole frames, (b, t, h, w, 1) for pixels.
    """

    video: Float[Array, "b t h w c"]
    mask: Bool[Array, "b #t #h #w #c"]


@no_type_check
class Mean(PyTreeNode):
    """A weighted mean that adds up over microbatches, steps and hosts: value = total / weight."""

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def of(cls, values, weights=None) -> Mean:
        """Average values, each counted with its weight.

        Args:
          values: numbers or flags of any shape.
          weights: >= 0, of the same shape, such as True where a value counts; None counts all
            alike.

        Returns:
          The mean as a sum and a weight, in float32.
        """
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights, jnp.float32)
        return cls(total=jnp.sum(values * weights), weight=jnp.sum(weights))

    def merge(self, other: Mean) -> Mean:
        """Combine two means to that over both sets of values.

        Args:
          other: the mean of the other values.

        Returns:
          The mean over both.
        """
        return Mean(total=self.total + other.total, weight=self.weight + other.weight)

    def value(self) -> Float[Array, ""]:
        """Compute total / weight; NaN where nothing was counted."""
        return self.total / self.weight


Metrics = Mapping[str, Mean]

# The prediction of a sampling step, which is computed where it is asked for.
Predict = Callable[[], Array]
# Is called after every sampling step with (steps done, steps, the current prediction).
OnStep = Callable[[int, int, Predict], None]


def null_text(text: TextEmbedding) -> TextEmbedding:
    """Make the unconditional prompt: zero tokens, nothing attended to.

    Args:
      text: prompts that give the shape.

    Returns:
      As many null prompts.
    """
    return jax.tree.map(jnp.zeros_like, text)


def null_text_where(dropped: Bool[Array, "b"], text: TextEmbedding) -> TextEmbedding:
    """Replace some of the prompts by the null prompt.

    Args:
      dropped: True on the examples that lose their text.
      text: one prompt a clip, or one a frame.

    Returns:
      The prompts, in the same shape.
    """
    drop = jax.vmap(lambda flag, kept: jnp.where(flag, jnp.zeros_like(kept), kept))
    return jax.tree.map(lambda kept: drop(dropped, kept), text)
