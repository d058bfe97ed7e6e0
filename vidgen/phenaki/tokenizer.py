"""The video tokenizer: an autoencoder with a quantizer between its halves, and how it is trained.

    x ─ encoder ─ latents ─ quantizer ─ tokens ─ decoder ─ x̂                       (Phenaki 2.1)

    L_G(θ)  = L_VQ + 0.1 L_Adv + 0.1 L_IP + 1.0 L_VP + 1.0 L_2         generator (B.1, F2)
    L_D(φ)  = discriminator loss + 10 R1 [+ LeCam]                     discriminator
    loss    = L_G(θ, sg φ) + L_D(sg x̂, φ)

L_2 is the mean squared error, L_IP compares frames and L_VP clips by the features of frozen
networks, L_Adv and L_D are in phenaki/adversarial.py. sg stops the gradient, so the one loss has
the gradients of the two; θ and φ are top-level parts of the parameters, each with its optimizer
(`train.optimizers.Grouped`).

Where the "clip" is a set of images (`independent_frames`), its first frame alone counts. It is
shown to all that looks at frames as a clip that stands still, so every example weighs the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.diffusion.schedules import expand
from vidgen.model import Model, TokenizerModel
from vidgen.nn import axes, initializers
from vidgen.phenaki import adversarial, token_batch
from vidgen.phenaki import tokenizer_losses as losses
from vidgen.phenaki.quantizer import Quantized, usage
from vidgen.phenaki.token_batch import mean_where
from vidgen.phenaki.tokenizer_losses import (
    ClipDistance,
    FrameDistance,
    LossWeights,
    as_stills,
    psnr,
)
from vidgen.types import Frozen, Mean, Metrics, Params, VideoBatch


@runtime_checkable
class Autoencoder(Protocol):
    """A Linen module with methods `encode` and `decode` (and `encode_chunk`, `decode_chunk`).

    `init` is called with a video, `apply` with `method="encode"` and the like.
    """

    @property
    def features(self) -> int:
        """The last axis of the latents."""
        ...

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The latents of a clip, (time, rows, columns); ValueError where it does not fit."""
        ...

    def frames_of(self, steps: int) -> int:
        """Frames that so many steps of latents decode to."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Params:
        """Fresh parameters."""
        ...

    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:
        """What one of its methods gives."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """A Linen module whose call gives `Quantized`, with a method `lookup` from tokens back."""

    @property
    def codes(self) -> int:
        """How many tokens there are."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Params:
        """Fresh parameters."""
        ...

    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:
        """What the call or a method gives."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoTokenizer(TokenizerModel):
    """Video to tokens and back.

    Parameters are {"generator": {"autoencoder", "quantizer"}}, and with a discriminator
    {"discriminator"} and for LeCam {"anchors"}, its moving averages: give these to
    `SGD(learning_rate = 1 - decay)`. A run without the discriminator can be the warm start of one
    with it.

    Attributes:
      name: its name and its gin scope.
      shape: the clip it trains on; it encodes clips of any number of frames that fits.
      autoencoder: a `CViViT` or another causal one.
      quantizer: a `VectorQuantizer`, `FSQ` or `LFQ`.
      discriminator: a `Discriminator`; None trains without an adversarial loss.
      image_perceptual: distance of frames; None leaves the term out.
      video_perceptual: distance of clips; None leaves the term out.
      weights: of the terms.
      published_parameters: size in the paper, for `vidgen plan`; None where there is none.
    """

    name: str = "cvivit"
    autoencoder: Autoencoder
    quantizer: Quantizer
    discriminator: Any = None
    image_perceptual: FrameDistance | None = None
    video_perceptual: ClipDistance | None = None
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        self.grid(self.shape.frames, self.shape.height, self.shape.width)  # or a ValueError

    @property
    def codes(self) -> int:
        """How many tokens there are."""
        return self.quantizer.codes

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The tokens of a clip, (time, rows, columns); ValueError where it does not fit."""
        return self.autoencoder.grid(frames, height, width)

    def frames_of(self, steps: int) -> int:
        """Frames that so many steps of tokens decode to."""
        return self.autoencoder.frames_of(steps)

    @property
    def published_part(self) -> str:
        """The part of the parameters that the paper counts: all but the discriminator."""
        return "generator"

    @property
    def frozen_networks(self) -> dict[str, Model | None]:
        """The perceptual networks, which a plan leaves out."""
        return {name: None for name in losses.NETWORKS if getattr(self, name) is not None}

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> VideoBatch:
        """The shapes of a training batch, whose text is not read."""
        text = (text_length, text_dim)
        batch = token_batch.spec_of(
            "videos",
            batch_size,
            shape=self.shape,
            grid=self.grid(*self.shape.thwc[:3]),
            text=text if captions_per_clip == 1 else (captions_per_clip, *text),
        )
        assert isinstance(batch, VideoBatch)
        return batch

    # ---- training ----------------------------------------------------------------------------

    def init(self, key: Key[Array, ""], batch: VideoBatch) -> Params:
        """Fresh parameters, boxed with their logical axis names."""
        keys = jax.random.split(key, 3)
        video = jnp.zeros((1, *batch.video.shape[1:]))
        latents = jnp.zeros((1, *self.grid(*video.shape[1:4]), self.autoencoder.features))
        params: dict[str, Any] = {
            "generator": {
                "autoencoder": self.autoencoder.init(keys[0], video),
                "quantizer": self.quantizer.init(keys[1], latents),
            }
        }
        if self.discriminator is not None:
            params["discriminator"] = self.discriminator.init(keys[2], video)
            if self.weights.lecam:
                zero = axes.partitioned(initializers.zeros, ())
                params["anchors"] = {"real": zero(keys[2], ()), "fake": zero(keys[2], ())}
        return params

    def loss(
        self, params: Params, frozen: Frozen, batch: VideoBatch, key: Key[Array, ""], *, train: bool
    ) -> tuple[Float[Array, ""], Metrics]:
        """Both losses in one, mean over the batch, and every term by itself.

        R1 is a term of training only. `key` draws the frames that a training step judges, and
        whether R1 counts in it; an evaluation judges all frames.

        Raises:
          ValueError: a perceptual network is set, but `frozen` lacks it (`FrozenNetworks`).
        """
        alone = batch.independent_frames
        real = as_stills(batch.video, alone)
        fake, quantized, exists = self._reconstructed(params["generator"], real, alone, train)
        distances = {name: getattr(self, name) for name in losses.NETWORKS}
        terms = {
            "vq": mean_where(quantized.loss.astype(jnp.float32), exists),
            "l2": jnp.mean((fake - real) ** 2, axis=(1, 2, 3, 4)),
            **losses.perceptual_terms(distances, frozen, real, fake, alone),
        }
        counted = {"video_perceptual": ~alone}
        metrics = {"psnr": psnr(real, fake)}
        used = usage(quantized.indices, self.codes, exists.astype(jnp.float32))
        metrics |= {name: Mean.of(value) for name, value in used.items()}
        anchored = jnp.zeros(())
        if self.discriminator is not None:
            game, logits = losses.adversarial_terms(
                self.discriminator,
                params,
                real,
                fake,
                key if train else None,
                r1_every=self.weights.r1_every if train and self.weights.r1 > 0 else None,
            )
            terms |= game
            metrics |= {f"logits_{name}": Mean.of(value) for name, value in logits.items()}
            if self.weights.lecam:
                anchored = adversarial.anchor_loss(**logits, anchors=params["anchors"])
        metrics |= {name: Mean.of(term, counted.get(name)) for name, term in terms.items()}
        # Of the moving averages the gradient alone is wanted, not the value.
        loss = jnp.mean(self.weights.total(terms)) + anchored - jax.lax.stop_gradient(anchored)
        return loss, metrics

    def _reconstructed(
        self, generator: Params, real: Array, alone: Bool[Array, "b"], train: bool
    ) -> tuple[Float[Array, "b t h w c"], Quantized, Bool[Array, "b gt gh gw"]]:
        """The clips decoded again, the quantized latents, and which of those exist."""
        latents = self.autoencoder.apply(generator["autoencoder"], real, method="encode")
        first = (jnp.arange(latents.shape[1]) == 0)[None, :, None, None]
        exists = jnp.broadcast_to(first | ~expand(alone, latents[..., 0]), latents.shape[:-1])
        quantized = self.quantizer.apply(
            generator["quantizer"], latents, weights=exists.astype(jnp.float32), train=train
        )
        fake = self.autoencoder.apply(generator["autoencoder"], quantized.latents, method="decode")
        return as_stills(fake.astype(jnp.float32), alone), quantized, exists

    # ---- use ---------------------------------------------------------------------------------

    def encode(self, params: Params, video: Float[Array, "b t h w c"]) -> Int[Array, "b gt gh gw"]:
        """The tokens of clips of any size that fits; those of a prefix are a prefix of them."""
        latents = self._autoencode(params, video, "encode")
        return self._tokens(params, latents)

    def decode(self, params: Params, tokens: Int[Array, "b gt gh gw"]) -> Float[Array, "b t h w c"]:
        """The clips that these tokens stand for, in [-1, 1]."""
        return jnp.clip(self._autoencode(params, self._lookup(params, tokens), "decode"), -1, 1)

    def encode_stream(
        self, params: Params, chunks: Iterable[Float[Array, "b _ h w c"]]
    ) -> Iterator[Int[Array, "b _ gh gw"]]:
        """The tokens of one long clip, chunk by chunk, as `encode` gives them of the whole.

        The first chunk has 1 + k·patch frames, later ones a multiple of the patch.
        """

        def step(params: Params, chunk: Array, state: Any) -> tuple[Array, Any]:
            latents, state = self._autoencode(params, chunk, "encode_chunk", state)
            return self._tokens(params, latents), state

        return _streamed(jax.jit(step), params, chunks)

    def decode_stream(
        self, params: Params, chunks: Iterable[Int[Array, "b _ gh gw"]]
    ) -> Iterator[Float[Array, "b _ h w c"]]:
        """The frames of one long clip, chunk by chunk, as `decode` gives them of the whole."""

        def step(params: Params, chunk: Array, state: Any) -> tuple[Array, Any]:
            latents = self._lookup(params, chunk)
            video, state = self._autoencode(params, latents, "decode_chunk", state)
            return jnp.clip(video, -1, 1), state

        return _streamed(jax.jit(step), params, chunks)

    def _autoencode(self, params: Params, x: Array, method: str, *args: Any) -> Any:
        return self.autoencoder.apply(params["generator"]["autoencoder"], x, *args, method=method)

    def _tokens(self, params: Params, latents: Array) -> Int[Array, "b gt gh gw"]:
        found = self.quantizer.apply(params["generator"]["quantizer"], latents, train=False)
        return found.indices.astype(jnp.int32)

    def _lookup(self, params: Params, tokens: Array) -> Float[Array, "b gt gh gw d"]:
        return self.quantizer.apply(params["generator"]["quantizer"], tokens, method="lookup")


def _streamed(step: Any, params: Params, chunks: Iterable[Array]) -> Iterator[Array]:
    state = None
    for chunk in chunks:
        result, state = step(params, chunk, state)
        yield result
