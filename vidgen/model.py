"""What a model can do: the contract between the models of the papers and all that uses them.

    Model           can be trained and planned     init, loss, batch_spec
    Generator       makes clips                    generate
    SampledModel    makes them in steps            sampler, guidance, step_spec
    Student         learns from another model      teacher
    TokenizerModel  turns clips into tokens        encode, decode, reconstruct

A model inherits the classes of all that it can do, so `isinstance` answers what nothing has to
probe, and what a model does not say has the default given here. Parameters are explicit everywhere:
a model is a frozen dataclass of settings and pure functions.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.types import (
    Batch,
    Frozen,
    Known,
    Metrics,
    OnStep,
    Params,
    TextEmbedding,
    TextMix,
    VideoBatch,
    VideoShape,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(abc.ABC):
    """A model that can be trained.

    Attributes:
      name: what reports, folders and gin scopes call it.
      shape: the clip that it makes or reads.
      published_parameters: size in the paper, for `vidgen plan`; None where there is none.
    """

    name: str
    shape: VideoShape
    published_parameters: float | None = None

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Draw fresh parameters.

        Args:
          key: random key of the draw.
          batch: a batch, of which the shapes count.

        Returns:
          Parameters; leaves are boxed with the logical names of their axes (nn/axes.py).
        """

    @abc.abstractmethod
    def loss(
        self, params: Params, frozen: Frozen, batch: Batch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the mean loss over a batch.

        Args:
          params: parameters of the model.
          frozen: parameters of `frozen_networks` by name, which are not trained.
          batch: as `batch_spec` describes it.
          key: random key of all randomness in this call.
          train: True where dropout and the like act.

        Returns:
          The loss, and means to log beside it, by name.
        """

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> Batch:
        """Describe a training batch by ShapeDtypeStructs; by default one of videos with captions.

        Args:
          batch_size: examples.
          text_length: tokens of a caption.
          text_dim: features of a token.
          captions_per_clip: captions of an example: 1, or one for each of its frames.

        Returns:
          A batch with a ShapeDtypeStruct in the place of each array.
        """
        spec: Any = jax.ShapeDtypeStruct  # stands for the arrays
        texts = (batch_size,) if captions_per_clip == 1 else (batch_size, captions_per_clip)
        return VideoBatch(
            video=spec((batch_size, *self.shape.thwc), jnp.float32),
            text=TextEmbedding(
                tokens=spec((*texts, text_length, text_dim), jnp.float32),
                mask=spec((*texts, text_length), jnp.bool_),
            ),
            independent_frames=spec((batch_size,), jnp.bool_),
        )

    @property
    def frozen_networks(self) -> Mapping[str, Model | None]:
        """The models whose parameters `loss` finds in `frozen`; None: one that no plan counts."""
        return {}

    def merge_params(self, params: Params, frozen: Frozen) -> Params:
        """Join a model's own parameters and the frozen ones to what it generates with.

        Args:
          params: parameters of the model, as they were trained.
          frozen: parameters of `frozen_networks` by name.

        Returns:
          What `Generator.generate` takes; by default the model's own parameters.
        """
        del frozen
        return params

    @property
    def published_part(self) -> str:
        """The top-level part of the parameters that the paper counts; "" counts all."""
        return ""

    @property
    def operators(self) -> Mapping[str, tuple[int, ...]] | None:
        """The levels of the network that use each operator; None where there are no levels."""
        return None

    @property
    def input_shape(self) -> VideoShape | None:
        """The clip that the model makes its own clip from; None: it starts from text alone."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator(Model):
    """A model that makes clips from text, and from a smaller clip where it has an input shape."""

    @abc.abstractmethod
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
        """Make one clip for each row of `text` and key, each independent of the others.

        Args:
          params: parameters as `merge_params` gives them.
          text: one prompt a clip; a model that tells stories also takes two (`TextMix`).
          low_res: clips of `input_shape` in [-1, 1], or None.
          keys: one random key a clip.
          on_step: is called after every step with (steps done, steps, a function that returns the
            clips "b t h w c" as the step predicts them).
          known: content that comes out unchanged.
          negative: a prompt a clip that guidance leads away from; None is no text.
          init: clips in [-1, 1] to begin with, in the middle of the schedule, where the sampler has
            a `strength` below 1.

        Returns:
          Clips, about in [-1, 1].

        Raises:
          ValueError: an argument is missing, or is one that the model does not take.
        """

    def degrade(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t0 h0 w0 c"] | None:
        """Shrink clips to what the model would get for them as its input.

        Args:
          video: clips of `shape`, in [-1, 1].

        Returns:
          Clips of `input_shape`; None without one.
        """
        del video


@runtime_checkable
class SamplingSettings(Protocol):
    """Settings of a sampler: a frozen dataclass, such as `SamplerSpec` or `DecodingSpec`."""

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledModel(Generator):
    """A generator that samples step by step, with settings that a run may replace.

    Attributes:
      sampler: how many steps, and how they are made.
      guidance: classifier-free guidance.
    """

    sampler: SamplingSettings
    guidance: GuidanceSpec = GuidanceSpec()

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Evaluations of the network for one clip."""

    @abc.abstractmethod
    def step_spec(
        self, params: Params, batch_size: int, text_length: int, text_dim: int
    ) -> tuple[Any, tuple[Any, ...]]:
        """Describe the program that `generate` runs at every step, for `vidgen plan`.

        Args:
          params: ShapeDtypeStructs of the parameters.
          batch_size: clips.
          text_length: tokens of a prompt.
          text_dim: features of a token.

        Returns:
          The jitted function and ShapeDtypeStructs of its arguments. Those of `params` are among
          them as they are, with their shardings.
        """

    def without_guidance(self) -> SampledModel:
        """Leave guidance out, for prompts without a token, where both its halves are equal."""
        return dataclasses.replace(
            self, guidance=dataclasses.replace(self.guidance, weight=0.0, low=None)
        )

    @property
    def stride(self) -> int:
        """Height and width of a clip must be multiples of this."""
        return 1

    @property
    def patch_time(self) -> int:
        """Frames of a time step after the first; known beginnings have 1 + a multiple of them."""
        return 1

    @property
    def continues(self) -> int | None:
        """The most frames that it was trained to go on from; None: it was not trained to."""
        return None

    @property
    def lacks_single_frames(self) -> bool:
        """Whether the model has never learned to make one frame by itself."""
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student(Generator):
    """A generator whose loss reads the parameters of a teacher, `frozen["teacher"]`."""

    @property
    @abc.abstractmethod
    def teacher(self) -> Model:
        """The model that the parameters `frozen["teacher"]` belong to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerModel(Model):
    """A model that turns clips into a grid of tokens and back."""

    @property
    @abc.abstractmethod
    def codes(self) -> int:
        """How many different tokens there are."""

    @abc.abstractmethod
    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Compute the grid of tokens of a clip.

        Args:
          frames: number of frames of the clip.
          height: height in pixels.
          width: width in pixels.

        Returns:
          The number of (time steps, rows, columns).

        Raises:
          ValueError: no grid fits a clip of this size; names the nearest that does.
        """

    @abc.abstractmethod
    def frames_of(self, steps: int) -> int:
        """Compute the number of frames that time steps of tokens decode to.

        Args:
          steps: number of time steps, >= 1.

        Returns:
          The number of frames.
        """

    @abc.abstractmethod
    def encode(self, params: Params, video: Float[Array, "b t h w c"]) -> Int[Array, "b gt gh gw"]:
        """Turn clips into tokens; the first time step is of the first frame alone.

        Args:
          params: parameters of the tokenizer.
          video: clips in [-1, 1] of any size that has a `grid`.

        Returns:
          Tokens, 0 ... `codes` - 1.

        Raises:
          ValueError: no grid fits the clips.
        """

    @abc.abstractmethod
    def decode(self, params: Params, tokens: Int[Array, "b gt gh gw"]) -> Float[Array, "b t h w c"]:
        """Turn tokens into clips.

        Args:
          params: parameters of the tokenizer.
          tokens: 0 ... `codes` - 1.

        Returns:
          Clips in [-1, 1].
        """

    def reconstruct(
        self, params: Params, video: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        """Encode clips and decode them again.

        Args:
          params: parameters of the tokenizer.
          video: clips in [-1, 1] of any size that has a `grid`.

        Returns:
          Clips of the same shape in [-1, 1].

        Raises:
          ValueError: no grid fits the clips.
        """
        return self.decode(params, self.encode(params, video))
