"""Networks small enough for tests, with inputs and with parameters that keep no branch silent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.unet import VideoUNet
from vidgen.types import Conditioning, TextEmbedding

EVERY_OPERATOR = LevelSpec(
    width=16,
    blocks=2,
    stride=2,
    spatial="attention",
    text="attention",
    temporal="attention+conv",
    feed_forward=2,
    head_dim=8,
)
TWO_LEVELS = (LevelSpec(width=16, blocks=1, temporal="conv"), EVERY_OPERATOR)
ONE_LEVEL = (LevelSpec(width=8, blocks=2, text="attention", temporal="attention+conv", head_dim=8),)


def network(levels=TWO_LEVELS, **changes):
    return VideoUNet(levels=levels, **{"unroll": True, "cond_width": 32} | changes)


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def text(b=2, s=5, d=12, seed=7):
    """Prompts of s, s - 2, s - 4, ... tokens."""
    sizes = np.maximum(s - 2 * np.arange(b), 1)
    return TextEmbedding(
        tokens=normal(seed, b, s, d), mask=jnp.asarray(np.arange(s) < sizes[:, None])
    )


def inputs(b=2, t=4, h=8, w=8, *, independent=False, seed=0, **extra):
    """(z, logsnr, cond)."""
    cond = Conditioning(text=text(b), independent_frames=jnp.full(b, independent), **extra)
    return normal(seed, b, t, h, w, 3), jnp.linspace(-3.0, 2.0, b), cond


def extra_inputs(b=2, t=4, h=8, w=8):
    """What later stages are told: keywords of `inputs`."""
    return dict(
        low_res=normal(20, b, t, h, w, 3),
        aug_logsnr=jnp.linspace(-1.0, 3.0, b),
        known_frames=jnp.arange(t) < jnp.arange(1, b + 1)[:, None],
        guidance_weight=jnp.linspace(0.0, 4.0, b),
    )


def shapes(module, *args, **static):
    """Parameters without their values, and without boxes."""
    init = functools.partial(module.init, **static)
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *args))


def random_params(module, *args, **static):
    """No zeros anywhere; kernels of about unit gain."""
    leaves, tree = jax.tree.flatten_with_path(shapes(module, *args, **static))
    return tree.unflatten(
        [_fill(path[-1].key, leaf.shape, seed) for seed, (path, leaf) in enumerate(leaves)]
    )


def _fill(name, shape, seed):
    if name != "kernel":
        return float(name == "scale") + 0.3 * normal(seed, *shape)
    return normal(seed, *shape) / np.sqrt(max(shape[-2] * np.prod(shape[-4:-2]), 8))


def edit(params, change):
    """`params` with change(names, leaf) in place of each leaf; names as in "down1/norm1/scale"."""

    def each(path, leaf):
        return change("/".join(key.key for key in path[1:]), leaf)

    return jax.tree_util.tree_map_with_path(each, params)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A network with random parameters, compiled once for each shape of its inputs."""

    net: VideoUNet
    params: dict

    @classmethod
    def of(cls, net, *args):
        return cls(net, random_params(net, *args))

    @functools.cached_property
    def _apply(self):
        return jax.jit(self.net.apply)

    def __call__(self, z, logsnr, cond, params=None):
        return np.asarray(self._apply(self.params if params is None else params, z, logsnr, cond))
