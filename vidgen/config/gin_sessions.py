"""Several objects, each built by gin from files of its own, with one set of --gin flags for all.

A trained cascade is a folder of training folders named by the stages, and all their configurations
set MODEL. So each is read in a session of its own; a flag is for whichever of them understands it,
such as ssr1/SamplerSpec.steps, and it is an error only where none does.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.config import gin_utils


class Sessions:
    """Sessions one after the other.

    Attributes:
      configs: the operative configuration of each object built.
    """

    def __init__(self, first: Sequence[str], last: Sequence[str], bindings: Sequence[str]) -> None:
        """Let every session read the files `first`, its own, `last`, and then `bindings`."""
        self.configs: list[str] = []
        self._first, self._last, self._bindings = first, last, bindings
        self._taken: set[str] = set()
        self._used: set[str] = set()
        self._refused: dict[str, gin_utils.GinError] = {}

    def build(
        self, cls: Any, files: Sequence[str] = (), bindings: Sequence[str] = (), **given: Any
    ) -> Any:
        """Return `cls` from these files and bindings and from those of all sessions.

        Args:
          cls: the class.
          files: of this session alone.
          bindings: of this session alone; all of them must be right.
          **given: fields that win over gin's.

        Raises:
          GinError: a file or a binding is wrong, or the object refuses its settings.
        """
        with gin_utils.session([*self._first, *files, *self._last], bindings):
            taken = [binding for binding in self._bindings if self._bind(binding)]
            built = gin_utils.build(cls, **given)
            self.configs.append(gin_utils.operative_config())
            self._used |= set(taken) - set(without_effect(taken, gin_utils.unused_bindings()))
        self._taken |= set(taken)
        return built

    def build_trained(self, cls: Any, folder: Path) -> Any:
        """Return `cls` from the configuration that training left in `folder`, its MODEL_DIR."""
        files, bindings = [str(folder / "config.gin")], [f"MODEL_DIR={str(folder)!r}"]
        built = self.build(cls, files, bindings)
        model: Any = getattr(built, "model", None)
        if getattr(model, "learned", None) and hasattr(built, "load"):
            if self._last or self._bindings:  # which may have changed what the student learned
                with gin_utils.session([*self._first, *files], bindings):
                    _check_learned(folder, gin_utils.build(cls).model, model)
        if hasattr(model, "joint") and _trained_jointly(folder / "config.gin"):
            built = dataclasses.replace(built, model=dataclasses.replace(model, joint=True))
        return built

    def check_bindings(self) -> None:
        """Raise the error of a binding that no session took, and name those that none used."""
        for binding, error in self._refused.items():
            if binding not in self._taken:
                raise error
        note([binding for binding in self._bindings if binding not in self._used])

    def _bind(self, binding: str) -> bool:
        """Whether the open session takes a binding."""
        try:
            gin_utils.bind(binding)
        except gin_utils.GinError as error:  # it may be meant for another session
            self._refused.setdefault(binding, error)
            return False
        return True


def _check_learned(folder: Path, trained: Any, asked: Any) -> None:
    """Raise ValueError where settings of this run say that a student learned something else.

    Args:
      folder: of the student.
      trained: the model as its own configuration has it.
      asked: the model with the files and flags of this run.
    """
    before, after = (
        dataclasses.asdict(model.learned) | {"schedule": model.schedule}
        for model in (trained, asked)
    )
    for name in [name for name in before if before[name] != after[name]]:
        raise ValueError(
            f"{folder} holds a distilled student whose {name} was {before[name]} in training; a "
            f"--gin flag or file makes it {after[name]}, which changes nothing of what the student "
            "has learned: leave it out (--guidance, --steps and --sampler say what can be asked)."
        )


def _trained_jointly(config: Path) -> bool:
    """Whether packs of images were among the examples that a saved configuration trained on."""
    with gin_utils.session([str(config)]):
        return any(gin_utils.reached_values("DATASET", "images.Joint.image_rate"))


def without_effect(bindings: Sequence[str], unused: Sequence[str]) -> list[str]:
    """Return those of the NAME=VALUE `bindings` that are among `unused_bindings()`."""
    names = [(binding, binding.partition("=")[0].strip()) for binding in bindings]
    return [b for b, name in names if any(_is_short_for(name, full) for full in unused)]


def note(bindings: Sequence[str]) -> None:
    """Print the bindings that have no effect."""
    for name in (binding.partition("=")[0].strip() for binding in bindings):
        why = "nothing reads it, or the files bind it in a scope (such as base/), which wins"
        print(f"vidgen: note: --gin.{name} has no effect here: {why}.", file=sys.stderr)


def _is_short_for(name: str, full: str) -> bool:
    """Whether `s/Trainer.ema_decay` is `s/vidgen.train.trainer.Trainer.ema_decay`."""
    scope, _, selector = name.rpartition("/")
    full_scope, _, full_selector = full.rpartition("/")
    return scope == full_scope and f".{full_selector}".endswith(f".{selector}")
