"""The video tokenizer: an autoencoder with a quantizer between its halves, and how it is trained.

    x ─ encoder ─ latents ─ quantizer ─ tokens ─ decoder ─ x̂                       (Phenaki 2.1)

    L_G(θ)  = L_VQ + 0.1 L_Adv + 0.1 L_IP + 1.0 L_VP + 1.0 L_2         generator (B.1, F2)
    L_D(φ)  = discriminator loss + 10 R1 [+ LeCam]                     discriminator
    loss    = L_G(θ, sg φ) + L_D(sg x̂, φ)

L_2 is the mean squared error, L_IP compares frames and L_VP clips by the features of frozen
networks, L_Adv and L_D are those of phenaki/discriminator.py. sg stops the gradient, so the one
loss has the gradients of the two; θ and φ are top-level parts of the parameters, each with its
optimizer (`train.optimizers.Grouped`).

Where the "clip" is a set of images (`independent_frames`), its first frame alone counts. The losses
see it as a clip that stands still, so every example weighs the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.diffusion.schedules import expand
from vidgen.model import Model, TokenizerModel
from vidgen.nn import axes, initializers
from vidgen.nn.apply import apply_module
from vidgen.phenaki import tokenizer_losses as losses
from vidgen.phenaki.autoencoder import CausalAutoencoder, State
from vidgen.phenaki.discriminator import Discriminator, anchor_loss
from vidgen.phenaki.quantizer import Quantized, Quantizer, usage
from vidgen.phenaki.token_batch import mean_where
from vidgen.phenaki.tokenizer_losses import (
    Distances,
    LossWeights,
    PerceptualDistance,
    as_stills,
    psnr,
)
from vidgen.types import Frozen, Mean, Metrics, Params, VideoBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoTokenizer(TokenizerModel):
    """The video tokenizer of Phenaki: clips to tokens, and back.

    Parameters are {"generator": {"autoencoder", "quantizer"}}, and with a discriminator
    {"discriminator"} and for LeCam {"anchors"}, its moving averages: give these to
    `SGD(learning_rate = 1 - decay)`. A run without the discriminator can be the warm start of one
    with it.

    Attributes:
      name: name of the model and of its gin scope.
      shape: the clip that it trains on; it encodes clips of any number of frames that fits.
      autoencoder: a `CViViT` or `CausalConv3D`.
      quantizer: a `VectorQuantizer`, `FSQ` or `LFQ`.
      discriminator: a `Discriminator`; None trains without an adversarial loss.
      image_perceptual: L_IP, a distance of frames; None leaves the term out.
      video_perceptual: L_VP, a distance of clips; None leaves the term out.
      weights: the weights of the terms.
      published_parameters: number of parameters in the paper, for `vidgen plan`, or None.
    """

    name: str = "cvivit"
    autoencoder: CausalAutoencoder
    quantizer: Quantizer
    discriminator: Discriminator | None = None
    image_perceptual: PerceptualDistance | None = None
    video_perceptual: PerceptualDistance | None = None
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        self.grid(self.shape.frames, self.shape.height, self.shape.width)  # or a ValueError

    @property
    def codes(self) -> int:
        """Number of codes that a token can be."""
        return self.quantizer.codes

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Find the grid of tokens of a clip; see `CausalAutoencoder.grid`."""
        return self.autoencoder.grid(frames, height, width)

    def frames_of(self, steps: int) -> int:
        """Compute the number of frames of so many steps; see `CausalAutoencoder.frames_of`."""
        return self.autoencoder.frames_of(steps)

    @property
    def published_part(self) -> str:
        """Name of the part of the parameters that the paper counts: all but the discriminator."""
        return "generator"

    @property
    def frozen_networks(self) -> dict[str, Model | None]:
        """The perceptual networks, which a plan leaves out."""
        return {name: None for name, distance in self.distances.items() if distance is not None}

    @property
    def distances(self) -> Distances:
        """The perceptual distances by the names of their losses."""
        return {
            "image_perceptual": self.image_perceptual,
            "video_perceptual": self.video_perceptual,
        }

    # ---- training ----------------------------------------------------------------------------

    def init(self, key: Key[Array, ""], batch: VideoBatch) -> Params:
        """Draw fresh parameters of autoencoder, quantizer and discriminator; see `Model.init`."""
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
        """Compute both losses in one, and every term by itself; see `Model.loss`.

        `frozen` holds the weights of the perceptual networks, from `FrozenNetworks`. `key` draws
        the frames that a training step judges, and whether R1 counts in it; an evaluation judges
        all frames, without R1.

        Raises:
          ValueError: a perceptual network is set, but `frozen` lacks it.
        """
        alone = batch.independent_frames
        real = as_stills(batch.video, alone)
        fake, quantized, exists = self._reconstructed(params, real, alone, train)
        terms = {
            "vq": mean_where(quantized.loss.astype(jnp.float32), exists),
            "l2": jnp.mean((fake - real) ** 2, axis=(1, 2, 3, 4)),
            **losses.perceptual_terms(self.distances, frozen, real, fake, alone),
        }
        counted = {"video_perceptual": ~alone}
        metrics = {"psnr": psnr(real, fake)}
        used = usage(quantized.indices, self.codes, exists.astype(jnp.float32))
        metrics |= {name: Mean.of(value) for name, value in used.items()}
        anchored = jnp.zeros(())
        if self.discriminator is not None:
            players, logits = losses.adversarial_terms(
                self.discriminator,
                params,
                real,
                fake,
                key if train else None,
                r1_every=self.weights.r1_every if train and self.weights.r1 > 0 else None,
            )
            terms |= players
            metrics |= {f"logits_{name}": Mean.of(value) for name, value in logits.items()}
            if self.weights.lecam:
                anchored = anchor_loss(**logits, anchors=params["anchors"])
        metrics |= {name: Mean.of(term, counted.get(name)) for name, term in terms.items()}
        # Of the moving averages the gradient alone is wanted, not the value.
        loss = jnp.mean(self.weights.total(terms)) + anchored - jax.lax.stop_gradient(anchored)
        return loss, metrics

    def _reconstructed(
        self, params: Params, real: Array, alone: Bool[Array, "b"], train: bool
    ) -> tuple[Float[Array, "b t h w c"], Quantized, Bool[Array, "b gt gh gw"]]:
        """Compute the reconstructed clips, the quantized latents, and which of those exist."""
        latents = self._autoencode(params, real, "encode")
        first = (jnp.arange(latents.shape[1]) == 0)[None, :, None, None]
        exists = jnp.broadcast_to(first | ~expand(alone, latents[..., 0]), latents.shape[:-1])
        weights = exists.astype(jnp.float32)
        quantizer = params["generator"]["quantizer"]
        quantized = apply_module(self.quantizer, quantizer, latents, weights=weights, train=train)
        fake = self._autoencode(params, quantized.latents, "decode")
        return as_stills(fake.astype(jnp.float32), alone), quantized, exists

    # ---- use ---------------------------------------------------------------------------------

    def encode(self, params: Params, video: Float[Array, "b t h w c"]) -> Int[Array, "b gt gh gw"]:
        """Encode clips of any size that has a `grid`; see `TokenizerModel.encode`.

        The tokens of a prefix of a clip are a prefix of its tokens.
        """
        latents = self._autoencode(params, video, "encode")
        return self._tokens(params, latents)

    def decode(self, params: Params, tokens: Int[Array, "b gt gh gw"]) -> Float[Array, "b t h w c"]:
        """Decode tokens to clips, clipped to [-1, 1]; see `TokenizerModel.decode`."""
        return jnp.clip(self._autoencode(params, self._lookup(params, tokens), "decode"), -1, 1)

    def encode_stream(
        self, params: Params, chunks: Iterable[Float[Array, "b _ h w c"]]
    ) -> Iterator[Int[Array, "b _ gh gw"]]:
        """Encode one long clip chunk by chunk, with the result of `encode` of the whole.

        Args:
          params: the parameters.
          chunks: 1 + k·patch frames first, then multiples of the patch.

        Yields:
          The tokens of each chunk.
        """

        def step(params: Params, chunk: Array, state: State) -> tuple[Array, State]:
            latents, state = self._autoencode(params, chunk, "encode_chunk", state)
            return self._tokens(params, latents), state

        return _streamed(jax.jit(step), params, chunks)

    def decode_stream(
        self, params: Params, chunks: Iterable[Int[Array, "b _ gh gw"]]
    ) -> Iterator[Float[Array, "b _ h w c"]]:
        """Decode one long clip chunk by chunk, with the result of `decode` of the whole.

        Args:
          params: the parameters.
          chunks: tokens of one or more time steps each.

        Yields:
          The frames of each chunk, in [-1, 1].
        """

        def step(params: Params, chunk: Array, state: State) -> tuple[Array, State]:
            latents = self._lookup(params, chunk)
            video, state = self._autoencode(params, latents, "decode_chunk", state)
            return jnp.clip(video, -1, 1), state

        return _streamed(jax.jit(step), params, chunks)

    def _autoencode(self, params: Params, x: Array, method: str, *state: State) -> State:
        return apply_module(
            self.autoencoder, params["generator"]["autoencoder"], x, *state, method=method
        )

    def _tokens(self, params: Params, latents: Array) -> Int[Array, "b gt gh gw"]:
        quantized = apply_module(
            self.quantizer, params["generator"]["quantizer"], latents, train=False
        )
        return quantized.indices.astype(jnp.int32)

    def _lookup(self, params: Params, tokens: Array) -> Float[Array, "b gt gh gw d"]:
        return apply_module(
            self.quantizer, params["generator"]["quantizer"], tokens, method="lookup"
        )


def _streamed(
    step: Callable[[Params, Array, State], tuple[Array, State]],
    params: Params,
    chunks: Iterable[Array],
) -> Iterator[Array]:
    state = None
    for chunk in chunks:
        result, state = step(params, chunk, state)
        yield result
