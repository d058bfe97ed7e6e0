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


@dataclasses.dataclass(frozen=True)
class Kind(Generic[T]):
    """How people write a value.

    Attributes:
      read: makes the value of its text, or raises a ValueError.
      words: what the text has to be.
    """

    read: Callable[[str], T]
    words: str


def parse(
    flag: str, text: str, kind: Kind[T], further: Callable[[], Collection[str]] = tuple
) -> PerStage[T]:
    """Parse the text of a flag.

    Args:
      flag: its name, for messages.
      text: what was given, in the form of the module's docstring.
      kind: how a value is written.
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
            parsed = kind.read(value)
        except ValueError:
            raise ValueError(f"--{flag}={text}: {value!r} is not {kind.words}.") from None
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


def _word(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _interval(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(":"))
    return low, high


def _weights(text: str) -> tuple[float, float | None]:
    high, colon, low = text.partition(":")
    return float(high), float(low) if colon else None


whole = Kind(int, "a whole number")
number = Kind(float, "a number")
word = Kind(_word, "a name")  # whoever uses it checks that it exists
interval = Kind(_interval, "two numbers as LOW:HIGH")  # of which `GuidanceSpec` checks the order
weights = Kind(_weights, "a weight, or two as HIGH:LOW")  # between which guidance alternates
