"""The networks over video tokens: one that fills in masked tokens, one that judges filled ones.

Phenaki 2.2 and Table 7, MaskGIT (2202.04200), Token-Critic (2209.04439).

    x = E[token] + P_time[i] + P_row[j] + P_column[k]      tokens in raster order, time first
    x = transformer(x, text)                               every token sees every token
    logits = E norm(gelu(W x)) + bias                      E without its mask row

Position features, the normalisation of the text and the output head are not published. [guess]
Learned positions, factorised by axis so that a smaller grid is a part of the largest; the text
through a LayerNorm; MaskGIT's head, whose last matrix is the embedding.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vidgen.nn import axes, initializers
from vidgen.nn.apply import apply_module
from vidgen.nn.transformer import Transformer
from vidgen.types import Params, TextEmbedding

_AXES = ("time", "row", "column")
_INIT = initializers.truncated_normal(0.02)  # MaskGIT


class TokenNetwork(nn.Module):
    """What both networks have in common: their settings, the embedding and the transformer.

    Attributes:
      codes: size of the codebook; the token `codes` is the mask.
      grid: the largest grid of tokens, (time, rows, columns).
      layers: number of transformer blocks.
      width: features of a token.
      heads: number of attention heads.
      mlp: hidden width of the feed-forward branch.
      dropout: dropout rate in training.
      cross: whether the network reads text, through cross-attention.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      unroll: whether the blocks are unrolled when compiled.
      dtype: dtype of the computation; parameters, norms and logits are float32.
    """

    codes: int = 8192
    grid: tuple[int, int, int] = (6, 16, 16)
    layers: int = 24
    width: int = 2048
    heads: int = 32
    mlp: int = 8192
    dropout: float = 0.0
    cross: bool = True
    remat: str = "none"
    unroll: bool = False
    dtype: str = "float32"

    def _features(
        self,
        tokens: Int[Array, "b gt gh gw"],
        text: TextEmbedding | None,
        valid: Bool[Array, "b gt gh gw"] | None,
        train: bool,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "k d"]]:
        """Compute the features of every token after the transformer, and the embedding table."""
        self._check(tokens, text)
        table, mask = self._embedding(), None
        if valid is not None:
            tokens = jnp.where(valid, tokens, self.codes)
            mask = valid.reshape(len(tokens), 1, 1, -1)
        # Gathered before it is read: a row that is cut by features would have to be cut anew.
        x = axes.constrain(table, None, "channels")[tokens] + self._positions(tokens.shape[1:])
        x = x.reshape(len(x), -1, self.width)
        if self.dropout and train:
            x = nn.Dropout(self.dropout, deterministic=False)(x)
        transformer = Transformer(
            self.layers,
            self.heads,
            self.mlp,
            cross=self.cross,
            dropout=self.dropout,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
            name="transformer",
        )
        x = axes.constrain(x.astype(self.dtype), "batch", None, "channels")
        words, text_mask = self._text(text)
        x, _ = transformer(x, mask=mask, train=train, text=words, text_mask=text_mask)
        return x, table

    def _embedding(self) -> Float[Array, "k d"]:
        """Make the embedding table: one row a code, and the last for the mask."""
        init = axes.partitioned(_INIT, ("codes", "embed"))
        size = (self.codes + 1, self.width)
        return jnp.asarray(self.param("embedding", init, size, jnp.float32))

    def _positions(self, grid: tuple[int, ...]) -> Float[Array, "gt gh gw d"]:
        """Compute the position features of every place: the sum of one learned vector an axis."""
        total = jnp.zeros((1, 1, 1, self.width))
        init = axes.partitioned(_INIT, ("positions", "embed"))
        for axis, name in enumerate(_AXES):
            size = (self.grid[axis], self.width)
            table = jnp.asarray(self.param(f"{name}_positions", init, size, jnp.float32))
            shape = [1, 1, 1, self.width]
            shape[axis] = grid[axis]
            total = total + table[: grid[axis]].reshape(shape)
        return total

    def _text(self, text: TextEmbedding | None) -> tuple[Array | None, Array | None]:
        """Normalise the states of the text; None where the network reads no text."""
        if not self.cross or text is None:
            return None, None
        return axes.layer_norm("text_norm", "text", dtype=self.dtype)(text.tokens), text.mask

    def _head(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Compute the features from which the output is read."""
        names = ("embed", "mlp")
        x = nn.gelu(axes.dense(self.width, names, name="head", dtype=self.dtype)(x))
        return axes.layer_norm("head_norm", dtype=self.dtype)(x)

    def _check(self, tokens: Array, text: TextEmbedding | None) -> None:
        if any(have > most for have, most in zip(tokens.shape[1:], self.grid, strict=True)):
            raise ValueError(
                f"a grid of {_by(tokens.shape[1:])} tokens is larger than the {_by(self.grid)} "
                f"that {type(self).__name__}.grid allows; take a smaller clip or a larger grid."
            )
        if self.cross and text is None:
            raise ValueError(f"{type(self).__name__} reads text (cross=True) and got none.")


class MaskGIT(TokenNetwork):
    """Logits for every token of a clip, from the tokens that are not masked and the text.

    The default attributes are those of Phenaki's main model (Table 7), which has 1.8 billion
    parameters with text states of width 4096; see `TokenNetwork`.
    """

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b gt gh gw"],
        text: TextEmbedding | None,
        *,
        valid: Bool[Array, "b gt gh gw"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b gt gh gw {self.codes}"]:
        """Compute the logits of all positions.

        Args:
          tokens: codes, and `self.codes` where a token is masked.
          text: one prompt a clip; padding is never attended to.
          valid: False on positions that do not exist, which no other attends to.
          train: whether dropout acts.

        Returns:
          The logits of the codes, float32.
        """
        x, table = self._features(tokens, text, valid, train)
        x, table = self._head(x), table[: self.codes].astype(self.dtype)
        bias = axes.partitioned(initializers.zeros, ("codes",))
        bias = self.param("bias", bias, (self.codes,), jnp.float32)
        logits = jnp.einsum("bnd,kd->bnk", x, table, preferred_element_type=jnp.float32)
        return (logits + jnp.asarray(bias)).reshape(*tokens.shape, self.codes)


class TokenCritic(TokenNetwork):
    """Log-odds that each token of a filled clip is real and not sampled; see `TokenNetwork`."""

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b gt gh gw"],
        text: TextEmbedding | None,
        *,
        valid: Bool[Array, "b gt gh gw"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b gt gh gw"]:
        """Judge every token of filled clips.

        Args:
          tokens: codes, none of them the mask.
          text: one prompt a clip; padding is never attended to.
          valid: False on positions that do not exist, which no other attends to.
          train: whether dropout acts.

        Returns:
          Log-odds that each token is real, float32; 0 before training.
        """
        x, _ = self._features(tokens, text, valid, train)
        out = axes.dense(1, ("embed", "codes"), name="out", scale=0.0, dtype="float32")
        return out(self._head(x)).reshape(tokens.shape)


@dataclasses.dataclass(frozen=True)
class FlatNetwork:
    """A network as a function of flat tokens, for decoding.

    It is a dataclass and no closure: equal settings compare equal, so compiled steps are reused.
    """

    network: TokenNetwork
    grid: tuple[int, ...]

    def __call__(
        self,
        params: Params,
        text: TextEmbedding,
        valid: Bool[Array, "b gt gh gw"] | None,
        tokens: Int[Array, "b n"],
        step: Int[Array, ""],
    ) -> Float[Array, "b n *k"]:
        """Evaluate the network on flat tokens.

        Args:
          params: parameters of the network.
          text: one prompt a clip.
          valid: False on positions that do not exist; None: all do.
          tokens: codes in raster order, time first.
          step: number of the decoding step; not read.

        Returns:
          The network's output for each token, float32.
        """
        del step
        grid = tokens.reshape(-1, *self.grid)
        out = apply_module(self.network, params, grid, text, valid=valid, train=False)
        return out.reshape(*tokens.shape, *out.shape[4:]).astype(jnp.float32)


def _by(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))
