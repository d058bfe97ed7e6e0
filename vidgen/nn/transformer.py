"""A pre-norm transformer over flat tokens, the one network of C-ViViT and of the masked model.

    x ← x + attention(norm(x))         keys and values of x itself, and of what came before it
    x ← x + attention(norm(x), text)   with `cross`
    x ← x + W₂ gelu(W₁ norm(x))
    out = norm(x) after the last block

Norm type, activation and initialisation are not published for Phenaki. [guess] LayerNorm before
each branch in float32, GELU, and output projections that start at zero, so that each block starts
as the identity and depth costs nothing at the start.

A stream of tokens can be run piece by piece: `KV` keeps the keys and values of all positions
that went before. Positions are the caller's: it adds features to x, or gives a bias, or both.
"""

from __future__ import annotations

from typing import no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vidgen import checks
from vidgen.nn import axes, remat
from vidgen.nn.attention import attend, heads_of, merge_heads

DTYPES = ("float32", "bfloat16")


@no_type_check
class KV(PyTreeNode):
    """Keys and values of the p positions that each layer has seen so far."""

    k: Float[Array, "layers n p h d"]
    v: Float[Array, "layers n p h d"]

    @classmethod
    def empty(cls, layers, rows, heads, head_dim, dtype="float32") -> KV:
        """Start a stream: keys and values of no position, p = 0.

        Args:
          layers: number of layers of the transformer.
          rows: number n of sequences.
          heads: attention heads of a layer.
          head_dim: features of a head.
          dtype: dtype of the transformer's computation.

        Returns:
          The empty keys and values.
        """
        zeros = jnp.zeros((layers, rows, 0, heads, head_dim), dtype)
        return cls(k=zeros, v=zeros)

    @property
    def positions(self) -> int:
        """The number p of positions."""
        return self.k.shape[-3]

    def last(self, positions: int) -> KV:
        """Keep the last positions only, for layers that look no further back.

        Args:
          positions: number of positions to keep; all where there are fewer.

        Returns:
          Their keys and values.
        """
        start = max(self.positions - positions, 0)
        return jax.tree.map(lambda x: x[..., start:, :, :], self)


def causal_mask(
    queries: int, keys: int, *, window: int | None = None
) -> Bool[Array, "1 1 {queries} {keys}"]:
    """Compute which keys a query may see; the queries are the last of the places.

    Args:
      queries: number of queries.
      keys: number of keys, those of the queries among them.
      window: places before its own that a query sees; None is all of them.

    Returns:
      True where a query sees a key: its own place and those before it.
    """
    distance = jnp.arange(keys - queries, keys)[:, None] - jnp.arange(keys)[None, :]
    seen = distance >= 0
    if window is not None:
        seen &= distance <= window
    return seen[None, None]


class Transformer(nn.Module):
    """A stack of pre-norm blocks with a final normalisation.

    Attributes:
      layers: number of blocks, at least 1; their parameters are stacked.
      heads: attention heads.
      mlp: hidden width of the feed-forward branch.
      cross: whether each block also attends to text, which the caller has normalised.
      dropout: rate at the end of each branch. It needs the rng "dropout" when training.
      head_dim: width of one head; None: the width of x over `heads`.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      unroll: whether the blocks are unrolled when compiled: same parameters and outputs, slower to
        compile, faster to run on a CPU.
      dtype: dtype of the computation; parameters, norms and softmax are float32.
    """

    layers: int
    heads: int
    mlp: int
    cross: bool = False
    dropout: float = 0.0
    head_dim: int | None = None
    remat: str = "none"
    unroll: bool = False
    dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        checks.at_least(self, layers=1)
        checks.one_of(self, dtype=DTYPES, remat=remat.POLICIES)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n q d"],
        *,
        bias: Float[Array, "1 h q k"] | None = None,
        mask: Bool[Array, "#n #h #q k"] | None = None,
        text: Float[Array, "n s e"] | None = None,
        text_mask: Bool[Array, "n s"] | None = None,
        train: bool = False,
        past: KV | None = None,
    ) -> tuple[Float[Array, "n q d"], KV | None]:
        """Run all blocks on q tokens of n sequences.

        Args:
          x: the tokens.
          bias: added to the logits of self-attention.
          mask: True where self-attention may look. Keys are those of `past`, then those of x.
          text: what `cross` attends to; left out, that branch adds nothing.
          text_mask: True on real tokens of the text; a row without any adds exactly 0.
          train: whether dropout acts.
          past: keys and values of the positions before x; `KV.empty` at the start of a stream.

        Returns:
          The tokens, and with `past` given the keys and values up to the last token of x.
        """
        if self.head_dim is None and x.shape[-1] % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide the width {x.shape[-1]} of a transformer."
            )
        head_dim = self.head_dim or x.shape[-1] // self.heads
        stack = self._stack(head_dim, train=train, streams=past is not None)
        seen = (None, None) if text is None or not self.cross else (text, text_mask)
        if bias is not None:
            bias = bias.astype(self.dtype)
        x, present = stack(x.astype(self.dtype), past, (bias, mask, *seen))
        return axes.layer_norm("norm", dtype=self.dtype)(x), present

    def _stack(self, head_dim: int, *, train: bool, streams: bool) -> nn.Module:
        """Build all blocks: (x, past | None, what they share) -> (x, KV | None)."""
        stack = remat.stacked(
            _Block, self.layers, policy=self.remat, unroll=self.unroll, by_layer=streams
        )
        dropout = self.dropout if train else 0.0
        return stack(self.heads, head_dim, self.mlp, dropout, self.dtype, name="blocks")


class _Block(nn.Module):
    """One block: (x, keys and values of this layer | None, what all share) -> (x, KV | None)."""

    heads: int
    head_dim: int
    mlp: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, past: KV | None, shared: tuple) -> tuple[Array, KV | None]:
        bias, mask, text, text_mask = shared
        sizes = (self.heads, self.head_dim)
        y = axes.layer_norm("self_norm", dtype=self.dtype)(x)
        attention = _Attention(*sizes, dtype=self.dtype, name="self")
        y, present = attention(y, y, bias=bias, mask=mask, past=past)
        x = self._add(x, y)
        if text is not None:
            y = axes.layer_norm("cross_norm", dtype=self.dtype)(x)
            attention = _Attention(*sizes, source="text", dtype=self.dtype, name="cross")
            mask = None if text_mask is None else text_mask[:, None, None, :]
            x = self._add(x, attention(y, text, mask=mask)[0])
        width, dtype = x.shape[-1], self.dtype
        y = axes.layer_norm("mlp_norm", dtype=dtype)(x)
        y = nn.gelu(axes.dense(self.mlp, ("embed", "mlp"), name="mlp_in", dtype=dtype)(y))
        out = axes.dense(width, ("mlp", "embed"), name="mlp_out", scale=0.0, dtype=dtype)
        return self._add(x, out(y)), present

    def _add(self, x: Array, branch: Array) -> Array:
        """Add a branch to the residual stream."""
        if self.dropout:
            branch = nn.Dropout(self.dropout, deterministic=False)(branch)
        return axes.constrain(x + branch, "batch", None, "channels")


class _Attention(nn.Module):
    """Attention of x to `memory`; with `past`, to what it holds as well."""

    heads: int
    head_dim: int
    source: str = "embed"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n q d"],
        memory: Float[Array, "n m e"],
        *,
        bias: Array | None = None,
        mask: Array | None = None,
        past: KV | None = None,
    ) -> tuple[Float[Array, "n q d"], KV | None]:
        sizes = (self.heads, self.head_dim)
        q = heads_of(*sizes, name="query", dtype=self.dtype)(x)
        k, v = (
            heads_of(*sizes, name=name, source=self.source, dtype=self.dtype)(memory)
            for name in ("key", "value")
        )
        present = None
        if past is not None:
            k, v = (jnp.concatenate(pair, axis=1) for pair in ((past.k, k), (past.v, v)))
            present = KV(k=k, v=v)
        out = attend(q, k, v, bias=bias, mask=mask)
        return merge_heads(x.shape[-1], dtype=self.dtype)(out), present
