"""Checks of an object's settings, whose errors name the setting, its value and what is allowed.

Each takes the object and the names of its fields. A field that is None is not set, and passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection


def one_of(owner: object, **choices: Collection[str]) -> None:
    """Check fields that hold one of several words.

    Args:
      owner: has the fields.
      **choices: the words that each field may hold.

    Raises:
      ValueError: a field holds another one.
    """
    for name, words in choices.items():
        value = getattr(owner, name)
        if value is not None and value not in words:
            raise _error(owner, name, f"{value!r}; choose one of {', '.join(words)}.")


def at_least(owner: object, **limits: float | int) -> None:
    """Check fields that have a least value.

    Args:
      owner: has the fields.
      **limits: the least value of each.

    Raises:
      ValueError: a field is smaller, or NaN.
    """
    for name, limit in limits.items():
        value = getattr(owner, name)
        if value is not None and not value >= limit:
            raise _error(owner, name, f"{value}; it must be >= {limit}.")


def positive(owner: object, *names: str) -> None:
    """Check fields that are finite numbers above 0.

    Args:
      owner: has the fields.
      *names: of the fields.

    Raises:
      ValueError: a field is not.
    """
    _check_all(owner, names, lambda value: 0 < value < math.inf, "positive")


def share(owner: object, *names: str) -> None:
    """Check fields that are numbers from 0 to 1.

    Args:
      owner: has the fields.
      *names: of the fields.

    Raises:
      ValueError: a field is not.
    """
    _check_all(owner, names, lambda value: 0 <= value <= 1, "in [0, 1]")


def _check_all(
    owner: object, names: Collection[str], is_allowed: Callable[[float], bool], words: str
) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not is_allowed(value):
            raise _error(owner, name, f"{value}; it must be {words}.")


def _error(owner: object, name: str, text: str) -> ValueError:
    return ValueError(f"{type(owner).__name__}.{name} is {text}")
