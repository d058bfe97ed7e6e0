"""I3D-RGB trained on Kinetics-400 (Carreira & Zisserman 2017): features of video.

Inception-v1 with its windows inflated to t x h x w, batch normalisation without a scale (it comes
before a ReLU), TensorFlow's "SAME" padding everywhere:

    Conv3d_1a_7x7 /2 · pool /(1,2,2) · Conv3d_2b_1x1 · Conv3d_2c_3x3 · pool /(1,2,2)
    Mixed_3b 3c · pool /2 · Mixed_4b 4c 4d 4e 4f · pool /2 · Mixed_5b 5c
    pool    = mean over t h w of Mixed_5c                                            (1024)
    logits  = 1x1x1 convolution of the mean over 2 x 7 x 7 windows, then mean over t  (400)

Mixed_3*, 4*, 5* have 1/2, 1/4, 1/8 of the frames and 1/8, 1/16, 1/32 of the pixels on a side,
rounded up, so they exist for a video of any size. "logits" need 9 frames and 193 pixels on a side;
the network was trained at 224. They are the features of the Frechet video distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidgen.pretrained import layers, weight_files
from vidgen.types import Params

ASSET, FILE = "i3d", "i3d-kinetics-400.ckpt"  # for `vidgen.assets.downloads`, and in its folder
MIN_FRAMES, MIN_PIXELS = 9, 193  # of the layer "logits"
_BLOCKS = {3: "bc", 4: "bcdef", 5: "bc"}
_POOLS = {3: ((1, 3, 3), (1, 2, 2)), 4: ((3, 3, 3), (2, 2, 2)), 5: ((2, 2, 2), (2, 2, 2))}
_WINDOW = (2, 7, 7)  # of the mean before the logits
LAYERS = (
    *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"),
    *(f"Mixed_{level}{block}" for level, blocks in _BLOCKS.items() for block in blocks),
    *("pool", "logits"),
)


def load_params(folder: Path) -> Params:
    """Load the weights of I3D.

    Args:
      folder: the folder of the asset `ASSET` (`vidgen.assets.downloads.locate`).

    Returns:
      {unit: {kernel, bias}} in float32, with normalization folded in.

    Raises:
      WeightFileError: the file is damaged.
      FileNotFoundError: there is no such file.
    """
    return _units(weight_files.read_arrays(folder / FILE))


def features(
    params: Params, x: Float[Array, "b t h w 3"], wanted: Iterable[str] | None = None
) -> dict[str, Array]:
    """Compute features of video by layer.

    Args:
      params: from `load_params`.
      x: clips in [-1, 1], of any size for the convolutional layers.
      wanted: names of `LAYERS`; None: all. Nothing after the last one is computed.

    Returns:
      By layer "b t h w c", of "pool" and "logits" "b c".

    Raises:
      ValueError: an unknown layer, or "logits" of a video that is too short or too small.
    """
    wanted = layers.check_layers(LAYERS if wanted is None else wanted, LAYERS)
    if "logits" in wanted and (x.shape[1] < MIN_FRAMES or min(x.shape[2:4]) < MIN_PIXELS):
        raise ValueError(
            f"The logits of I3D need at least {MIN_FRAMES} frames of {MIN_PIXELS} x {MIN_PIXELS} "
            f"pixels; the video has {x.shape[1]} of {x.shape[2]} x {x.shape[3]}. Resize it (the "
            "network was trained at 224 x 224) or take another layer."
        )
    return layers.take(_layers(params, x.astype(jnp.float32)), LAYERS, wanted)


def _layers(params: Params, x: Float[Array, "b t h w c"]) -> Iterator[tuple[str, Array]]:
    stem = params["Conv3d_1a_7x7"]
    x = jax.nn.relu(layers.thin_conv(x, stem["kernel"], stem["bias"], stride=2))
    yield "Conv3d_1a_7x7", x
    x = layers.max_pool(x, (1, 3, 3), (1, 2, 2))
    for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3"):
        x = _relu_unit(params[name], x)
        yield name, x
    for level, blocks in _BLOCKS.items():
        x = layers.max_pool(x, *_POOLS[level])
        for block in blocks:
            name = f"Mixed_{level}{block}"
            x = _mixed(params, x, name)
            yield name, x
    yield "pool", x.mean((1, 2, 3))
    summed = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, *_WINDOW, 1), (1,) * 5, "VALID")
    logits = params["Logits/Conv3d_0c_1x1"]
    y = layers.conv(summed / np.prod(_WINDOW), logits["kernel"], logits["bias"])
    yield "logits", y.mean((1, 2, 3))


def _mixed(params: Params, x: Float[Array, "b t h w c"], name: str) -> Float[Array, "b t h w c2"]:
    """Join four branches: 1x1, 1x1 then 3x3, the same again, pool then 1x1."""

    def unit(y: Array, branch: int, kind: str) -> Array:
        return _relu_unit(params[f"{name}/Branch_{branch}/Conv3d_{kind}"], y)

    pooled = layers.max_pool(x, (3, 3, 3), (1, 1, 1))
    branches = [
        unit(x, 0, "0a_1x1"),
        unit(unit(x, 1, "0a_1x1"), 1, "0b_3x3"),
        unit(unit(x, 2, "0a_1x1"), 2, "0b_3x3"),
        unit(pooled, 3, "0b_1x1"),
    ]
    return jnp.concatenate(branches, axis=-1)


def _relu_unit(unit: Params, x: Float[Array, "b t h w c"]) -> Array:
    return jax.nn.relu(layers.conv(x, unit["kernel"], unit["bias"]))


def _units(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """Return the file's convolutions by path, each with its normalization folded in."""
    units = {}
    for name, part in tree["params"].items():
        stats = tree["batch_stats"].get(name, {})
        if "Conv_0" in part:
            units[name] = _unit(part, stats)
        else:
            units |= {f"{name}/{inner}": _unit(part[inner], stats[inner]) for inner in part}
    return units


def _unit(params: Any, stats: Any) -> dict[str, np.ndarray]:
    kernel = np.asarray(params["Conv_0"]["kernel"], np.float32)
    if "BatchNorm_0" not in params:
        return {"kernel": kernel, "bias": np.asarray(params["Conv_0"]["bias"], np.float32)}
    moments = stats["BatchNorm_0"]
    return layers.fold_norm(kernel, moments["mean"], moments["var"], params["BatchNorm_0"]["bias"])
