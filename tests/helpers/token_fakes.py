"""Networks over tokens that are one Python function, a tokenizer that reads pixels, and batches.

The batches are made by NumPy, which compiles nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fake_models import FakeTokenizer

from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.maskgit import MaskGIT, TokenNetwork
from vidgen.train.partitioning import unbox
from vidgen.types import TextEmbedding, TokenBatch, VideoBatch, VideoShape

CODES = 6
SHAPE = VideoShape(frames=5, height=8, width=8)
GRID = (3, 2, 2)
TEXT = (4, 5)  # length, width
SIZES = {
    "codes": CODES, "grid": GRID, "layers": 1, "width": 16, "heads": 2, "mlp": 16, "unroll": True,
}  # fmt: skip


class Fake(TokenNetwork):
    """A network that is one function of (params, tokens, text, valid)."""

    function: Callable[..., Any] | None = None
    codes: int = CODES

    @nn.nowrap
    def init(self, rngs, *args, **kwargs):
        return {"weight": jnp.zeros(())}

    @nn.nowrap
    def apply(self, variables, tokens, text, *, valid=None, train=False, rngs=None):
        return self.function(variables, tokens, text, valid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels(FakeTokenizer):
    """The token of a patch is read off one of its pixels; `params` shifts them all."""

    codes: int = CODES

    def grid(self, frames, height, width):
        return (1 + (frames - 1) // 2, height // 4, width // 4)

    def encode(self, params, video):
        corner = video[:, ::2, ::4, ::4, 0]
        return (jnp.floor((corner + 1) * 100).astype(jnp.int32) + params) % self.codes


def uniform(params, tokens, text, valid):
    return jnp.zeros((*tokens.shape, CODES))


def model(function=uniform, **changes):
    network = function if isinstance(function, MaskGIT) else Fake(function=function)
    return MaskedVideoModel(**{"shape": SHAPE, "tokenizer": Pixels(), "network": network} | changes)


def text(b, seed=0):
    tokens = np.random.default_rng(seed).normal(size=(b, *TEXT))
    mask = np.arange(TEXT[0]) < 1 + np.arange(b)[:, None] % 4
    return TextEmbedding(tokens=jnp.asarray(tokens, jnp.float32), mask=jnp.asarray(mask))


def images(b, which):
    return jnp.asarray(np.full(b, which) if isinstance(which, bool) else which)


def videos(b=4, independent=False, seed=0):
    video = np.random.default_rng(seed).uniform(-1, 1, (b, *SHAPE.thwc))
    video = jnp.asarray(video, jnp.float32)
    return VideoBatch(video=video, text=text(b), independent_frames=images(b, independent))


def cached(b=4, independent=False, seed=0, tokens=None):
    if tokens is None:
        tokens = jnp.asarray(
            np.random.default_rng(seed).integers(CODES, size=(b, *GRID)), jnp.int32
        )
    return TokenBatch(tokens=tokens, text=text(b), independent_frames=images(b, independent))


def lively(network, tokens, words, seed=0):
    """Parameters without the zeros that networks start with, so that everything has an effect.

    Made by numpy, which compiles nothing.
    """
    shapes = unbox(jax.eval_shape(network.init, jax.random.key(0), tokens, words))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        return jnp.asarray(
            (path[-1].key == "scale") + 0.3 * rng.normal(size=leaf.shape), leaf.dtype
        )

    return jax.tree_util.tree_map_with_path(fill, shapes)
