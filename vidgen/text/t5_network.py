"""The encoder of T5 1.1: the frozen text encoder of Imagen Video (XXL) and of Phenaki.

    x = E[id]
    x ← x + W_o softmax(q kᵀ + B + log m) v,   q, k, v = W norm(x)       no 1/√d: it is in W
    x ← x + W_2 (gelu(W_g norm(x)) ∘ W_1 norm(x))                        gelu: the tanh form
    out = norm(x) after the last layer,        norm(x) = scale ∘ x / √(mean x² + 1e-6)

B is one table of 32 buckets of the signed distance and all heads, shared by all layers. There is
no bias and no dropout. Norms and softmax are float32 whatever the rest is (T5 v1.1; Raffel et al.
2020, Shazeer 2020). The states of a tiny random model that `transformers` computed are a file of
the tests, which therefore need no PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vidgen.nn import axes, initializers, remat
from vidgen.nn.attention import RelativeBias, attend, heads_of, merge_heads

BUCKETS = 32
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of an encoder.

    Attributes:
      width: width of a token state.
      layers: number of layers, each of attention and feed-forward.
      heads: number of attention heads.
      mlp: hidden width of the feed-forward.
      head_dim: width of one head; heads · head_dim need not be the width.
      vocabulary: number of rows of the token table.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    head_dim: int = 64
    vocabulary: int = 32128

    @property
    def parameters(self) -> int:
        """Number of parameters, the token table included."""
        attention = 4 * self.width * self.heads * self.head_dim
        layer = attention + 3 * self.width * self.mlp + 2 * self.width
        return self.layers * layer + (self.vocabulary + 1) * self.width + BUCKETS * self.heads


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "small": Size(width=512, layers=8, heads=6, mlp=1024),
        "base": Size(width=768, layers=12, heads=12, mlp=2048),
        "large": Size(width=1024, layers=24, heads=16, mlp=2816),
        "xl": Size(width=2048, layers=24, heads=32, mlp=5120),
        "xxl": Size(width=4096, layers=24, heads=64, mlp=10240),
    }
)


class T5Encoder(nn.Module):
    """The encoder of T5 1.1: token ids to token states.

    Attributes:
      size: the shape of the network.
      dtype: dtype of the computation; parameters keep the dtype that they come in.
    """

    size: Size
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b s"], mask: Bool[Array, "b s"]
    ) -> Float[Array, "b s {self.size.width}"]:
        """Encode a batch of prompts.

        Args:
          ids: token ids, 0 on padding.
          mask: True on real tokens; no token attends to padding.

        Returns:
          The states after the last layer, float32, zero on padding.
        """
        size, dtype = self.size, self.dtype
        init = axes.partitioned(initializers.normal(1.0), ("codes", "embed"))
        table = self.param("embedding", init, (size.vocabulary, size.width), jnp.float32)
        x = axes.constrain(jnp.asarray(table)[ids].astype(dtype), "batch", "tokens", "channels")
        bias = RelativeBias(size.heads, BUCKETS, name="distance")(ids.shape[1])
        layers = remat.stacked(_Layer, size.layers)(size, dtype, name="layers")
        x, _ = layers(x, bias, mask[:, None, None, :])
        x = _norm("norm", "float32")(x)
        return x * mask[..., None]


class _Layer(nn.Module):
    """One layer, as the body of a scan: (x, bias, mask) -> (x, None)."""

    size: Size
    dtype: str

    @nn.compact
    def __call__(self, x: Array, bias: Array, mask: Array) -> tuple[Array, None]:
        heads, width, dtype = (self.size.heads, self.size.head_dim), self.size.width, self.dtype
        y = _norm("attention_norm", dtype)(x)
        q, k, v = (heads_of(*heads, name=n, dtype=dtype)(y) for n in ("query", "key", "value"))
        y = attend(q, k, v, bias=bias, mask=mask, scale=1.0)
        x += merge_heads(width, dtype=dtype)(y)
        y = _norm("mlp_norm", dtype)(x)
        gate, up = (
            axes.dense(self.size.mlp, ("embed", "mlp"), name=n, dtype=dtype, use_bias=False)(y)
            for n in ("gate", "up")
        )
        down = axes.dense(width, ("mlp", "embed"), name="down", dtype=dtype, use_bias=False)
        x += down(nn.gelu(gate, approximate=True) * up)
        return axes.constrain(x, "batch", "tokens", "channels"), None


def _norm(name: str, dtype: str) -> nn.RMSNorm:
    """Build an RMSNorm with float32 statistics, whose result has this dtype."""
    scale = axes.partitioned(initializers.ones, ("norm",))
    return nn.RMSNorm(epsilon=EPSILON, dtype=dtype, scale_init=scale, name=name)
