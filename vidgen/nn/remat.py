"""Stacks of blocks, and rematerialisation: what of a block is kept for the backward pass.

Beside its input a block keeps, by the name of a policy:

none      all that the gradient needs
products  the results of all matrix products, those of attention too
dots      the results of matrix products with parameters
full      nothing: the block runs again
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax

POLICIES = {
    "none": None,
    "products": jax.checkpoint_policies.dots_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@runtime_checkable
class Rematerialized(Protocol):
    """A Linen module with a setting `remat`, one of `POLICIES`."""

    remat: str

    def clone(self, **settings: Any) -> nn.Module:
        """Copy the module with other settings.

        Args:
          **settings: the fields that change, `remat` among them.

        Returns:
          The copy.
        """
        ...


def rematerialized(block: type[nn.Module], policy: str, *, in_loop: bool) -> type[nn.Module]:
    """Wrap a module class so that it keeps what a policy says for the backward pass.

    Args:
      block: the class.
      policy: one of `POLICIES`; "none" leaves the class as it is.
      in_loop: whether it runs in a loop. Outside one the compiler has to be kept from merging the
        recomputation with the original; inside one it cannot.

    Returns:
      The class.
    """
    if policy == "none":
        return block
    return nn.remat(block, policy=POLICIES[policy], prevent_cse=not in_loop)


def stacked(
    block: type[nn.Module],
    layers: int,
    *,
    policy: str = "none",
    unroll: bool = False,
    by_layer: bool = False,
) -> Any:
    """Put equal blocks on top of each other, in a loop over their stacked parameters.

    Args:
      block: the class; it is called with (x, one, all) and returns x and what it leaves.
      layers: number of blocks.
      policy: one of `POLICIES`.
      unroll: whether the blocks stand one after the other, without a loop.
      by_layer: whether `one` has a first axis of layers; otherwise all blocks get it whole.

    Returns:
      A class of a module that takes the fields of `block`, and returns what blocks leave, stacked.
    """
    scan: Any = nn.scan  # its stub knows one axis only
    return scan(
        rematerialized(block, policy, in_loop=not unroll),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0 if by_layer else nn.broadcast, nn.broadcast),
        length=layers,
        # One more than there are blocks: with exactly as many, JAX keeps a loop of one turn.
        unroll=layers + 1 if unroll else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
        # The check traces the block a second time; no variable here is shared between blocks.
        check_constancy_invariants=False,
    )
