"""Codes without a codebook: the arithmetic of FSQ and LFQ between features, codes and indices.

    FSQ    code_i = round(tanh(z_i + s_i)·h_i - o_i), one of L_i integers
           index = Σ (code_i + ⌊L_i/2⌋)·Π_{j<i} L_j
    LFQ    code_i = sign(z_i)
           index = Σ 2^i·[z_i > 0]

(Finite scalar quantization, 2309.15505; lookup-free quantization, MAGVIT-v2, 2310.05737.)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def fsq_bound(z: Float[Array, "*x i"], levels: Sequence[int]) -> Float[Array, "*x i"]:
    """Squash features so that rounding gives one of L_i integers around 0 (2309.15505).

    Args:
      z: the features.
      levels: L_i, one number a feature.

    Returns:
      Values between -⌊L_i/2⌋ - 1/2 and ⌈L_i/2⌉ - 1/2.
    """
    count = np.asarray(levels, np.float64)
    half = (count - 1) * (1 - 1e-3) / 2
    offset = np.where(count % 2 == 0, 0.5, 0.0)
    # As in the listing. The exact inverse would be atanh: 0 would then be squashed to 0.
    shift = np.tan(offset / half)
    half, offset, shift = (jnp.asarray(value, jnp.float32) for value in (half, offset, shift))
    return jnp.tanh(z + shift) * half - offset


def fsq_index(rounded: Float[Array, "*x i"], levels: Sequence[int]) -> Int[Array, "*x"]:
    """Compute the index of rounded features: digits of mixed radix, the first counting least.

    Args:
      rounded: whole numbers, feature i from -⌊L_i/2⌋ to ⌈L_i/2⌉ - 1.
      levels: L_i, one number a feature.

    Returns:
      Indices, 0 ... Π L_i - 1.
    """
    digits = rounded.astype(jnp.int32) + jnp.asarray(levels) // 2
    return jnp.sum(digits * _radix(levels), axis=-1).astype(jnp.int32)


def fsq_code(indices: Int[Array, "*x"], levels: Sequence[int]) -> Float[Array, "*x i"]:
    """Compute the rounded features that have these indices: the inverse of `fsq_index`.

    Args:
      indices: 0 ... Π L_i - 1.
      levels: L_i, one number a feature.

    Returns:
      Whole numbers as float32.
    """
    count = jnp.asarray(levels)
    digits = indices[..., None] // _radix(levels) % count
    return (digits - count // 2).astype(jnp.float32)


def lfq_index(code: Float[Array, "*x i"]) -> Int[Array, "*x"]:
    """Compute the index of signs: Σ 2^i·[code_i > 0].

    Args:
      code: i features, of which the signs count.

    Returns:
      Indices, 0 ... 2^i - 1.
    """
    powers = 2 ** jnp.arange(code.shape[-1])
    return jnp.sum((code > 0) * powers, axis=-1).astype(jnp.int32)


def lfq_code(indices: Int[Array, "*x"], bits: int) -> Float[Array, "*x {bits}"]:
    """Compute the signs that have these indices: the inverse of `lfq_index`.

    Args:
      indices: 0 ... 2^bits - 1.
      bits: number of features.

    Returns:
      1 or -1 for each bit, the lowest first.
    """
    return jnp.where((indices[..., None] >> jnp.arange(bits)) & 1, 1.0, -1.0)


def bit_entropy(logits: Float[Array, "*x i"]) -> Float[Array, "*x"]:
    """Compute the entropy of independent bits.

    Args:
      logits: log-odds of each bit.

    Returns:
      The sum over the bits, in nats: from 0 to i ln 2.
    """
    return jnp.sum(jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits), axis=-1)


def mean_entropy(
    logits: Float[Array, "*x i"], weights: Float[Array, "*x"] | None = None
) -> Float[Array, ""]:
    """Compute the entropy of the mean over positions of the distribution over all 2^i codes.

    The distribution of a position is the product of one over the low bits and one over the high
    bits, so its mean is a matrix product of two arrays of (positions x 2^(i/2)).

    Args:
      logits: log-odds of each bit.
      weights: how much each position counts; None counts all alike.

    Returns:
      The entropy in nats, from 0 to i ln 2.
    """
    bits = logits.shape[-1]
    logits = logits.reshape(-1, bits)
    share = jnp.ones(len(logits)) if weights is None else weights.reshape(-1)
    share = share / jnp.maximum(jnp.sum(share), jnp.finfo(jnp.float32).tiny)
    low, high = (_distribution(half) for half in jnp.split(logits, [bits // 2], axis=-1))
    mean = jnp.einsum("na,nb->ab", low * share[:, None], high, precision="highest")
    return entropy(mean)


def entropy(share: Float[Array, "*x"]) -> Float[Array, ""]:
    """Compute -Σ p·ln p over all entries.

    Args:
      share: probabilities p, which add up to 1 over the whole array.

    Returns:
      The entropy in nats; entries of 0 add nothing.
    """
    return -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30)))


def _distribution(logits: Float[Array, "n i"]) -> Float[Array, "n k"]:
    """Probabilities of all codes of independent bits, in the order of their indices."""
    table = jnp.ones((len(logits), 1))
    for bit in range(logits.shape[-1]):
        one, zero = (jax.nn.sigmoid(sign * logits[:, bit, None]) for sign in (1, -1))
        table = jnp.concatenate([table * zero, table * one], axis=-1)
    return table


def _radix(levels: Sequence[int]) -> Int[Array, "levels"]:
    return jnp.asarray(np.cumprod((1, *levels[:-1])), jnp.int32)
