"""Fresh parameters: every element is drawn on its own from one distribution of its array.

    θ = mean + std · n,     n ~ N(0, 1), or N(0, 1) kept within ±2

An array's distribution is known without its values, so a trainer can make all arrays of a model on
the host (`fill`) and compile nothing: a program that draws the 53 random arrays of a small U-Net
takes XLA longer to compile than the draws take by a factor of several hundred.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

_LIMIT = 2.0  # standard deviations at which a normal distribution is cut off
_STD_WITHIN_LIMIT = 0.87962566103423978  # of what is left of it then


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What every element of an array is drawn from.

    Attributes:
      mean: mean of the distribution, before it is cut off.
      std: standard deviation, likewise; 0 makes a constant.
      truncated: whether elements further than two standard deviations from the mean are redrawn.
    """

    mean: float = 0.0
    std: float = 0.0
    truncated: bool = False

    def draw(
        self, key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = "float32"
    ) -> Float[Array, "..."]:
        """Draw an array by JAX.

        Args:
          key: random key of the draw; a constant does not read it.
          shape: shape of the array.
          dtype: dtype of the array.

        Returns:
          The array.
        """
        if self.std == 0:
            return jnp.full(shape, self.mean, dtype)
        if self.truncated:
            noise = jax.random.truncated_normal(key, -_LIMIT, _LIMIT, shape, dtype)
        else:
            noise = jax.random.normal(key, shape, dtype)
        return self.mean + self.std * noise

    def fill(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """Draw an array by NumPy, which compiles nothing.

        Args:
          rng: generator of the draw; the numbers are others than those of `draw`.
          shape: shape of the array.

        Returns:
          The array, float32.
        """
        if self.std == 0:
            return np.full(shape, self.mean, np.float32)
        noise = rng.standard_normal(shape, np.float32)
        while self.truncated and (outside := np.abs(noise) > _LIMIT).any():
            noise[outside] = rng.standard_normal(np.count_nonzero(outside), np.float32)
        noise *= np.float32(self.std)
        noise += np.float32(self.mean)
        return noise


Initializer = Callable[[tuple[int, ...]], Distribution]  # of an array of this shape


def constant(value: float) -> Initializer:
    """Make every element the same number.

    Args:
      value: the number.

    Returns:
      An initializer for arrays of any shape.
    """
    return lambda shape: Distribution(mean=value)


zeros, ones = constant(0.0), constant(1.0)


def normal(std: float) -> Initializer:
    """Draw from a normal distribution with mean 0.

    Args:
      std: its standard deviation, >= 0.

    Returns:
      An initializer for arrays of any shape.
    """
    return lambda shape: Distribution(std=std)


def truncated_normal(std: float) -> Initializer:
    """Draw from a normal distribution with mean 0 that is cut off at two standard deviations.

    Args:
      std: standard deviation before it is cut; that of what is drawn is 0.88 of it.

    Returns:
      An initializer for arrays of any shape.
    """
    return lambda shape: Distribution(std=std, truncated=True)


def fan_in(scale: float = 1.0, axes: tuple[int, ...] | None = None) -> Initializer:
    """Draw from a truncated normal of variance scale / fan_in; with scale 0, zeros.

    Args:
      scale: factor of the variance, >= 0.
      axes: the input axes of the kernel; None: all but the last.

    Returns:
      An initializer for kernels.
    """
    return functools.partial(_of_fan_in, scale, axes)


def _of_fan_in(scale: float, axes: tuple[int, ...] | None, shape: tuple[int, ...]) -> Distribution:
    inputs = shape[:-1] if axes is None else [shape[i] for i in axes]
    std = math.sqrt(scale / max(1, math.prod(inputs))) / _STD_WITHIN_LIMIT
    return Distribution(std=std, truncated=scale > 0)
