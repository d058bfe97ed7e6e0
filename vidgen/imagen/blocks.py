"""The space-time block: one residual block and its optional operators over space, text and time.

    x ─ residual block (1x3x3, FiLM) ─ spatial attention ─ text attention ─ temporal ─ feed-forward

Each operator is a residual branch that starts at zero, so a fresh network is the identity along
the residual stream, and an image model stays one when its temporal branches are added (Imagen
Video, video diffusion architectures; Video Diffusion Models).
"""

from __future__ import annotations

import dataclasses
from typing import no_type_check

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vidgen import checks
from vidgen.nn import attention, axes
from vidgen.nn.conv import TemporalConv, mask_independent, norm, spatial_conv, swish

ATTENTION = ("none", "attention")
TEMPORAL = ("none", "attention", "conv", "attention+conv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelSpec:
    """One resolution of the U-Net.

    Attributes:
      width: channels.
      blocks: space-time blocks on the way down, and again on the way up.
      stride: spatial down-sampling on entering the level from the one above. With 1 at the first
        level the network begins at full resolution; with 2 it is the "efficient" order, which
        down-samples first and up-samples last (Imagen, efficient U-Net).
      spatial: self-attention over each frame, or none.
      text: cross-attention to the text tokens, or none.
      temporal: attention over frames, a 3x1x1 convolution, both, or none.
      feed_forward: hidden width of a feed-forward layer, in multiples of `width`; 0 for none.
      head_dim: features of an attention head; `width` must be a multiple.
    """

    width: int
    blocks: int = 2
    stride: int = 1
    spatial: str = "none"
    text: str = "none"
    temporal: str = "none"
    feed_forward: int = 0
    head_dim: int = 64

    def __post_init__(self) -> None:
        checks.one_of(self, spatial=ATTENTION, text=ATTENTION, temporal=TEMPORAL)
        checks.at_least(self, width=1, blocks=1, stride=1)
        attends = "attention" in self.spatial + self.text + self.temporal
        if attends and self.width % self.head_dim:
            raise ValueError(
                f"LevelSpec.width {self.width} is not a multiple of head_dim {self.head_dim}."
            )

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.width // self.head_dim


@no_type_check
class BlockInputs(PyTreeNode):
    """What every block reads besides the video: all of it is the same for all blocks.

    `cond` is the conditioning vector per frame (one frame where all are alike), `text` the
    normalised tokens of each clip, or of each frame.
    """

    cond: Float[Array, "b #t e"]
    text: Float[Array, "b s d"] | Float[Array, "b t s d"]
    text_mask: Bool[Array, "b s"] | Bool[Array, "b t s"]
    independent_frames: Bool[Array, "b"]


class ResidualBlock(nn.Module):
    """[norm, swish, conv] twice, the second norm scaled and shifted by the conditioning (FiLM).

    Attributes:
      width: output channels; where the input has others, a dense layer maps the skip path.
      norm: kind of normalisation.
      dropout: rate before the second convolution.
      dtype: dtype of the computation.
    """

    width: int
    norm: str = "group"
    dropout: float = 0.0
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], cond: Float[Array, "b #t e"], train: bool
    ) -> Float[Array, "b t h w c2"]:
        """Transform features, scaled and shifted by the conditioning vector.

        Args:
          x: features.
          cond: conditioning vector of each frame, or of all frames of a clip.
          train: whether dropout acts.

        Returns:
          Features of `width` channels; before training x itself, or its projection to that width.
        """
        dtype = self.dtype
        y = swish(norm(self.norm, x.shape[-1], name="norm1", dtype=dtype)(x))
        y = spatial_conv(self.width, name="conv1", dtype=dtype)(y)
        film = axes.dense(2 * self.width, ("cond", "film"), name="film", scale=0.0, dtype=dtype)
        scale, shift = jnp.split(film(cond)[:, :, None, None, :], 2, axis=-1)
        y = norm(self.norm, self.width, name="norm2", dtype=dtype)(y) * (1 + scale) + shift
        y = nn.Dropout(self.dropout, deterministic=not train)(swish(y))
        y = spatial_conv(self.width, name="conv2", scale=0.0, dtype=dtype)(y)
        if x.shape[-1] != self.width:
            x = axes.dense(self.width, ("conv_in", "conv_out"), name="skip", dtype=dtype)(x)
        return x + y


class FeedForward(nn.Module):
    """norm, dense to `hidden`, GELU, dense back to the input width (zero at the start)."""

    hidden: int
    norm: str = "group"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*x c"]) -> Float[Array, "*x c"]:
        """Transform each pixel alone.

        Args:
          x: features.

        Returns:
          The branch, without the sum; 0 before training.
        """
        dtype, width = self.dtype, x.shape[-1]
        y = norm(self.norm, width, name="norm", dtype=dtype)(x)
        y = nn.gelu(axes.dense(self.hidden, ("embed", "mlp"), name="in", dtype=dtype)(y))
        return axes.dense(width, ("mlp", "embed"), name="out", scale=0.0, dtype=dtype)(y)


class SpaceTimeBlock(nn.Module):
    """One block of a level; a scan body: (x, skip, inputs) -> (y, y).

    Attributes:
      spec: the level's operators.
      norm: kind of normalisation.
      dropout: rate in the residual block.
      train: whether dropout acts.
      dtype: dtype of the computation.
    """

    spec: LevelSpec
    norm: str = "group"
    dropout: float = 0.0
    train: bool = False
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], skip: Array | None, inputs: BlockInputs
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w c"]]:
        """Apply the operators of the spec in the order of the module's docstring.

        Args:
          x: features from the block before.
          skip: features of the way down, which are joined to x on channels; None on the way down.
          inputs: conditioning vectors and text, the same for all blocks.

        Returns:
          The features twice, as a scan wants them: for the next block, and for a skip of the way
          up.
        """
        spec, common = self.spec, {"norm": self.norm, "dtype": self.dtype}
        y = x if skip is None else jnp.concatenate([x, skip], axis=-1)
        block = ResidualBlock(spec.width, dropout=self.dropout, name="residual", **common)
        y = axes.constrain_video(block(y, inputs.cond, self.train))
        if spec.spatial == "attention":
            y += attention.SpatialAttention(spec.heads, name="spatial_attention", **common)(y)
        if spec.text == "attention":
            attend = attention.TextAttention(spec.heads, name="text_attention", **common)
            y += attend(y, inputs.text, inputs.text_mask)
        y = self._over_time(y, inputs.independent_frames)
        if spec.feed_forward:
            hidden = spec.feed_forward * spec.width
            y += FeedForward(hidden, name="feed_forward", **common)(y)
        y = axes.constrain_video(y)
        return y, y

    def _over_time(
        self, y: Float[Array, "b t h w c"], independent: Bool[Array, "b"]
    ) -> Float[Array, "b t h w c"]:
        """Apply the temporal operators; nothing passes between independent frames."""
        spec, common = self.spec, {"norm": self.norm, "dtype": self.dtype}
        if "conv" in spec.temporal:
            branch = norm(self.norm, spec.width, name="temporal_norm", dtype=self.dtype)(y)
            branch = TemporalConv(spec.width, dtype=self.dtype, name="temporal_conv")(swish(branch))
            y += mask_independent(branch, independent)
        if "attention" in spec.temporal:
            attend = attention.TemporalAttention(spec.heads, name="temporal_attention", **common)
            y += attend(y, independent)
        return y
