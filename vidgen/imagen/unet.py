"""The video U-Net: one class for all seven stages, described by a list of levels.

    video ─ stem ─ level 0 ─↓─ level 1 ─↓─ ... ─ level n ─↑─ ... ─ level 0 ─ head ─ video
                     └──────────── skips ────────────────────────────┘

The conditioning vector e is computed once,
    e = MLP( logsnr + pooled text + augmentation level + guidance weight + fps + place in clip ),
and modulates every residual block (FiLM); the text tokens enter the levels that attend to them.
All blocks of a level have the same shapes, so a level is one scan: its parameters are stacked
along "layers" whether the scan is unrolled or not (Imagen Video, video diffusion architectures),
and both options share checkpoints. On a CPU a loop over two blocks saves no time of compiling
(imagen-S base: 4,554 fusions against 5,048 unrolled), and holds all that its backward pass reads.

A frame's place enters through the conditioning vector and a pixel's place through the stem. With
these, training times that lean to noise and queries of unit variance in the attention pooling, the
tiny model reads the direction of motion from the text after about 1,250 steps of 16 clips (0.96 of
clips right by the sprite probe); before them it stood at chance (0.09) after 826. They were not
measured one by one.

`pixel_skip`: with v, 500 steps of the demo's `ssr1` (patches of 4 x 4, width 64) left noise all
over the clips, as v at low noise is the noise itself, 48 values a patch. Predicting the clean video
up to SNR e^20, the last of 32 steps still left its grain: 26.6 dB on held-out clips, and 28.3 dB of
the same weights with the ladder cut at log-SNR 3 (4: 28.0, 5: 27.6, 6: 27.2; bilinear: 28.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vidgen import checks
from vidgen.imagen import preconditioning
from vidgen.imagen.blocks import BlockInputs, LevelSpec, SpaceTimeBlock
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.nn import attention, axes, embeddings, remat
from vidgen.nn.conv import (
    NORMS,
    depth_to_space,
    norm,
    space_to_depth,
    spatial_conv,
    swish,
    upsample_nearest,
)
from vidgen.nn.transformer import DTYPES
from vidgen.types import Conditioning

# Three quarters of a fresh student's error go when it is guided by the mean weight whatever it is
# told, also at w = 0: E(w)²/E(w²) of weights drawn evenly from 0. The output that w scales has to
# be learned before that. [guess] Its gain, 8 for a width of 32, took the slope of a student of 250
# updates at 5e-4 from .40 to .66 at log-SNR -3 and from .20 to .37 at 1.5. An update of Adam moves
# an output by its rate times the weights that it has, so that the gain falls with the width: with 8
# a network of width 64 began with six times its error, at a rate of 1e-3.
GUIDANCE_GAIN = 256.0


class VideoUNet(nn.Module, DenoisingNetwork):
    """A factorised space-time U-Net.

    Attributes:
      levels: from full resolution down.
      channels: number of channels of the video.
      patch: pixels folded into channels by the stem and unfolded by the head (1: none).
      cond_width: width e of the conditioning vector.
      cond_layers: hidden layers of its MLP.
      pool_queries: learned queries that pool the text into the conditioning vector.
      frame_positions: Fourier features of each frame's place in the clip that enter the
        conditioning vector; 0 for none. Ignored where frames are independent.
      pixel_positions: Fourier features of each pixel's place in the frame that are added after the
        stem; 0 for none, as a stage that is trained on crops needs.
      pixel_skip: whether z and the low-resolution video reach the output on a path of their own,
        each channel times a number that the conditioning decides: what is known of every pixel
        need not pass through features that are as narrow as a patch of pixels.
      guidance_head: whether the guidance weight w of a student also multiplies an output of its
        own, network + w * guidance, as guidance is affine in w (imagen/distillation.py).
      norm: "group" or "channel" (see nn/conv.py).
      dropout: rate in the residual blocks.
      dtype: dtype of the computation; parameters are float32.
      remat: what the backward pass keeps of each block (`nn/remat.py`).
      unroll: whether the blocks of a level are unrolled when compiled: same parameters and
        outputs; with many blocks slower to compile, on a CPU a little faster to run.
    """

    levels: Sequence[LevelSpec]
    channels: int = 3
    patch: int = 1
    cond_width: int = 512
    cond_layers: int = 2
    pool_queries: int = 4
    frame_positions: int = 0
    pixel_positions: int = 0
    pixel_skip: bool = False
    guidance_head: bool = False
    norm: str = "group"
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("VideoUNet.levels is empty; give at least one LevelSpec.")
        checks.one_of(self, norm=NORMS, dtype=DTYPES, remat=remat.POLICIES)
        super().__post_init__()

    @property
    def stride(self) -> int:
        """Height and width must be multiples of this."""
        return self.patch * math.prod(level.stride for level in self.levels)

    @property
    def operators(self) -> dict[str, tuple[int, ...]]:
        """The levels that use each operator besides the spatial convolution."""
        uses = {
            "spatial attention": lambda level: level.spatial == "attention",
            "temporal attention": lambda level: "attention" in level.temporal,
            "temporal conv": lambda level: "conv" in level.temporal,
            "text attention": lambda level: level.text == "attention",
        }
        return {
            name: tuple(i for i, level in enumerate(self.levels) if used(level))
            for name, used in uses.items()
        }

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        logsnr: Float[Array, "b"],
        cond: Conditioning,
        *,
        train: bool = False,
    ) -> Float[Array, "b t h w {self.channels}"]:
        """Compute the raw output for noisy video; the parameterization says what it means.

        Args:
          z: noisy video; height and width are multiples of `stride`.
          logsnr: λ of each clip.
          cond: text and all else that the network reads besides z.
          train: whether dropout acts.

        Returns:
          The output, float32; before training 0, or with a `low_res_variance` the posterior mean.

        Raises:
          ValueError: height or width is no multiple of `stride`.
        """
        self._check(z)
        inputs = self._conditioning(z.shape[1], logsnr, cond)
        if cond.low_res_variance is None:
            posterior, pixels = None, self._pixels(z, cond)
        else:
            *posterior, difference = preconditioning.posterior(z, logsnr, cond)
            pixels = self._pixels(difference, cond.replace(low_res=posterior[0]))
        stem = x = self._stem(pixels)

        skips = []
        for i, level in enumerate(self.levels):
            if level.stride > 1 or i > 0:
                down = spatial_conv(
                    level.width, name=f"down{i}_in", stride=level.stride, dtype=self.dtype
                )
                x = axes.constrain_video(down(x))
            x, kept = self._blocks(f"down{i}", level, train)(x, None, inputs)
            skips.append(kept)
        for i in reversed(range(len(self.levels))):
            level = self.levels[i]
            skip = skips.pop()[::-1] / math.sqrt(2)
            x, _ = self._blocks(f"up{i}", level, train)(x, skip, inputs)
            if level.stride > 1 or i > 0:
                width = self.levels[max(i - 1, 0)].width
                x = upsample_nearest(x, level.stride)
                x = spatial_conv(width, name=f"up{i}_out", dtype=self.dtype)(x)
                x = axes.constrain_video(x)
        if self.levels[0].stride > 1:  # full resolution has met no block: show the head the stem
            x = jnp.concatenate([x, stem], axis=-1)
        out = self._head(x, cond.guidance_weight)
        if posterior is not None:
            mean, std = posterior
            return mean + std * out
        return out + (self._pixel_skip(z, inputs, cond) if self.pixel_skip else 0)

    def _pixel_skip(
        self, z: Float[Array, "b t h w c"], inputs: BlockInputs, cond: Conditioning
    ) -> Float[Array, "b t h w c"]:
        """Scale each channel of the input videos by a number that the conditioning decides."""
        c = self.channels
        count = c if cond.low_res is None else 2 * c
        dense = axes.dense(count, ("cond", "pixels"), name="pixel_skip", scale=0.0)
        shares = dense(inputs.cond)[:, :, None, None, :]
        out = shares[..., :c] * z
        return out if cond.low_res is None else out + shares[..., c:] * cond.low_res

    def _stem(self, pixels: Float[Array, "b t H W c"]) -> Array:
        """Map the video, and all that conditions it pixel by pixel, to features."""
        x = space_to_depth(pixels.astype(self.dtype), self.patch)
        width = self.levels[0].width
        x = spatial_conv(width, ("pixels", "conv_out"), name="stem", dtype=self.dtype)(x)
        if self.pixel_positions:
            h, w = x.shape[2:4]
            places = embeddings.pixel_features(h, w, self.pixel_positions)
            x += axes.dense(width, (None, "conv_out"), name="pixel_position", dtype=self.dtype)(
                places
            )
        return axes.constrain_video(x)

    def _head(self, x: Float[Array, "b t h w c"], weight: Float[Array, "b"] | None) -> Array:
        """Map features to video "b t H W c2", in float32; zero at the start.

        The gradient of an output that w multiplies is features times what guidance adds, from the
        first update on. Through the conditioning vector alone, w has to meet text and video in
        layers that do not know it yet: hundreds of updates at a rate of 5e-4 taught it next to
        nothing.
        """
        x = swish(norm(self.norm, x.shape[-1], name="head_norm", dtype=self.dtype)(x))
        pixels = self.channels * self.patch**2
        names = ("conv_in", "pixels")
        out = spatial_conv(pixels, names, name="head", scale=0.0)(x)
        if self.guidance_head and weight is not None:
            share = GUIDANCE_GAIN / x.shape[-1] * weight[:, None, None, None, None]
            out += share * spatial_conv(pixels, names, name="guidance_head", scale=0.0)(x)
        return depth_to_space(out, self.patch)

    def _blocks(self, name: str, level: LevelSpec, train: bool) -> nn.Module:
        """Build a level's blocks: (x, stacked skips | None, inputs) -> (x, stacked outputs)."""
        stack = remat.stacked(
            SpaceTimeBlock,
            level.blocks,
            policy=self.remat,
            unroll=self.unroll,
            by_layer=name.startswith("up"),  # each has the skip of its own
        )
        return stack(level, self.norm, self.dropout, train, self.dtype, name=name)

    def _conditioning(
        self, frames: int, logsnr: Float[Array, "b"], cond: Conditioning
    ) -> BlockInputs:
        """Compute the conditioning vector of each frame, and normalise the text."""
        width, dtype = self.cond_width, self.dtype
        text = axes.layer_norm("text_norm", "text")(cond.text.tokens).astype(dtype)
        pool = attention.AttentionPool(width, self.pool_queries, dtype=dtype, name="text_pool")
        pooled = pool(text, cond.text.mask)
        e = self._scalar(embeddings.logsnr_features(logsnr, width), "logsnr")
        if cond.aug_logsnr is not None:
            e += self._scalar(embeddings.logsnr_features(cond.aug_logsnr, width), "aug_logsnr")
        if cond.guidance_weight is not None:
            # [guess] 1000·w/100 sinusoids cover the weights in use, 0 to about 15.
            features = embeddings.sinusoids(cond.guidance_weight, width, max_time=100.0)
            e += self._scalar(features, "guidance_weight", scale=0.0)
        if cond.fps is not None:  # unrelated images have no rate
            rates = self._scalar(embeddings.rate_features(cond.fps, width), "fps", scale=0.0)
            e += jnp.where(cond.independent_frames[:, None], 0, rates)
        # One caption for all frames, or one for each.
        e = e[:, None] + (pooled[:, None] if pooled.ndim == 2 else pooled)
        if self.frame_positions:
            e = e + self._places(frames, cond.independent_frames)
        for i in range(self.cond_layers):
            e = axes.dense(width, (None, "cond"), name=f"cond{i}", dtype=dtype)(swish(e))
        return BlockInputs(swish(e), text, cond.text.mask, cond.independent_frames)

    def _scalar(self, features: Float[Array, "b e"], name: str, scale: float = 1.0) -> Array:
        """Compute a scalar's share of the conditioning vector."""
        names = (None, "cond")
        return axes.dense(self.cond_width, names, name=name, scale=scale, dtype=self.dtype)(
            features
        )

    def _places(self, frames: int, independent: Bool[Array, "b"]) -> Float[Array, "b t e"]:
        """Embed each frame's place in the clip; zero for independent frames, which have none."""
        features = embeddings.frame_features(frames, self.frame_positions)
        places = self._scalar(features, "frame_position")[None]
        return jnp.where(independent[:, None, None], 0, places)

    def _pixels(self, z: Float[Array, "b t h w c"], cond: Conditioning) -> Array:
        """Concatenate z on channels with all that conditions it pixel by pixel."""
        parts = [z]
        if cond.low_res is not None:
            parts.append(cond.low_res)
        if cond.known_frames is not None:
            known = cond.known_frames[:, :, None, None, None].astype(z.dtype)
            parts.append(jnp.broadcast_to(known, (*z.shape[:-1], 1)))
        if cond.estimate is not None:
            parts.append(cond.estimate.video)
        return jnp.concatenate(parts, axis=-1)

    def _check(self, z: Array) -> None:
        h, w = z.shape[2:4]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"frames are {h}x{w}, but this network down-samples by {self.stride}: "
                f"height and width must be multiples of {self.stride}."
            )
