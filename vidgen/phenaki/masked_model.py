"""A model that fills in masked video tokens: how it is trained and how it samples.

Phenaki 2.2 and B.3; MaskGIT (2202.04200).

    training    ⌈γ(u) N⌉ of the N valid tokens are masked,  u ~ U(0, 1)
                loss = mean over the masked tokens of an example of -Σ_k q_k log p_k,
                q_k = (1 - s) [k is the token] + s/K;  then the mean over the batch
    sampling    parallel decoding (`decoding`) with the guided logits (1 + λ) l(text) - λ l(no text)

A batch holds videos, which a frozen tokenizer encodes, or tokens that were encoded before. Where
the "clip" is a set of images (`independent_frames`), only the tokens of the first time step exist,
for the masking, the attention and the loss (B.3). The text of an example is dropped with a fixed
rate, tokens and mask together.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen import checks, traced
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.schedules import expand
from vidgen.model import Model, SampledModel, TokenizerModel
from vidgen.nn.apply import apply_module
from vidgen.phenaki import decoding, generation, token_batch
from vidgen.phenaki.decoding import DecodingSpec, LogitsFn, ScoresFn
from vidgen.phenaki.guided_logits import check_guidance, guided_logits
from vidgen.phenaki.maskgit import TokenNetwork
from vidgen.phenaki.token_batch import BATCHES, clip_text, mean_where
from vidgen.types import (
    Frozen,
    Known,
    Mean,
    Metrics,
    OnStep,
    Params,
    TextEmbedding,
    TextMix,
    TokenBatch,
    VideoBatch,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedVideoModel(SampledModel):
    """The masked video transformer of Phenaki: how it trains, and how it samples.

    Attributes:
      name: name of the model and of its gin scope.
      shape: the clip that it generates.
      tokenizer: makes the tokens; its parameters are `frozen["tokenizer"]`, read for videos only.
      network: a `MaskGIT`.
      batches: what it trains on, "videos" or "tokens" that were encoded before.
      schedule: name of γ, one of `decoding.MASK_SCHEDULES`. MaskGIT's best is the cosine; Phenaki
        follows MaskGIT and names none.
      min_mask_rate: least share of tokens that is masked in training. FSQ (2309.15505) finds 0.45
        more stable; 0 is Phenaki.
      label_smoothing: s. MaskGIT has 0.1, MAGVIT 0.0001, Phenaki prints none.
      text_drop_rate: share of training examples that lose their text (Phenaki: 0.1).
      decoded_rate: share of training examples whose visible tokens come from frames that went
        through the tokenizer once before, as those do from which a story goes on; the tokens to
        predict stay those of the true frames, so that what a segment inherits is mended, not handed
        on. Videos only. 0 is Phenaki.
      sampler: how tokens are sampled.
      guidance: λ, in its `weight` (and `low`, at every second step); nothing is thresholded.
        Phenaki takes 0.1, 6 and 12. [guess] Its formula is not printed; 0.1 makes sense in this.
      published_parameters: number of parameters in the paper, for `vidgen plan`, or None.
    """

    name: str = "maskgit"
    tokenizer: TokenizerModel
    network: TokenNetwork
    batches: str = "videos"
    schedule: str = "cosine"
    min_mask_rate: float = 0.0
    label_smoothing: float = 0.0
    text_drop_rate: float = 0.1
    decoded_rate: float = 0.0
    sampler: DecodingSpec = DecodingSpec()
    guidance: GuidanceSpec = GuidanceSpec(weight=1.0)

    def __post_init__(self) -> None:
        decoding.mask_schedule(self.schedule)
        checks.one_of(self, batches=BATCHES)
        checks.share(self, "min_mask_rate", "label_smoothing", "text_drop_rate", "decoded_rate")
        if self.decoded_rate and self.batches != "videos":
            raise ValueError(
                f"MaskedVideoModel.decoded_rate is {self.decoded_rate}, which needs the frames: "
                "train on videos, not on tokens, or set it to 0."
            )
        if self.network.codes != self.tokenizer.codes:
            raise ValueError(
                f"the network has {self.network.codes} codes and the tokenizer "
                f"{self.tokenizer.codes}; give it as many: "
                f"--gin.maskgit/maskgit.MaskGIT.codes={self.tokenizer.codes}."
            )
        check_guidance(self.name, self.guidance)
        if not self.network.cross and not self.guidance.is_unguided:
            raise ValueError(
                f"GuidanceSpec.weight is {self.guidance.weight}, but the network reads no text "
                "(cross=False); set it to 0."
            )

    @property
    def mask_id(self) -> int:
        """The token that stands for an unknown one."""
        return self.network.codes

    @property
    def grid(self) -> tuple[int, int, int]:
        """The grid of tokens of a clip of `shape`, (time, rows, columns)."""
        return self.tokenizer.grid(self.shape.frames, self.shape.height, self.shape.width)

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> VideoBatch | TokenBatch:
        """Describe a training batch of videos, or of tokens; see `Model.batch_spec`."""
        sizes = (batch_size, text_length, text_dim)
        videos = super().batch_spec(*sizes, captions_per_clip=captions_per_clip)
        if self.batches == "videos":
            return videos
        tokens: Any = jax.ShapeDtypeStruct((batch_size, *self.grid), jnp.int32)
        alone = videos.independent_frames
        return TokenBatch(tokens=tokens, text=videos.text, independent_frames=alone)

    # ---- training ----------------------------------------------------------------------------

    def init(self, key: Key[Array, ""], batch: VideoBatch | TokenBatch) -> Params:
        """Draw fresh parameters of the transformer; see `Model.init`."""
        tokens = token_batch.blank_tokens(batch, self.tokenizer)
        return self.network.init(key, tokens, clip_text(batch.text), valid=None, train=False)

    def loss(
        self,
        params: Params,
        frozen: Frozen,
        batch: VideoBatch | TokenBatch,
        key: Key[Array, ""],
        *,
        train: bool,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the cross-entropy of the masked tokens (Phenaki 2.2); see `Model.loss`.

        `frozen["tokenizer"]` holds the parameters of the tokenizer. What is logged beside it: how
        often the likeliest code is right at masked tokens ("accuracy"), the share of masked tokens
        ("masked") and of dropped texts, and the loss of examples of which more than half is masked,
        or less.
        """
        mask_key, drop_key, dropout_key = jax.random.split(key, 3)
        tokens, valid = token_batch.tokens_of(batch, self.tokenizer, frozen)
        masked = self.masked(mask_key, valid)
        text, dropped = token_batch.drop_text(drop_key, batch.text, self.text_drop_rate)
        logits = apply_module(
            self.network,
            params,
            jnp.where(masked, self.mask_id, self._visible(batch, tokens, frozen)),
            text,
            valid=valid,
            train=train,
            rngs={"dropout": dropout_key} if train else None,
        )
        right = mean_where(jnp.argmax(logits, axis=-1) == tokens, masked)
        error = mean_where(self._error(logits, tokens), masked)
        share = mean_where(masked, valid)
        many = share > 0.5
        return jnp.mean(error), {
            "accuracy": Mean.of(right),
            "masked": Mean.of(share),
            "text_dropped": Mean.of(dropped),
            "loss_many_masked": Mean.of(error, many),
            "loss_few_masked": Mean.of(error, ~many),
        }

    def _visible(
        self,
        batch: VideoBatch | TokenBatch,
        tokens: Int[Array, "b gt gh gw"],
        frozen: Frozen,
    ) -> Int[Array, "b gt gh gw"]:
        """Replace the tokens of the first `decoded_rate` of the videos by those of decoded frames.

        The clip is coded backwards before: a frame that is alone in its token, or shares one with
        the frame after it, then shared one with the frame before it, as it may have in a story.
        """
        count = math.ceil(self.decoded_rate * len(tokens))
        if not count or not isinstance(batch, VideoBatch):
            return tokens
        tokenizer, weights = self.tokenizer, (frozen or {})["tokenizer"]
        backwards = tokenizer.encode(weights, batch.video[:count, ::-1])
        again = tokenizer.encode(weights, tokenizer.decode(weights, backwards)[:, ::-1])
        first = jnp.where(expand(batch.independent_frames[:count], again), tokens[:count], again)
        return jnp.concatenate([jax.lax.stop_gradient(first), tokens[count:]])

    def masked(
        self, key: Key[Array, ""], valid: Bool[Array, "b gt gh gw"]
    ) -> Bool[Array, "b gt gh gw"]:
        """Draw the tokens to mask in training, by the schedule of the model.

        Args:
          key: random key of the draw.
          valid: the tokens that exist.

        Returns:
          True on the tokens to mask, of each example at least one and no more than exist.
        """
        flat, rate = valid.reshape(len(valid), -1), self.min_mask_rate
        masked = decoding.training_mask(key, flat, schedule=self.schedule, min_rate=rate)
        return masked.reshape(valid.shape)

    def _error(
        self, logits: Float[Array, "b gt gh gw k"], tokens: Int[Array, "b gt gh gw"]
    ) -> Float[Array, "b gt gh gw"]:
        """Compute -Σ_k q_k log p_k at every position."""
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        of_token = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
        s = self.label_smoothing
        return -(1 - s) * of_token - (s * jnp.mean(logp, axis=-1) if s else 0.0)

    # ---- sampling ----------------------------------------------------------------------------

    def logits_fn(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        grid: tuple[int, ...],
        *,
        valid: Bool[Array, "b gt gh gw"] | None = None,
        negative: TextEmbedding | None = None,
    ) -> LogitsFn:
        """Make the guided logits of flat tokens, of two prompts their mixture, for decoding.

        See `guided_logits`.

        Args:
          params: the parameters of the network.
          text: one prompt a clip, or two.
          grid: the grid of tokens, (time, rows, columns).
          valid: False on positions that do not exist.
          negative: what to guide away from, one prompt a clip; None is no text.

        Returns:
          A function of (flat tokens, step).
        """
        settings = (self.network, self.guidance, self.sampler.steps)
        return guided_logits(*settings, params, text, grid, valid=valid, negative=negative)

    def sample_tokens(
        self,
        params: Params,
        text: TextEmbedding | TextMix,
        tokens: Int[Array, "b gt gh gw"],
        known: Bool[Array, "b gt gh gw"],
        keys: Key[Array, "b"],
        *,
        valid: Bool[Array, "b gt gh gw"] | None = None,
        negative: TextEmbedding | None = None,
        scores_fn: ScoresFn | None = None,
        on_step: OnStep | None = None,
    ) -> Int[Array, "b gt gh gw"]:
        """Sample tokens for `text`.

        Each clip depends on its own text, key and known tokens alone. Any grid up to the network's
        largest will do.

        Args:
          params: the parameters of the network.
          text: one prompt a clip, or two.
          tokens: the known tokens; others are not read.
          known: True on tokens that stay.
          keys: one random key a clip.
          valid: False on positions that do not exist; they come out as they went in.
          negative: what to guide away from, one prompt a clip; None is no text.
          scores_fn: a critic (phenaki/critic.py).
          on_step: called after every step; see `decoding.parallel_decode`.

        Returns:
          `tokens` where `known`, sampled tokens elsewhere.
        """
        grid, b = tokens.shape[1:], len(tokens)
        known = known if valid is None else known | ~valid
        sampled = decoding.parallel_decode(
            self.logits_fn(params, text, grid, valid=valid, negative=negative),
            tokens=tokens.reshape(b, -1),
            known=known.reshape(b, -1),
            mask_id=self.mask_id,
            keys=keys,
            spec=self.sampler,
            scores_fn=scores_fn,
            on_step=on_step,
        )
        return sampled.reshape(tokens.shape)

    @property
    def frozen_networks(self) -> dict[str, Model | None]:
        """The tokenizer, which turns the videos of a batch into tokens."""
        return {"tokenizer": self.tokenizer}

    def merge_params(self, params: Params, frozen: Frozen) -> Params:
        """Join the parameters of the network and of its tokenizer; see `Model.merge_params`.

        Raises:
          ValueError: those of the tokenizer are missing.
        """
        if "tokenizer" not in (frozen or {}):
            raise ValueError("the tokenizer's weights are missing; set FROZEN (TOKENIZER_DIR).")
        return {"maskgit": params, "tokenizer": frozen["tokenizer"]}

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
        """Generate videos in [-1, 1] by parallel decoding; see `Generator.generate`.

        Each depends on its own text, key and known content alone. Of two prompts a clip the logits
        are mixed.

        Raises:
          ValueError: there is a `low_res` or an `init`: tokens start from no other video.
        """
        if low_res is not None or init is not None:
            raise ValueError("the transformer makes video from text and known frames alone.")
        video, mask = generation.known_content(known, self.shape, len(keys))
        tokenizer, weights = self.tokenizer, params["tokenizer"]
        args = (tokenizer, self.grid, weights, video, mask)
        tokens, kept = traced.call(generation.encode_known, *args, static=(0, 1))

        def decoded(tokens: Int[Array, "b *n"]) -> Float[Array, "b t h w c"]:
            args = (tokenizer, weights, tokens.reshape(kept.shape), video, mask)
            return traced.call(generation.decode_known, *args, static=(0,))

        more = {"negative": negative, "on_step": generation.decoded_steps(on_step, decoded)}
        return decoded(self.sample_tokens(params["maskgit"], text, tokens, kept, keys, **more))

    @property
    def patch_time(self) -> int:
        """Frames of a time step after the first; known beginnings have 1 + a multiple of them."""
        return self.tokenizer.frames_of(2) - 1

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the network for one clip."""
        steps = self.sampler.steps
        left = 1 - np.arange(steps) / steps
        twice = 0 if self.guidance.is_unguided else self.guidance.share_inside(left)
        return round(steps * (1 + twice))

    def step_spec(
        self, params: Params, batch_size: int, text_length: int, text_dim: int
    ) -> tuple[Any, tuple[Any, ...]]:
        """Describe a step of parallel decoding; see `SampledModel.step_spec`."""
        batch = self.batch_spec(batch_size, text_length, text_dim)
        logits_fn = jax.eval_shape(lambda p, t: self.logits_fn(p, t, self.grid), params, batch.text)
        leaves, tree = jax.tree.flatten(logits_fn)
        weights = jax.tree.leaves(params)  # the first of what the function holds
        logits_fn = tree.unflatten([*weights, *leaves[len(weights) :]])
        size = (batch_size, math.prod(self.grid))
        return decoding.step_spec(logits_fn, size, mask_id=self.mask_id, spec=self.sampler)
