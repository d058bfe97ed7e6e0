"""From latents to integer tokens and back: vector quantisation, FSQ and LFQ behind one interface.

All three project the latent x (d features) to a small lookup space, z = in(x), replace z by the
code e that stands for it, and project back, out(e) (factorised codes, ViT-VQGAN, 2110.04627):

    VectorQuantizer   e = argmin_k |z - e_k|², both on the unit sphere: |z - e|² = 2 - 2·cos
                      loss = (|sg(z) - e|² + β·|z - sg(e)|²)/dim       (Phenaki 2.1, ViT-VQGAN)
    FSQ               e_i = round(bound(z_i)), L_i levels a feature; no loss       (2309.15505)
    LFQ               e_i = sign(z_i), so 2^bits codes without a table             (MAGVIT-v2)
                      loss = w·(H(q|x) - H(E[q])) + β·mean_i (z_i - sg(e_i))²

sg stops the gradient. Backwards the replacement is the identity (straight-through): out(e) sends
its gradient to z unchanged, and e learns from the loss alone. Distances, entropies and the
projection into the lookup space are float32: rounding must not decide between two codes.

The papers print norms, for the codebook's loss as for L2, and no scale. [guess] Both are means over
features. As a sum beside a mean over pixels this one wins: latents gather at few codes, and the
codebook collapses (400 steps of phenaki_cvivit_tiny on the sprites, 64 codes of 8 features: 13 % of
the codes used and 16.9 dB with the sum, 36 % and 19.9 dB with the mean).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jaxtyping import Array, Float, Int

from vidgen import checks
from vidgen.nn import axes, initializers
from vidgen.nn.transformer import DTYPES
from vidgen.phenaki import scalar_codes

MAX_BITS = 24  # the entropy of LFQ holds one number a code


@no_type_check
class Quantized(PyTreeNode):
    """Quantised latents.

    Attributes:
      latents: what the decoder reads, straight-through.
      indices: the tokens.
      loss: one value a position, so that a caller can leave positions out of its mean.
    """

    latents: Float[Array, "*x d"]
    indices: Int[Array, "*x"]
    loss: Float[Array, "*x"]


class Quantizer(nn.Module):
    """What the three quantizers have in common: the projections around the lookup space.

    Attributes:
      dtype: dtype of the latents that come out.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of(self, dtype=DTYPES)
        super().__post_init__()

    @property
    def codes(self) -> int:
        """The number of codes."""
        raise NotImplementedError

    def setup(self) -> None:
        """Make the two projections."""
        self.inward = Projection(("embed", "lookup"))
        self.outward = Projection(("lookup", "embed"), dtype=self.dtype)

    def __call__(
        self,
        x: Float[Array, "*x d"],
        *,
        weights: Float[Array, "*x"] | None = None,
        train: bool = False,
    ) -> Quantized:
        """Quantise latents.

        Args:
          x: the latents.
          weights: how much each position counts in what the loss takes over all positions; None
            counts all alike.
          train: whether the terms of training are part of the loss.

        Returns:
          The quantised latents, their tokens, and a loss for each position.
        """
        raise NotImplementedError

    def lookup(self, indices: Int[Array, "*x"]) -> Float[Array, "*x d"]:
        """Compute the latents that tokens stand for.

        Args:
          indices: the tokens, 0 ... codes-1.

        Returns:
          The latents that the decoder reads, the same as `Quantized.latents` of these tokens.
        """
        raise NotImplementedError


class VectorQuantizer(Quantizer):
    """The nearest of `codes` unit vectors, in a space of `dim` features (Phenaki 2.1, ViT-VQGAN).

    Attributes:
      codes: number of entries of the codebook.
      dim: number of features of the lookup space.
      beta: weight β of the commitment |z - sg(e)|².
      revive: weight of a pull, in training, on every code that nothing in the batch uses, towards
        the latent nearest to it; 1 is as strong as what a code of average use feels. A code is
        unused when this batch does not use it, so batches should have more positions than there
        are codes, or the weight should be small.
    """

    codes: int = 8192  # pyright: ignore[reportIncompatibleMethodOverride]
    dim: int = 32
    beta: float = 0.25
    revive: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(self, codes=2, dim=1, beta=0, revive=0)
        super().__post_init__()

    def setup(self) -> None:
        """Make the projections and the codebook, whose rows are about unit vectors."""
        super().setup()
        init = axes.partitioned(initializers.normal(self.dim**-0.5), ("codes", "lookup"))
        self.codebook = self.param("codebook", init, (self.codes, self.dim), jnp.float32)

    def __call__(
        self,
        x: Float[Array, "*x d"],
        *,
        weights: Float[Array, "*x"] | None = None,
        train: bool = False,
    ) -> Quantized:
        """Take the nearest unit vector of the codebook; see `Quantizer`.

        Positions of weight 0 attract no unused code.
        """
        z = normalize(self.inward(x, self.dim))
        codebook = normalize(jnp.asarray(self.codebook))
        # Full precision: accelerators round the factors of a product by default.
        cosines = jnp.einsum("...d,kd->...k", stop(z), stop(codebook), precision="highest")
        indices = jnp.argmax(cosines, axis=-1).astype(jnp.int32)
        e = codebook[indices]
        loss = _mean_square(stop(z) - e) + self.beta * _mean_square(z - stop(e))
        if train and self.revive:
            loss += self.revive * pull_unused(z, codebook, cosines, indices, weights)
        latents = self.outward(straight_through(z, e), x.shape[-1])
        return Quantized(latents=latents, indices=indices, loss=loss)

    def lookup(self, indices: Int[Array, "*x"]) -> Float[Array, "*x d"]:
        """Project the rows of the codebook that tokens name; see `Quantizer.lookup`."""
        return self.outward(normalize(jnp.asarray(self.codebook))[indices])


class FSQ(Quantizer):
    """Finite scalar quantisation: each feature of the lookup space rounded to one of L_i levels.

    Attributes:
      levels: L_i; there are Π L_i codes. Published choices: (8, 6, 5) for 2^8 codes,
        (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12, (8, 8, 8, 6, 5) for 2^14.
    """

    levels: Sequence[int] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        self.levels = tuple(self.levels)  # gin gives lists too
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"FSQ.levels is {self.levels}; give one or more numbers >= 2.")
        if math.prod(self.levels) >= 2**31:
            raise ValueError(f"FSQ.levels {self.levels} make more codes than int32 can number.")
        super().__post_init__()

    @property
    def codes(self) -> int:
        """Number of codes, Π L_i."""
        return math.prod(self.levels)

    def __call__(
        self,
        x: Float[Array, "*x d"],
        *,
        weights: Float[Array, "*x"] | None = None,
        train: bool = False,
    ) -> Quantized:
        """Round each feature to one of its levels; the loss is 0; see `Quantizer`."""
        z = scalar_codes.fsq_bound(self.inward(x, len(self.levels)), self.levels)
        e = jnp.round(z)
        indices = scalar_codes.fsq_index(e, self.levels)
        latents = self.outward(self._scale(straight_through(z, e)), x.shape[-1])
        return Quantized(latents=latents, indices=indices, loss=jnp.zeros(indices.shape))

    def lookup(self, indices: Int[Array, "*x"]) -> Float[Array, "*x d"]:
        """Project the levels that tokens name; see `Quantizer.lookup`."""
        return self.outward(self._scale(scalar_codes.fsq_code(indices, self.levels)))

    def _scale(self, code: Float[Array, "*x i"]) -> Float[Array, "*x i"]:
        return code / np.asarray([level // 2 for level in self.levels], np.float32)


class LFQ(Quantizer):
    """Lookup-free quantisation: the signs of the lookup space are the bits of the index.

    The entropy term wants each position sure of its code, H(q|x) = 0, and all codes used alike,
    H(E[q]) = bits·ln 2. q is the softmax over all codes of -|z - e|²/temperature, which is a
    product over bits, so both entropies are exact without a (positions x codes) array.

    Attributes:
      bits: number of features of the lookup space; there are 2^bits codes.
      entropy_weight: weight w of H(q|x) - H(E[q]), in nats.
      commitment: weight β of the mean over bits of (z - sg(e))².
      temperature: temperature of the softmax.
    """

    bits: int = 13
    entropy_weight: float = 0.1
    commitment: float = 0.25
    # [guess] Not published. At 1 a feature at its target ±1 is 98 % sure of its bit, and features
    # that are far from 0 still feel the entropy; at the 0.01 of older codebook losses they do not.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        checks.at_least(self, bits=1, entropy_weight=0, commitment=0)
        if self.bits > MAX_BITS:
            raise ValueError(f"LFQ.bits is {self.bits}; it must be <= {MAX_BITS}.")
        checks.positive(self, "temperature")
        super().__post_init__()

    @property
    def codes(self) -> int:
        """Number of codes, 2^bits."""
        return 2**self.bits

    def __call__(
        self,
        x: Float[Array, "*x d"],
        *,
        weights: Float[Array, "*x"] | None = None,
        train: bool = False,
    ) -> Quantized:
        """Take the signs of the features; see `Quantizer`.

        The weights are those of the positions in E[q].
        """
        z = self.inward(x, self.bits)
        e = jnp.where(z > 0, 1.0, -1.0)
        loss = self.commitment * jnp.mean((z - stop(e)) ** 2, axis=-1)
        if self.entropy_weight:
            logits = 4.0 * z / self.temperature  # |z + 1|² - |z - 1|² = 4z
            loss += self.entropy_weight * (
                scalar_codes.bit_entropy(logits) - scalar_codes.mean_entropy(logits, weights)
            )
        latents = self.outward(straight_through(z, e), x.shape[-1])
        return Quantized(latents=latents, indices=scalar_codes.lfq_index(e), loss=loss)

    def lookup(self, indices: Int[Array, "*x"]) -> Float[Array, "*x d"]:
        """Project the signs that tokens name; see `Quantizer.lookup`."""
        return self.outward(scalar_codes.lfq_code(indices, self.bits))


class Projection(nn.Module):
    """A dense layer over the last axis, whose width is read off the parameters if it is not given.

    So `lookup`, which sees indices alone, knows how many features the decoder wants.
    """

    names: tuple[str, str]
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "*x d"], features: int | None = None
    ) -> Float[Array, "*x d2"]:
        """Project the last axis.

        Args:
          x: the vectors.
          features: width of the result; None, which reads it off the parameters, only where they
            exist.

        Returns:
          The projected vectors.
        """
        if features is None:
            kernel = nn.meta.unbox(self.variables["params"]["dense"]["kernel"])
            features = int(jnp.shape(kernel)[-1])
        return axes.dense(features, self.names, name="dense", dtype=self.dtype)(x)


def usage(
    indices: Int[Array, "*x"], codes: int, weights: Float[Array, "*x"] | None = None
) -> dict[str, Float[Array, ""]]:
    """Measure how a batch uses the codebook.

    Args:
      indices: the tokens.
      codes: number of codes.
      weights: how much each position counts; None counts all alike.

    Returns:
      "codes_used", the share of all codes that occur, at most positions / codes; and "perplexity",
      e to the entropy of the codes: the number of codes whose equal use has that entropy.
    """
    counts = _counts(indices, codes, weights)
    share = counts / jnp.maximum(jnp.sum(counts), jnp.finfo(jnp.float32).tiny)
    return {"codes_used": jnp.mean(counts > 0), "perplexity": jnp.exp(scalar_codes.entropy(share))}


def straight_through(z: Float[Array, "*x"], e: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """Replace z by e, with the gradient of z (straight-through estimator, 1308.3432).

    Args:
      z: what the gradient goes to.
      e: what is returned, exactly.

    Returns:
      e.
    """
    return stop(e) + (z - stop(z))


def normalize(x: Float[Array, "*x d"]) -> Float[Array, "*x d"]:
    """Scale vectors to unit length; a zero vector stays zero.

    Args:
      x: vectors along the last axis.

    Returns:
      x / |x|; vectors shorter than 1e-6 come out shorter than 1.
    """
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def pull_unused(
    z: Float[Array, "*x d"],
    codebook: Float[Array, "k d"],
    cosines: Float[Array, "*x k"],
    indices: Int[Array, "*x"],
    weights: Float[Array, "*x"] | None = None,
) -> Float[Array, ""]:
    """Compute the mean over codes of |e - sg(z)|²/dim, with 0 for the codes that are in use.

    Each of these other codes e is pulled to one latent z: that whose cosine with its own nearest
    code exceeds that with e by the least.

    Args:
      z: unit latents.
      codebook: unit vectors of the k codes.
      cosines: cosines of every latent with every code.
      indices: the nearest code of every latent.
      weights: 0 on positions that attract no code, and use none; None counts all.

    Returns:
      The pull, >= 0; 0 where all codes are used, or all weights are 0.
    """
    # [guess] Of 256 codes on a mixture of 20 Gaussians 126 came into use without a pull, 199 with
    # one to random latents, 234 to the nearest ones (which several codes share), and all with this.
    positions = jnp.ones(indices.size) if weights is None else weights.reshape(-1)
    k, d = codebook.shape
    behind = jnp.max(cosines, axis=-1, keepdims=True) - cosines
    behind = jnp.where(positions[:, None] > 0, behind.reshape(-1, k), jnp.inf)
    target = stop(z).reshape(-1, d)[jnp.argmin(behind, axis=0)]
    unused = (_counts(indices, k, positions) == 0) & jnp.any(positions > 0)
    return jnp.mean(jnp.where(unused, _mean_square(codebook - target), 0.0))


def stop(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """Stop the gradient: sg of the equations.

    Args:
      x: any array.

    Returns:
      x, a constant to the gradient.
    """
    return jax.lax.stop_gradient(x)


def _mean_square(x: Float[Array, "*x d"]) -> Float[Array, "*x"]:
    return jnp.mean(x * x, axis=-1)


def _counts(indices: Array, codes: int, weights: Array | None) -> Float[Array, "k"]:
    flat = None if weights is None else jnp.asarray(weights, jnp.float32).reshape(-1)
    return jnp.bincount(indices.reshape(-1), flat, length=codes).astype(jnp.float32)
