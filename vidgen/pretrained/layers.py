"""Parts of the feature networks: convolution, pooling, folded normalization, early stops.

Networks trained in TensorFlow pad "SAME" as it does (a stride-2 convolution of an even size pads
only behind), which is also what JAX means by the word. Those from Caffe and PyTorch pad a fixed
number of pixels on both sides, and their pools may hang over the far edge ("CEIL").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NORM_EPSILON = 1e-3  # of the TensorFlow networks here


def conv(
    x: Float[Array, "n *space c"],
    kernel: Array | np.ndarray,
    bias: Array | np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: str | int = "SAME",
) -> Float[Array, "n *space2 c2"]:
    """Convolve over all axes between the first and the last.

    Args:
      x: one to three axes of space.
      kernel: "*window in out".
      bias: "out"; None adds none.
      stride: the same along all axes of space.
      padding: "SAME", "VALID", or a number of zeros on each side.

    Returns:
      The result, of about 1 / stride of the size.
    """
    rank = x.ndim - 2
    space = "DHW"[-rank:]
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel),
        (stride,) * rank,
        padding if isinstance(padding, str) else [(padding, padding)] * rank,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )
    return y if bias is None else y + bias


def thin_conv(
    x: Float[Array, "n t h w c"],
    kernel: Array | np.ndarray,
    bias: Array | np.ndarray,
    *,
    stride: int = 1,
) -> Float[Array, "n t2 h2 w2 c2"]:
    """Convolve few channels, such as pixels, over time and space with "SAME" padding.

    The frames under the window become channels of one picture, and pictures are convolved: on a CPU
    that is several times faster than a convolution over three axes.

    Args:
      x: clips.
      kernel: "t h w in out".
      bias: "out".
      stride: the same along time, height and width.

    Returns:
      What `conv` does.
    """
    taps, kernel = kernel.shape[0], jnp.asarray(kernel)
    (pad,) = jax.lax.padtype_to_pads(x.shape[1:2], (taps,), (stride,), "SAME")
    x = jnp.pad(x, ((0, 0), pad, (0, 0), (0, 0), (0, 0)))
    count = (x.shape[1] - taps) // stride + 1
    frames = [x[:, k : k + stride * (count - 1) + 1 : stride] for k in range(taps)]
    pictures = jnp.concatenate(frames, axis=-1).reshape(-1, *x.shape[2:4], taps * x.shape[4])
    merged = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[4])
    y = conv(pictures, merged, bias, stride=stride)
    return y.reshape(len(x), count, *y.shape[1:])


def max_pool(
    x: Float[Array, "n *space c"],
    window: Sequence[int],
    stride: Sequence[int],
    padding: str = "SAME",
) -> Float[Array, "n *space2 c"]:
    """Return the largest value of each window, padding left out.

    Args:
      x: features.
      window: its size along each axis of space.
      stride: along each axis of space.
      padding: "SAME", "VALID", or "CEIL": windows start at 0, and the last may reach outside.

    Returns:
      The values, of about 1 / stride of the size.
    """
    pads: Any = padding
    if padding == "CEIL":
        pads = [(0, 0), *map(_overhang, x.shape[1:-1], window, stride), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), pads)


def mean_pool(x: Float[Array, "n *space c"], window: Sequence[int]) -> Float[Array, "n *space c"]:
    """Return the mean around each place, padding left out.

    Args:
      x: features.
      window: its size along each axis of space, odd.

    Returns:
      As many values as `x` has.
    """

    def total(y: Array) -> Array:
        ones = (1,) * y.ndim
        return jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, *window, 1), ones, "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:-1], 1), x.dtype))


def _overhang(size: int, window: int, stride: int) -> tuple[int, int]:
    count = max(0, -(-(size - window) // stride)) + 1
    return 0, max(0, (count - 1) * stride + window - size)


def fold_norm(
    kernel: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray | float = 1.0,
) -> dict[str, np.ndarray]:
    """Merge a convolution and the frozen batch normalization after it.

    Args:
      kernel: the kernel of the convolution, which has no bias; its last axis is the output.
      mean: the mean of the normalization, one for each output, as the others are.
      variance: likewise.
      bias: likewise.
      scale: likewise; 1 where the normalization has none.

    Returns:
      {kernel, bias} in float32 of a convolution that does both.
    """
    factor = np.reshape(scale / np.sqrt(np.asarray(variance, np.float64) + _NORM_EPSILON), -1)
    shift = np.reshape(bias, -1) - np.reshape(mean, -1) * factor
    return {"kernel": (kernel * factor).astype(np.float32), "bias": shift.astype(np.float32)}


def take(
    features: Iterable[tuple[str, Array]], names: Sequence[str], wanted: Iterable[str] | None
) -> dict[str, Array]:
    """Take the wanted layers of a network, and compute nothing after the last of them.

    Args:
      features: (layer, feature) pairs, computed one after the other.
      names: names of all layers.
      wanted: some of `names`; None: all.

    Returns:
      The features by layer.

    Raises:
      ValueError: a layer is none of `names`.
    """
    left = set(check_layers(names if wanted is None else wanted, names))
    taken: dict[str, Array] = {}
    for name, feature in features:
        if name in left:
            taken[name] = feature
            left.remove(name)
        if not left:
            break
    return taken


def check_layers(wanted: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """Check that there are layers of these names.

    Args:
      wanted: as a caller or a configuration named them.
      names: names of all layers.

    Returns:
      The wanted names.

    Raises:
      ValueError: one is none of `names`, or there is none; the message lists them.
    """
    wanted = tuple(wanted)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        what = f"there is no layer {unknown[0]!r}" if unknown else "no layer is named"
        raise ValueError(f"{what}; choose from: {', '.join(names)}.")
    return wanted


def check_size(network: str, x: Float[Array, "n h w c"], smallest: int) -> None:
    """Check that images are large enough for a network.

    Args:
      network: its name, for the message.
      x: the images.
      smallest: pixels that height and width must have.

    Raises:
      ValueError: they are too small.
    """
    if min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"{network} needs images of at least {smallest} x {smallest} pixels; these are of "
            f"{x.shape[1]} x {x.shape[2]}: enlarge them first."
        )
