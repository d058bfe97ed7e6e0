"""Calls of Linen modules as pure functions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from vidgen.types import Params


def apply_module(module: nn.Module, params: Params, *args: object, **kwargs: Any) -> Any:
    """Call a method of a module that changes no variables.

    `Module.apply` is typed as if it might also return changed variables; this returns the result
    alone.

    Args:
      module: the module.
      params: its parameters.
      *args: arguments of the method.
      **kwargs: further arguments, and those of `Module.apply`: `method`, `rngs`.

    Returns:
      The result of the method.
    """
    return module.apply(params, *args, **kwargs)
