"""Rematerialisation by name: what of a block is kept for the backward pass, beside its input.

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
