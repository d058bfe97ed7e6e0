"""The logical axis vocabulary, and the parameter and activation helpers that use it.

Every parameter axis and every constrained activation axis has a name from this file; a mesh gin
file maps names to mesh axes. JAX silently replicates a name it does not know, so the names are
closed here: `partitioned` and `constrain` refuse any other, and a test checks each mesh file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from flax import struct
from flax.linen import spmd
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from vidgen.nn import initializers
from vidgen.nn.initializers import Distribution, Initializer

PARAMETER_AXES: dict[str, str] = {
    "layers": "blocks stacked by a scan",
    "kernel": "taps of a convolution, in space or in time",
    "embed": "features of the residual stream that a layer reads or writes",
    "conv_in": "input channels of a convolution",
    "conv_out": "output channels of a convolution",
    "heads": "attention heads",
    "head_dim": "features of one attention head",
    "mlp": "hidden features of a feed-forward layer",
    "cond": "features of the conditioning vector",
    "film": "scales and shifts of a residual block",
    "text": "features of a text embedding",
    "norm": "scale and shift of a normalisation",
    "buckets": "relative positions that share a bias",
    "queries": "learned queries of the attention pooling",
    "pixels": "channels of the video itself, or of its space-to-depth form",
    "codes": "entries of a codebook, or of a table of tokens",
    "lookup": "features of a code in its codebook",
    "positions": "places of a token in its grid, along one axis",
}

ACTIVATION_AXES: dict[str, str] = {
    "batch": "examples",
    "frames": "time",
    "height": "rows",
    "width": "columns",
    "channels": "features of an activation",
    "tokens": "text tokens",
}

AXES = {**PARAMETER_AXES, **ACTIVATION_AXES}


def check_names(names: tuple[str | None, ...]) -> None:
    """Check that logical axis names are in the vocabulary.

    Args:
      names: one an axis; None is an axis that is never sharded.

    Raises:
      ValueError: a name is not in `AXES`.
    """
    unknown = [name for name in names if name is not None and name not in AXES]
    if unknown:
        raise ValueError(f"unknown logical axes {unknown}; nn/axes.py has {sorted(AXES)}.")


class Named(nn.LogicallyPartitioned):
    """A parameter boxed with its logical axis names, which unboxes without a constraint.

    Linen constrains a parameter whenever it is unboxed, also while a layer holds it flattened to
    two axes, where three names do not fit. The trainer places parameters by their names itself.

    Attributes:
      distribution: what the elements of a fresh parameter are drawn from.
    """

    distribution: Distribution | None = struct.field(default=None, pytree_node=False)

    def unbox(self, apply_constraint: bool = True) -> Any:
        """Return the bare array, or the ShapeDtypeStruct that stands for it.

        Args:
          apply_constraint: not read; it is Linen's, whose boxes constrain the layout here.

        Returns:
          The value of the parameter.
        """
        return self.value


def partitioned(init: Initializer, names: tuple[str | None, ...]) -> Callable[..., Any]:
    """Wrap an initializer for Linen: its result is boxed with the logical names of its axes.

    A mesh axis cuts at most one axis of an array, so no name may come twice: flax's own rules and
    t5x's refuse that, and ours would look at the first alone. Further axes have None.

    Args:
      init: gives the distribution of an array of some shape (nn/initializers.py).
      names: one an axis, in the order of the array's; None is an axis that is never sharded.

    Returns:
      An initializer of Linen: (key, shape, dtype) to a `Named` parameter.

    Raises:
      ValueError: a name is not in `AXES`, or comes twice.
    """
    check_names(names)
    twice = [name for name in names if name is not None and names.count(name) > 1]
    if twice:
        raise ValueError(f"the parameter axes {names} have the name {twice[0]!r} twice; use None.")
    return functools.partial(_boxed, init, names)


def _boxed(
    init: Initializer,
    names: tuple[str | None, ...],
    key: Key[Array, ""],
    shape: Sequence[int],
    dtype: DTypeLike = "float32",
) -> Named:
    shape = tuple(shape)  # some of Linen's layers pass a list
    distribution = init(shape)
    return Named(distribution.draw(key, shape, dtype), names, distribution=distribution)


def constrain(x: Array, *names: str | None) -> Array:
    """Constrain the layout of an activation over the mesh.

    Args:
      x: any array.
      *names: one an axis; None is an axis that is not cut.

    Returns:
      The same array; without a mesh nothing is constrained.

    Raises:
      ValueError: a name is not in `AXES`.
    """
    check_names(names)
    return spmd.with_logical_constraint(x, names)


def constrain_video(x: Array) -> Array:
    """Constrain the layout of a "b t h w c" activation over the mesh; see `constrain`."""
    return constrain(x, "batch", "frames", "height", "width", "channels")


def dense(
    features: int,
    names: tuple[str | None, str],
    *,
    name: str,
    scale: float = 1.0,
    dtype: DTypeLike = "float32",
    use_bias: bool = True,
) -> nn.Dense:
    """Build a dense layer over the last axis.

    Args:
      features: width of the output.
      names: logical names of the kernel's (input, output) axes.
      name: name of the module.
      scale: variance scale of the initialiser; 0 starts at zero.
      dtype: dtype of computation and result; parameters are float32.
      use_bias: whether it adds a bias.

    Returns:
      A layer from "... c" to "... features".
    """
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=partitioned(initializers.fan_in(scale), names),
        bias_init=partitioned(initializers.zeros, names[1:]),
        name=name,
    )


def layer_norm(name: str, axis: str = "norm", *, dtype: DTypeLike = "float32") -> nn.LayerNorm:
    """Make a layer normalisation whose scale and shift carry the name of their axis.

    Args:
      name: of the layer.
      axis: name of the features.
      dtype: type of computation.

    Returns:
      The layer.
    """
    return nn.LayerNorm(
        dtype=dtype,
        scale_init=partitioned(initializers.ones, (axis,)),
        bias_init=partitioned(initializers.zeros, (axis,)),
        name=name,
    )
