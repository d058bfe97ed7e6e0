"""A second transformer that chooses which sampled tokens to keep (Token-Critic, 2209.04439).

    x̂ = x with the masked tokens m drawn from softmax(logits(x masked, text))     logits: frozen
    loss = mean over m of the binary cross-entropy of critic(x̂, text) against [x̂ = x]

The masked model's own confidence judges each token by itself; the critic sees all of them filled
in, and may take back what was kept. Only masked positions have labels: other tokens are true
whatever the model would have drawn there. [guess] A draw that hits the true token counts as real;
the abstract, all of it that we have, does not say.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vidgen.model import Model
from vidgen.nn.apply import apply_module
from vidgen.phenaki import decoding, token_batch
from vidgen.phenaki.decoding import ScoresFn
from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.maskgit import FlatNetwork, TokenNetwork
from vidgen.phenaki.token_batch import clip_text, mean_where
from vidgen.types import (
    Frozen,
    Mean,
    Metrics,
    Params,
    TextEmbedding,
    TokenBatch,
    VideoBatch,
    VideoShape,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticModel(Model):
    """A critic of one masked model.

    Attributes:
      name: name of the model and of its gin scope.
      model: the masked model whose samples it judges, with its mask schedule, its text dropping
        and its temperature of the tokens; its parameters are `frozen["maskgit"]`.
      network: a `TokenCritic`.
      published_parameters: number of parameters in the paper, for `vidgen plan`, or None.
    """

    name: str = "critic"
    shape: VideoShape = dataclasses.field(init=False)
    model: MaskedVideoModel
    network: TokenNetwork

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.model.shape)
        if self.network.codes != self.model.network.codes:
            raise ValueError(
                f"the critic has {self.network.codes} codes and the model it judges "
                f"{self.model.network.codes}; set network.codes to the latter."
            )

    def batch_spec(
        self, batch_size: int, text_length: int, text_dim: int, *, captions_per_clip: int = 1
    ) -> VideoBatch | TokenBatch:
        """Describe a training batch, which is that of the masked model; see `Model.batch_spec`."""
        return self.model.batch_spec(
            batch_size, text_length, text_dim, captions_per_clip=captions_per_clip
        )

    def init(self, key: Key[Array, ""], batch: VideoBatch | TokenBatch) -> Params:
        """Draw fresh parameters of the critic; see `Model.init`."""
        tokens = token_batch.blank_tokens(batch, self.model.tokenizer)
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
        """Compute the cross-entropy of the labels real and drawn; see `Model.loss`.

        `frozen` holds the parameters of the masked model, "maskgit", and of its tokenizer. What is
        logged beside it, over masked tokens: how often the critic is right ("accuracy"), and the
        share of draws that hit the true token ("real").
        """
        mask_key, drop_key, draw_key, dropout_key = jax.random.split(key, 4)
        tokens, valid = token_batch.tokens_of(batch, self.model.tokenizer, frozen)
        masked = self.model.masked(mask_key, valid)
        text, dropped = token_batch.drop_text(drop_key, batch.text, self.model.text_drop_rate)
        filled = self._filled(frozen["maskgit"], tokens, text, masked, valid, draw_key)
        odds = apply_module(
            self.network,
            params,
            filled,
            text,
            valid=valid,
            train=train,
            rngs={"dropout": dropout_key} if train else None,
        ).astype(jnp.float32)
        real = filled == tokens
        error = mean_where(-jax.nn.log_sigmoid(jnp.where(real, odds, -odds)), masked)
        return jnp.mean(error), {
            "accuracy": Mean.of(mean_where((odds > 0) == real, masked)),
            "real": Mean.of(mean_where(real, masked)),
            "text_dropped": Mean.of(dropped),
        }

    def _filled(
        self,
        params: Params,
        tokens: Int[Array, "b gt gh gw"],
        text: TextEmbedding,
        masked: Bool[Array, "b gt gh gw"],
        valid: Bool[Array, "b gt gh gw"],
        key: Key[Array, ""],
    ) -> Int[Array, "b gt gh gw"]:
        """Draw the masked tokens by the masked model without guidance, and keep all others."""
        model = self.model
        holes = jnp.where(masked, model.mask_id, tokens)
        logits = apply_module(model.network, params, holes, text, valid=valid, train=False)
        keys = jax.random.split(key, len(tokens))
        drawn = decoding.categorical(keys, logits, model.sampler.sample_temperature)
        return jax.lax.stop_gradient(jnp.where(masked, drawn.astype(tokens.dtype), tokens))

    def scores_fn(
        self,
        params: Params,
        text: TextEmbedding,
        grid: tuple[int, ...],
        *,
        valid: Bool[Array, "b gt gh gw"] | None = None,
    ) -> ScoresFn:
        """Make the log-probabilities that tokens are real, for `MaskedVideoModel.sample_tokens`.

        Args:
          params: the parameters of the critic.
          text: one prompt a clip.
          grid: the grid of tokens, (time, rows, columns).
          valid: False on positions that do not exist.

        Returns:
          A function of (flat tokens "b n", step), whose result "b n" is <= 0.
        """
        return jax.tree_util.Partial(_Scores(self.network, grid), params, clip_text(text), valid)


class _Scores(FlatNetwork):
    """The log-probability that each token is real, from a critic's log-odds."""

    def __call__(self, params, text, valid, tokens, step):
        return jax.nn.log_sigmoid(super().__call__(params, text, valid, tokens, step))
