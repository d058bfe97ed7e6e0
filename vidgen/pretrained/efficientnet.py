"""EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019): features of images.

Inverted residual blocks (expand 1x1, depthwise k x k, project 1x1; plus the input where the shape
stays), ReLU6, no squeeze-and-excitation, TensorFlow's "SAME" padding; pixels in 0..255 enter as
(x - 127) / 128.

    stem 3x3 /2 · block0 .. block15 · head 1x1 · pool = mean (1280) · logits (1000)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidgen.pretrained import layers, weight_files
from vidgen.types import Params

ASSET, FILE = "efficientnet_lite0", "efficientnet-lite0-57934424.pth"
# (blocks, stride of the first) by stage; widths and kernels are those of the weights.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
_STRIDES = tuple(s if i == 0 else 1 for n, s in _STAGES for i in range(n))
LAYERS = ("stem", *(f"block{i}" for i in range(len(_STRIDES))), "head", "pool", "logits")
# Our name -> (convolution, normalisation) in the file, within a block.
_BLOCK_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def load_params(folder: Path) -> Params:
    """The weights in the asset's folder: {part: {kernel, bias}}, blocks one level deeper."""
    tensors = weight_files.read_tensors(folder / FILE)
    params: dict[str, Params] = {
        "stem": _folded(tensors, "_conv_stem", "_bn0"),
        "head": _folded(tensors, "_conv_head", "_bn1"),
        "logits": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]},
    }
    for index in range(len(_STRIDES)):
        prefix = f"_blocks.{index}."
        params[f"block{index}"] = {
            part: _folded(tensors, prefix + conv, prefix + norm)
            for part, (conv, norm) in _BLOCK_PARTS.items()
            if f"{prefix}{conv}.weight" in tensors  # the first block does not expand
        }
    return params


def features(
    params: Params, x: Float[Array, "n h w 3"], wanted: Iterable[str] | None = None
) -> dict[str, Array]:
    """Features of RGB images in [-1, 1] by layer, "n h w c" (the last two layers "n c").

    Args:
      params: from `load_params`.
      x: images of any size; the network was trained at 224 x 224.
      wanted: names out of `LAYERS`; None means all. Nothing after the last one is computed.

    Raises:
      ValueError: an unknown layer.
    """
    return layers.take(_layers(params, x.astype(jnp.float32)), LAYERS, wanted)


def _layers(params: Params, x: Float[Array, "n h w c"]) -> Iterator[tuple[str, Array]]:
    x = ((x + 1) * 127.5 - 127) / 128
    x = jax.nn.relu6(_conv(params["stem"], x, stride=2))
    yield "stem", x
    for index, stride in enumerate(_STRIDES):
        x = _block(params[f"block{index}"], x, stride)
        yield f"block{index}", x
    x = jax.nn.relu6(_conv(params["head"], x))
    yield "head", x
    x = x.mean((1, 2))
    yield "pool", x
    yield "logits", x @ params["logits"]["kernel"] + params["logits"]["bias"]


def _block(block: Params, x: Float[Array, "n h w c"], stride: int) -> Float[Array, "n h2 w2 c2"]:
    y = jax.nn.relu6(_conv(block["expand"], x)) if "expand" in block else x
    depthwise = block["depthwise"]
    y = layers.depthwise_conv(y, depthwise["kernel"], depthwise["bias"], stride=stride)
    y = jax.nn.relu6(y)
    y = _conv(block["project"], y)
    return x + y if x.shape == y.shape else y


def _conv(part: Params, x: Float[Array, "n h w c"], stride: int = 1) -> Float[Array, "n h2 w2 c2"]:
    return layers.conv(x, part["kernel"], part["bias"], stride=stride)


def _folded(tensors: Mapping[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    """A convolution [out in h w] and its normalisation as one kernel [h w in out] and bias."""
    kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
    names = ("running_mean", "running_var", "bias", "weight")
    return layers.fold_norm(kernel, *(tensors[f"{norm}.{name}"] for name in names))
