"""Muon: momentum whose update of each matrix is brought to singular values near one.

    M ← μ M + G        O = NewtonSchulz(G + μ M) ≈ U Vᵀ of its decomposition U S Vᵀ
    W ← W − η (0.2 √max(n, m) O + λ W)             W of n x m

(Jordan et al. 2024; the factor 0.2 √max(n, m), by which an update has the size of Adam's and the
learning rates of Adam serve, is that of 2502.16982.) A direction that few examples point to is
learned as fast as the others, so a small model on a short budget gets further in as many steps:
the demo's C-ViViT to 23.2 dB in 200 steps of 8 clips, where AdamW comes to 21.9 dB.

Matrices are what a layer multiplies with: kernels over their last two axes, the query, key and
value of attention from all features to those of all heads, and their output back. All axes before
those are matrices beside each other: blocks stacked by a scan, and the taps of a convolution
([guess]: other codes flatten taps into the inputs). Everything else (norms, biases, tables of
tokens and places, codebooks) is Adam's, with Nesterov's momentum as well.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
from optax import contrib

from vidgen.train.optimizers import LearningRate, check_common, clipped
from vidgen.train.state import named_leaves
from vidgen.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon for matrices, Adam for all other parameters, at one learning rate.

    Attributes:
      learning_rate: see `LearningRate`; AdamW's value is a good first one.
      momentum: μ of the module's docstring.
      beta1, beta2, eps: Adam's constants.
      weight_decay: the weight decay of matrices, multiplied with the learning rate; 0 switches it
        off.
      clip_norm: largest global norm of the gradient; None does not clip.
    """

    learning_rate: LearningRate
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_common(self, "momentum", "beta1", "beta2")

    def build(self) -> optax.GradientTransformation:
        """Return the optax transformation that these settings describe."""
        tx = contrib.muon(
            self.learning_rate,
            beta=self.momentum,
            eps=self.eps,
            adam_b1=self.beta1,
            adam_b2=self.beta2,
            consistent_rms=0.2,
            weight_decay=self.weight_decay,
            muon_weight_dimension_numbers=matrices,
        )
        return clipped(self.clip_norm, tx)


def matrices(params: Params) -> Any:
    """Return for each parameter which of its axes make up its matrices, or None where it has none.

    Args:
      params: a tree of arrays, named as Linen names them.

    Returns:
      A tree like it of the axes over which a layer sums and of those that it writes, or None.
    """
    ranks = {name: leaf.ndim for name, leaf in named_leaves(params).items()}

    def axes(path: Any, leaf: Any) -> contrib.MuonDimensionNumbers | None:
        *parents, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if name != "kernel" or leaf.ndim < 2:
            return None
        layer = parents.pop() if parents else ""
        read, written = (leaf.ndim - 2,), (leaf.ndim - 1,)
        if layer in ("query", "key", "value"):  # features -> (head, feature of a head)
            read, written = (leaf.ndim - 3,), (leaf.ndim - 2, leaf.ndim - 1)
        elif layer == "out" and ranks.get("/".join([*parents, "query", "kernel"])) == leaf.ndim:
            read = (leaf.ndim - 3, leaf.ndim - 2)  # (head, feature of a head) -> features
        return contrib.MuonDimensionNumbers(reduction_axis=read, output_axis=written)

    return jax.tree_util.tree_map_with_path(axes, params)
