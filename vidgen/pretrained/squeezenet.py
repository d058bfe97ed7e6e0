"""SqueezeNet 1.1 trained on ImageNet (Iandola et al. 2016): cheap features of images.

Caffe's network: blue, green, red pixels in 0..255 minus their means, windows that start at the
first pixel, pools of 3 with stride 2 that may hang over the far edge. A fire module is

    s = relu(1x1 x) ,   y = [relu(1x1 s), relu(3x3 s)]

    conv1 3x3 /2 · pool · fire2 3 · pool · fire4 5 · pool · fire6 7 8 9 · conv10 1x1 · mean

The package behind the weights does not say which pixels it expects; blue-green-red without the mean
is what recognises photographs best (`espresso` 0.98 of a cup of coffee, against 0.53 in RGB order).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidgen.pretrained import layers, weight_files
from vidgen.types import Params

ASSET, FILE = "squeezenet", "squeezenet_weights.pkl"  # of `vidgen.assets.downloads`
MIN_PIXELS = 3
LAYERS = ("conv1", *(f"fire{index}" for index in range(2, 10)), "logits")
PERCEPTUAL = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")  # as in LPIPS
_POOL_BEFORE = (2, 4, 6)  # fire modules
_BGR_MEAN = (103.939, 116.779, 123.68)


def load_params(folder: Path) -> Params:
    """Load the weights of SqueezeNet.

    Args:
      folder: the folder of the asset `ASSET` (`vidgen.assets.downloads.locate`).

    Returns:
      {layer: {kernel, bias}} in numpy.

    Raises:
      WeightFileError: the file is damaged.
      FileNotFoundError: there is no such file.
    """
    pairs = weight_files.read_arrays(folder / FILE)
    return {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in pairs.items()}


def features(
    params: Params, x: Float[Array, "n h w 3"], wanted: Iterable[str] | None = None
) -> dict[str, Array]:
    """Compute features of RGB images by layer.

    Args:
      params: from `load_params`.
      x: images in [-1, 1] of at least 3 x 3 pixels.
      wanted: names of `LAYERS`; None: all. Nothing after the last one is computed.

    Returns:
      By layer "n h w c", of "logits" "n 1000".

    Raises:
      ValueError: an unknown layer, or images that are too small.
    """
    layers.check_size("SqueezeNet", x, MIN_PIXELS)
    return layers.take(_layers(params, x.astype(jnp.float32)), LAYERS, wanted)


def _layers(params: Params, x: Float[Array, "n h w c"]) -> Iterator[tuple[str, Array]]:
    x = (x[..., ::-1] + 1) * 127.5 - np.array(_BGR_MEAN, np.float32)
    x = _relu_conv(params["conv1"], x, stride=2, padding="VALID")
    yield "conv1", x
    for index in range(2, 10):
        if index in _POOL_BEFORE:
            x = layers.max_pool(x, (3, 3), (2, 2), "CEIL")
        x = _fire(params, x, f"fire{index}")
        yield f"fire{index}", x
    yield "logits", _relu_conv(params["conv10"], x).mean((1, 2))


def _fire(params: Params, x: Float[Array, "n h w c"], name: str) -> Float[Array, "n h w c2"]:
    squeezed = _relu_conv(params[f"{name}/squeeze1x1"], x)
    expanded = [_relu_conv(params[f"{name}/expand{size}"], squeezed) for size in ("1x1", "3x3")]
    return jnp.concatenate(expanded, axis=-1)


def _relu_conv(
    layer: Params, x: Float[Array, "n h w c"], stride: int = 1, padding: str = "SAME"
) -> Float[Array, "n h2 w2 c2"]:
    y = layers.conv(x, layer["kernel"], layer["bias"], stride=stride, padding=padding)
    return jax.nn.relu(y)
