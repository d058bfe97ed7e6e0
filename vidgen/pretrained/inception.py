"""Inception-v3 as the Frechet inception distance uses it, with the user's own weights.

The network of Szegedy et al. 2016 in TensorFlow's graph of 2015-12-05, by which the distance is
defined (Heusel et al. 2017). No package of the Python package index carries its weights. The file
is `pt_inception-2015-12-05-6726825d.pth`, published with pytorch-fid and with torch-fidelity, or
the same names and shapes in a .safetensors file. It is another network than torchvision's: 1008
classes, mean pools that leave out what is padded, and a max pool in the last block.

    Conv2d_1a_3x3 /2 · 2a_3x3 · 2b_3x3 · MaxPool_1 /2 · Conv2d_3b_1x1 · 4a_3x3 · MaxPool_2 /2
    Mixed_5b 5c 5d · Mixed_6a /2 · 6b 6c 6d 6e · Mixed_7a /2 · 7b 7c
    pool    = mean over h w of Mixed_7c                                    (2048)
    logits  = kernel · pool + bias                                         (1008)

Whatever has a stride takes whole windows only; the mixed blocks pad to keep the size, the stem's
2a and 4a do not. The four layers of pytorch-fid (64, 192, 768, 2048) are MaxPool_1, MaxPool_2,
Mixed_6e and pool. The inception score is taken from logits without the bias, so there subtract
`params["logits"]["bias"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidgen.pretrained import layers, weight_files
from vidgen.types import Params

MIN_PIXELS = 75  # one pixel is left for Mixed_7a
TRAINED_PIXELS = 299  # on a side; the distance is defined at this size
_CLASSES, _CLASSES_OF_TORCHVISION = 1008, 1000
_KIND = "Inception-v3 of 2015-12-05 in pytorch-fid's format"


class _Unit(NamedTuple):
    """A convolution without bias, its batch normalisation, ReLU."""

    name: str
    width: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class _Pool(NamedTuple):
    """A 3 x 3 pool."""

    kind: str
    stride: int = 1
    padding: str = "SAME"


# A branch is a row of steps; units in a tuple stand side by side and end their branch.
_Step = _Unit | _Pool | tuple[_Unit, ...]
_Branches = tuple[tuple[_Step, ...], ...]

_MEAN, _MAX, _HALVE = _Pool("mean"), _Pool("max"), _Pool("max", 2, "VALID")
_STEM: Mapping[str, _Step] = {
    "Conv2d_1a_3x3": _Unit("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
    "Conv2d_2a_3x3": _Unit("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    "Conv2d_2b_3x3": _Unit("Conv2d_2b_3x3", 64, (3, 3)),
    "MaxPool_1": _HALVE,
    "Conv2d_3b_1x1": _Unit("Conv2d_3b_1x1", 80),
    "Conv2d_4a_3x3": _Unit("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    "MaxPool_2": _HALVE,
}


def _row(name: str, *units: tuple[int, int, int], halve: bool = False) -> tuple[_Unit, ...]:
    """Return units name_1, name_2, ... of (width, h, w); the last has stride 2 if they `halve`."""
    row = tuple(_Unit(f"{name}_{i + 1}", n, (h, w)) for i, (n, h, w) in enumerate(units))
    return (*row[:-1], _halving(row[-1])) if halve else row


def _halving(unit: _Unit) -> _Unit:
    return unit._replace(stride=2, padding="VALID")


def _fork(name: str, width: int) -> tuple[_Unit, _Unit]:
    return _Unit(f"{name}a", width, (1, 3)), _Unit(f"{name}b", width, (3, 1))


def _block_5(pooled: int) -> _Branches:
    return (
        (_Unit("branch1x1", 64),),
        _row("branch5x5", (48, 1, 1), (64, 5, 5)),
        _row("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        (_MEAN, _Unit("branch_pool", pooled)),
    )


def _block_6(inner: int) -> _Branches:
    c = inner
    return (
        (_Unit("branch1x1", 192),),
        _row("branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1)),
        _row("branch7x7dbl", (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)),
        (_MEAN, _Unit("branch_pool", 192)),
    )


def _block_7(pool: _Pool) -> _Branches:
    return (
        (_Unit("branch1x1", 320),),
        (*_row("branch3x3", (384, 1, 1)), _fork("branch3x3_2", 384)),
        (*_row("branch3x3dbl", (448, 1, 1), (384, 3, 3)), _fork("branch3x3dbl_3", 384)),
        (pool, _Unit("branch_pool", 192)),
    )


_MIXED: Mapping[str, _Branches] = {
    "Mixed_5b": _block_5(32),
    "Mixed_5c": _block_5(64),
    "Mixed_5d": _block_5(64),
    "Mixed_6a": (
        (_halving(_Unit("branch3x3", 384, (3, 3))),),
        _row("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3), halve=True),
        (_HALVE,),
    ),
    "Mixed_6b": _block_6(128),
    "Mixed_6c": _block_6(160),
    "Mixed_6d": _block_6(160),
    "Mixed_6e": _block_6(192),
    "Mixed_7a": (
        _row("branch3x3", (192, 1, 1), (320, 3, 3), halve=True),
        _row("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3), halve=True),
        (_HALVE,),
    ),
    "Mixed_7b": _block_7(_MEAN),
    "Mixed_7c": _block_7(_MAX),
}
LAYERS = (*_STEM, *_MIXED, "pool", "logits")


def load_params(path: Path) -> Params:
    """Load the weights of the Inception-v3 of FID.

    Args:
      path: pt_inception-2015-12-05-6726825d.pth, or the same tensors in a .safetensors file.

    Returns:
      {unit: {kernel, bias}} in float32, with normalization folded in.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is torchvision's network, another one, or no weight file.
    """
    tensors = weight_files.read_tensors(path)
    classes = tensors["fc.weight"].shape[:1] if "fc.weight" in tensors else ()
    if classes == (_CLASSES_OF_TORCHVISION,):
        raise ValueError(
            f"{path} is torchvision's Inception-v3 ({_CLASSES_OF_TORCHVISION} classes), with which "
            "the Frechet inception distance is another number; give "
            f"pt_inception-2015-12-05-6726825d.pth ({_CLASSES} classes), as pytorch-fid does."
        )

    def expect(name: str, *shape: int) -> np.ndarray:
        return weight_files.expect(tensors, name, shape, path=path, kind=_KIND)

    params = {}
    channels, units = _with_inputs()
    for name, unit, inner in units:
        kernel = expect(f"{name}.conv.weight", unit.width, inner, *unit.window)
        norm = (
            expect(f"{name}.bn.{part}", unit.width)
            for part in ("running_mean", "running_var", "bias", "weight")
        )
        params[name] = layers.fold_norm(kernel.transpose(2, 3, 1, 0), *norm)
    weight, bias = expect("fc.weight", _CLASSES, channels), expect("fc.bias", _CLASSES)
    return params | {"logits": {"kernel": np.ascontiguousarray(weight.T), "bias": bias}}


def features(
    params: Params, x: Float[Array, "n h w 3"], wanted: Iterable[str] | None = None
) -> dict[str, Array]:
    """Compute features of RGB images by layer.

    Products are exact to float32 on every platform, as a distance is compared between them.

    Args:
      params: from `load_params`.
      x: images in [-1, 1] of at least 75 x 75 pixels; resize them to 299 x 299 for published
        distances.
      wanted: names of `LAYERS`; None: all. Nothing after the last one is computed.

    Returns:
      By layer "n h w c", of "pool" and "logits" "n c".

    Raises:
      ValueError: an unknown layer, or images that are too small.
    """
    layers.check_size("Inception-v3", x, MIN_PIXELS)
    with jax.default_matmul_precision("highest"):
        return layers.take(_layers(params, x.astype(jnp.float32)), LAYERS, wanted)


def _layers(params: Params, x: Float[Array, "n h w c"]) -> Iterator[tuple[str, Array]]:
    for name, step in _STEM.items():
        x = _step(params, "", step, x)
        yield name, x
    for name, branches in _MIXED.items():
        x = jnp.concatenate([_branch(params, name, steps, x) for steps in branches], -1)
        yield name, x
    x = x.mean((1, 2))
    yield "pool", x
    yield "logits", x @ params["logits"]["kernel"] + params["logits"]["bias"]


def _branch(
    params: Params, block: str, steps: Iterable[_Step], x: Float[Array, "n h w c"]
) -> Float[Array, "n h2 w2 c2"]:
    for step in steps:
        x = _step(params, f"{block}.", step, x)
    return x


def _step(
    params: Params, prefix: str, step: _Step, x: Float[Array, "n h w c"]
) -> Float[Array, "n h2 w2 c2"]:
    if isinstance(step, _Unit):
        part = params[prefix + step.name]
        y = layers.conv(x, part["kernel"], part["bias"], stride=step.stride, padding=step.padding)
        return jax.nn.relu(y)
    if isinstance(step, _Pool):
        if step.kind == "mean":
            return layers.mean_pool(x, (3, 3))
        return layers.max_pool(x, (3, 3), (step.stride, step.stride), step.padding)
    return jnp.concatenate([_step(params, prefix, unit, x) for unit in step], -1)


def _with_inputs() -> tuple[int, list[tuple[str, _Unit, int]]]:
    """Return the channels at the end, and all units with full name and input channels."""
    units: list[tuple[str, _Unit, int]] = []

    def follow(prefix: str, steps: Iterable[_Step], channels: int) -> int:
        for step in steps:
            if isinstance(step, _Pool):
                continue
            side_by_side = (step,) if isinstance(step, _Unit) else step
            units.extend((prefix + unit.name, unit, channels) for unit in side_by_side)
            channels = sum(unit.width for unit in side_by_side)
        return channels

    channels = follow("", _STEM.values(), 3)
    for name, branches in _MIXED.items():
        channels = sum(follow(f"{name}.", steps, channels) for steps in branches)
    return channels, units
