"""The gradient of a 3x3 convolution's kernel as a matrix product, which a CPU runs faster.

    y[p, q] = Σ_ij x[p + i - 1, q + j - 1] W[i, j]                  p, q: row and column
    dW[i, j] = Σ_pq x[p, q + j - 1]ᵀ dy[p - i + 1, q]

With x shifted by columns for each j, and dy by rows for each i, all nine taps are one product of
(pixels x 3c)ᵀ and (pixels x 3d): three copies of either side, where patches would be nine of one.
It is summed over a few frames at a time, whose copies fit into the cache.

XLA:CPU runs this gradient as a convolution whose kernel is the whole frame. Processor time of
34 x 32 x 32 x 64 to 64 channels: 77 ms so, 33 as products (forward 18); 32 x 16 x 16 x 256 to 128:
96 and 57; at 8 x 8 pixels, and with few channels, both are alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# From so many pixels of a frame, pixels in all, and channels on both sides on, products are faster:
# 16 x 16, 8 frames of 32 x 32. [guess] between the sizes that were timed.
PIXELS_FROM, ALL_PIXELS_FROM, CHANNELS_FROM = 2**8, 2**13, 16
_PIXELS_AT_ONCE = 2**10  # of whole frames


def kernel_gradient(
    x: Float[Array, "n h w c"], dy: Float[Array, "n h w d"]
) -> Float[Array, "3 3 c d"]:
    """Compute dW of a 3x3 convolution of stride 1 that pads with zeros.

    Args:
      x: input of the convolution, n frames.
      dy: gradient of its result.

    Returns:
      The gradient of the kernel.
    """
    n, h, w, c = x.shape
    d = dy.shape[-1]
    frames = max(1, _PIXELS_AT_ONCE // (h * w))
    while n % frames:
        frames -= 1

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _product(*some), None

    parts = (x.reshape(-1, frames, h, w, c), dy.reshape(-1, frames, h, w, d))
    total, _ = jax.lax.scan(add, jnp.zeros((3 * c, 3 * d), x.dtype), parts)
    return total.reshape(3, c, 3, d).transpose(2, 0, 1, 3)


def _product(x: Float[Array, "n h w c"], dy: Float[Array, "n h w d"]) -> Float[Array, "c3 d3"]:
    """Multiply the taps of these frames, (column j, c) by (row i, d)."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    dy = jnp.pad(dy, ((0, 0), (1, 1), (0, 0), (0, 0)))
    columns = jnp.concatenate([x[:, :, j : j + w] for j in range(3)], axis=-1)
    rows = jnp.concatenate([dy[:, 2 - i : 2 - i + h] for i in range(3)], axis=-1)
    columns = columns.reshape(-1, columns.shape[-1]).T
    rows = rows.reshape(-1, rows.shape[-1])
    # Made before they are multiplied: a product that reads them as they are made is slower.
    columns, rows = jax.lax.optimization_barrier((columns, rows))
    return columns @ rows


def is_faster(x: Float[Array, "n h w c"], dy: Float[Array, "n h w d"]) -> bool:
    """Tell whether `kernel_gradient` is faster than XLA's convolution, on a CPU.

    Args:
      x: input of the convolution, of which shape and dtype count.
      dy: gradient of its result, likewise.

    Returns:
      True for large float32 frames of many channels on one device, by the limits of this module.
    """
    mesh = jax.sharding.get_abstract_mesh()
    one_device = mesh.empty or mesh.size == 1  # a loop over frames on several would gather them
    frames, h, w, channels = x.shape
    return (
        one_device
        and x.dtype == dy.dtype == jnp.float32
        and h * w >= PIXELS_FROM
        and frames * h * w >= ALL_PIXELS_FROM
        and min(channels, dy.shape[-1]) >= CHANNELS_FROM
    )
