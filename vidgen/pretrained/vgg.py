"""VGG-16 (Simonyan & Zisserman 2014) with the user's own weights: features of images.

No package of the Python package index carries these weights. The file is torchvision's
`vgg16-*.pth`, or the same names and shapes in a .safetensors file; the classifier is not read.

    relu1_2 · pool · relu2_2 · pool · relu3_3 · pool · relu4_3 · pool · relu5_3

All convolutions are 3x3; relu{level}_{n} is the n-th of its level. RGB pixels in [0, 1] minus the
mean of ImageNet, over its deviation.
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

MIN_PIXELS = 16  # four pools of 2
_KIND = "VGG-16 in torchvision's format"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions) by level
LAYERS = tuple(f"relu{i + 1}_{j + 1}" for i, (_, n) in enumerate(_WIDTHS) for j in range(n))
PERCEPTUAL = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # as in LPIPS


def load_params(path: Path) -> Params:
    """Load the convolutions of VGG-16.

    Args:
      path: torchvision's vgg16-*.pth, or the same tensors in a .safetensors file.

    Returns:
      {layer: {kernel, bias}} in float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a VGG-16, or no weight file at all.
    """
    tensors = weight_files.read_tensors(path, prefix="features.")
    params, index, channels = {}, 0, 3
    for level, (width, count) in enumerate(_WIDTHS):
        for place in range(count):
            weight, bias = (
                weight_files.expect(
                    tensors, f"features.{index}.{part}", shape, path=path, kind=_KIND
                )
                for part, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,)))
            )
            kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
            params[f"relu{level + 1}_{place + 1}"] = {"kernel": kernel, "bias": bias}
            index, channels = index + 2, width  # torchvision counts the ReLU
        index += 1  # and the pool
    return params


def features(
    params: Params, x: Float[Array, "n h w 3"], wanted: Iterable[str] | None = None
) -> dict[str, Array]:
    """Compute features of RGB images by layer.

    Args:
      params: from `load_params`.
      x: images in [-1, 1] of at least 16 x 16 pixels.
      wanted: names of `LAYERS`; None: all. Nothing after the last one is computed.

    Returns:
      By layer "n h w c", after the ReLU.

    Raises:
      ValueError: an unknown layer, or images that are too small.
    """
    layers.check_size("VGG-16", x, MIN_PIXELS)
    return layers.take(_layers(params, x.astype(jnp.float32)), LAYERS, wanted)


def _layers(params: Params, x: Float[Array, "n h w c"]) -> Iterator[tuple[str, Array]]:
    x = ((x + 1) / 2 - np.array(_MEAN, np.float32)) / np.array(_DEVIATION, np.float32)
    for name in LAYERS:
        if name.endswith("_1") and name != LAYERS[0]:
            x = layers.max_pool(x, (2, 2), (2, 2), "VALID")
        x = jax.nn.relu(layers.conv(x, params[name]["kernel"], params[name]["bias"]))
        yield name, x
