"""The network of faults.gin: dense layers on a whole clip, which compile and trace in a second."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.nn import axes, embeddings
from vidgen.nn.conv import swish


class DenseNetwork(nn.Module, DenoisingNetwork):
    """Three dense layers on clip, noise level and text, cut over the devices of a mesh."""

    width: int = 16

    @nn.compact
    def __call__(self, z: Any, logsnr: Any, cond: Any, *, train: bool = False) -> Any:
        """Compute the raw output for noisy video z "b t h w c" at the log-SNR "b"."""
        level = embeddings.logsnr_features(logsnr, self.width)
        parts = [z, level, cond.text.tokens * cond.text.mask[..., None]]
        x = jnp.concatenate([part.reshape(len(z), -1) for part in parts], axis=1)
        x = swish(axes.dense(self.width, ("pixels", "embed"), name="first")(x))
        x = swish(axes.dense(self.width, ("embed", "mlp"), name="second")(x))
        pixels = z.shape[1] * z.shape[2] * z.shape[3] * z.shape[4]
        return axes.dense(pixels, ("embed", "mlp"), name="last")(x).reshape(z.shape)
