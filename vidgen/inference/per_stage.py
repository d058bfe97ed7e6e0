"""Settings that may differ from stage to stage, as people write them.

64                  for every stage
base=256,tsr1=64    for these; the others keep their own
128,base=256        for every stage but these
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from vidgen.types import STAGES

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PerStage(Generic[T]):
    """One setting, which may differ from stage to stage.

    Attributes:
      default: for the stages that are not named; None leaves them their own.
      by_stage: for those that are.
    """

    default: T | None = None
    by_stage: Mapping[str, T] = dataclasses.field(default_factory=dict)

    def __call__(self, stage: str) -> T | None:
        """Return the value for a stage, or None."""
        return self.by_stage.get(stage, self.default)


def parse(
    flag: str,
    text: str,
    read: Callable[[str], T],
    further: Callable[[], Collection[str]] = tuple,
) -> PerStage[T]:
    """Parse the text of a flag.

    Args:
      flag: its name, for messages.
      text: what was given, in the form of the module's docstring.
      read: one value from its text; raises ValueError with what it takes.
      further: the stages beside those of the paper, asked for where another name is given.

    Returns:
      The setting.

    Raises:
      ValueError: a stage that there is none of, one that is named twice, or a wrong value.
    """
    default: T | None = None
    named: dict[str, T] = {}
    for item in text.split(","):
        stage, equals, value = (part.strip() for part in item.rpartition("="))
        if equals and stage not in STAGES and stage not in further():
            choices = dict.fromkeys([*STAGES, *further()])
            raise ValueError(
                f"--{flag}={text}: there is no stage {stage!r}; choose from {', '.join(choices)}."
            )
        if stage in named or (not equals and default is not None):
            raise ValueError(
                f"--{flag}={text} says twice what {stage or 'all stages'} should have."
            )
        try:
            parsed = read(value)
        except ValueError as error:
            raise ValueError(f"--{flag}={text}: {value!r} is not {error}.") from None
        if equals:
            named[stage] = parsed
        else:
            default = parsed
    return PerStage(default, named)


def value(setting: T | PerStage[T] | None, stage: str) -> T | None:
    """Return what a setting is for a stage.

    Args:
      setting: one value for all stages, or a `PerStage`.
      stage: name of the stage.

    Returns:
      The value; None where the stage keeps its own.
    """
    return setting(stage) if isinstance(setting, PerStage) else setting


def whole(text: str) -> int:
    """Parse a whole number.

    Args:
      text: as a person wrote it.

    Returns:
      The number.

    Raises:
      ValueError: it is none; like those of the other readers, the message says what is wanted.
    """
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def number(text: str) -> float:
    """Parse a number.

    Args:
      text: as a person wrote it.

    Returns:
      The number.

    Raises:
      ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def word(text: str) -> str:
    """Accept any name that is not empty; whoever uses it checks that it exists.

    Args:
      text: as a person wrote it.

    Returns:
      The name.

    Raises:
      ValueError: it is empty.
    """
    if not text:
        raise ValueError("a name")
    return text


def interval(text: str) -> tuple[float, float]:
    """Parse two numbers as LOW:HIGH.

    Args:
      text: as a person wrote it.

    Returns:
      (low, high), of which `GuidanceSpec` checks the order.

    Raises:
      ValueError: there are not two numbers.
    """
    low, colon, high = text.partition(":")
    try:
        if colon:
            return float(low), float(high)
    except ValueError:
        pass
    raise ValueError("two numbers as LOW:HIGH")


def weights(text: str) -> tuple[float, float | None]:
    """Parse a guidance weight, or HIGH:LOW, between which guidance alternates.

    Args:
      text: as a person wrote it.

    Returns:
      (high, low); low is None for one constant weight.

    Raises:
      ValueError: it is neither.
    """
    high, colon, low = text.partition(":")
    try:
        return float(high), float(low) if colon else None
    except ValueError:
        raise ValueError("a weight, or two as HIGH:LOW") from None
