"""Weights from a formula: the same numbers everywhere, without a file."""

import zlib

import numpy as np


def scatter(name, shape):
    """float32 in [-1, 1) that look random: MurmurHash3's last steps on a count from crc32(name)."""
    start = np.uint32(zlib.crc32(name.encode()))
    x = np.arange(np.prod(shape, dtype=int), dtype=np.uint32) + start  # wraps around
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2**31 - 1).astype(np.float32).reshape(shape)


def inception(name, shape):
    """A tensor of Inception-v3 by its name, so that activations stay near 1.

    Variances are small, so that the 1e-3 of the normalisation matters.
    """
    x = scatter(name, shape)
    part = name.split(".")[-1]
    if name == "fc.bias":
        return x
    if len(shape) > 1:
        return x * np.float32(0.32 / np.sqrt(np.prod(shape[1:])))
    size, shift = {
        "running_var": (0.01, 0.02),
        "running_mean": (0.02, 0),
        "weight": (0.3, 1),
        "bias": (0.3, 0),
    }[part]
    return np.float32(size) * x + np.float32(shift)
