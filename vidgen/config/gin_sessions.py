"""Several objects, each built by gin from files of its own, with one set of --gin flags for all.

A trained cascade is a folder of training folders named by the stages, and all their configurations
set MODEL. So each is read in a session of its own; a flag is for whichever of them understands it,
such as ssr1/SamplerSpec.steps, and it is an error only where none does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vidgen.config import gin_files, gin_utils, untrusted

T = TypeVar("T")

# What `vidgen export` writes (inference/export.py); training writes a path of its machine.
_BESIDE = re.compile(r"^TOKENIZER_DIR = '\.\./(\w+)'$", re.MULTILINE)


class Sessions:
    """Sessions one after the other.

    Attributes:
      configs: the operative configuration of each object built.
    """

    def __init__(self, first: Sequence[str], last: Sequence[str], bindings: Sequence[str]) -> None:
        """Let every session read the files `first`, its own, `last`, and then `bindings`."""
        self.configs: list[str] = []
        self._first, self._last, self._bindings = first, last, bindings
        self._trusted = untrusted.packages_of(last)
        self._taken: set[str] = set()
        self._used: set[str] = set()
        self._refused: dict[str, gin_utils.GinError] = {}

    def build(
        self,
        cls: Callable[..., T],
        files: Sequence[str] = (),
        bindings: Sequence[str] = (),
        **given: Any,
    ) -> T:
        """Build an object from these files and bindings and from those of all sessions.

        Args:
          cls: its class.
          files: files of this session alone.
          bindings: bindings of this session alone; all of them must be right.
          **given: fields that win over gin's.

        Returns:
          The object.

        Raises:
          GinError: a file or a binding is wrong, or the object refuses its settings.
        """
        read = [*self._first, *files, *self._last]
        with gin_utils.session(read, bindings, trusted=self._trusted):
            taken = [binding for binding in self._bindings if self._bind(binding)]
            built = gin_utils.build(cls, **given)
            self.configs.append(gin_utils.operative_config())
            self._used |= set(taken) - set(without_effect(taken, gin_utils.unused_bindings()))
        self._taken |= set(taken)
        return built

    def build_trained(self, cls: Callable[..., T], folder: Path) -> T:
        """Build an object from the configuration that training left in a folder.

        Args:
          cls: its class.
          folder: the MODEL_DIR of the training.

        Returns:
          The object, with the files and flags of this run applied.

        Raises:
          GinError: as `build`, or the configuration does what none of vidgen does.
        """
        return self.build(cls, *_of_training(folder))

    def build_unchanged(self, cls: Callable[..., T], folder: Path) -> T:
        """Build an object as training left it, without the files and flags of this run.

        Args:
          cls: its class.
          folder: the MODEL_DIR of the training.

        Returns:
          The object.

        Raises:
          GinError: as `build_trained`.
        """
        files, bindings = _of_training(folder)
        with gin_utils.session([*self._first, *files], bindings, trusted=self._trusted):
            return gin_utils.build(cls)

    def trained_values(self, folder: Path, macro: str, parameter: str) -> list[Any]:
        """Look up a setting in the configuration that training left in a folder.

        Args:
          folder: the MODEL_DIR of the training.
          macro: where to begin, such as DATASET.
          parameter: "Class.field", or "module.Class.field".

        Returns:
          Its values in all objects that the macro leads to (`gin_utils.reached_values`).
        """
        files, _ = _of_training(folder)
        config, field = folder / "config.gin", parameter.rpartition(".")[2]
        if config.is_file() and field not in gin_files.read(config):
            return []  # without parsing it, which takes 60 ms
        with gin_utils.session(files, trusted=self._trusted):
            return gin_utils.reached_values(macro, parameter)

    @property
    def has_changes(self) -> bool:
        """Whether anything is read after the objects' own files."""
        return bool(self._last or self._bindings)

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


def _of_training(folder: Path) -> tuple[list[str], list[str]]:
    """Return the file that training left in a folder, and bindings that say where things are.

    A tokenizer that was exported together with its reader is named by its folder beside it.
    """
    config = folder / "config.gin"
    where = [f"MODEL_DIR={str(folder)!r}"]
    if config.is_file() and (name := _BESIDE.search(config.read_text(encoding="utf-8"))):
        where.append(f"TOKENIZER_DIR={str(folder.parent / name[1])!r}")
    return [untrusted.Untrusted(config)], where


def without_effect(bindings: Sequence[str], unused: Sequence[str]) -> list[str]:
    """Find the bindings that no object has read.

    Args:
      bindings: NAME=VALUE, as flags give them.
      unused: what `unused_bindings()` returned, in full names.

    Returns:
      Those of `bindings` that are among them.
    """
    names = [(binding, binding.partition("=")[0].strip()) for binding in bindings]
    return [b for b, name in names if any(_is_short_for(name, full) for full in unused)]


def note(bindings: Sequence[str]) -> None:
    """Print a line for each binding that has no effect.

    Args:
      bindings: NAME=VALUE, as flags give them.
    """
    for name in (binding.partition("=")[0].strip() for binding in bindings):
        why = "nothing reads it, or the files bind it in a scope (such as base/), which wins"
        print(f"vidgen: note: --gin.{name} has no effect here: {why}.", file=sys.stderr)


def _is_short_for(name: str, full: str) -> bool:
    """Whether `s/Trainer.ema_decay` is `s/vidgen.train.trainer.Trainer.ema_decay`."""
    scope, _, selector = name.rpartition("/")
    full_scope, _, full_selector = full.rpartition("/")
    return scope == full_scope and f".{full_selector}".endswith(f".{selector}")
