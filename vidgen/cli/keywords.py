"""Keywords of a call in Python as the flags of a command, which says what they mean.

steps=64, guidance="2,base=6:1"       --steps=64 --guidance=2,base=6:1
MODEL_DIR="runs/a", TRAIN_STEPS=100   --gin.MODEL_DIR='runs/a' --gin.TRAIN_STEPS=100
"""

from __future__ import annotations

import argparse
import contextlib
import numbers
import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vidgen.cli.generate_flags import as_path

GinFiles = str | os.PathLike | Sequence[str | os.PathLike]


def as_flags(
    add: Callable[[argparse.ArgumentParser], None],
    given: Mapping[str, Any],
    without: Collection[str] = (),
) -> argparse.Namespace:
    """Turn keywords into the flags that a command line would give.

    Args:
      add: adds the flags of a command to a parser.
      given: values of flags by name; those that are missing have their default, and a number stands
        for its text.
      without: names of flags that a call has no use for.

    Returns:
      All flags of the command.

    Raises:
      ValueError: there is no such flag, or the call has no use for it, or it takes no such value.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    flags = vars(parser.parse_args([]))
    known = sorted(flags.keys() - set(without))
    for name in given:
        if name not in known:
            raise ValueError(f"there is no flag {name!r} here; choose from {', '.join(known)}.")
    actions = {action.dest: action for action in parser._actions}
    return argparse.Namespace(
        **flags | {name: _value(value, actions[name]) for name, value in given.items()}
    )


def _value(value: Any, action: argparse.Action) -> Any:
    """A value as its flag gives it, which None and the bool of a switch are already."""
    if value is None or (action.nargs == 0 and isinstance(value, bool)):
        return value
    if action.nargs == "*" and isinstance(value, (list, tuple)):
        return [_read(item, action) for item in value]
    return _read(value, action)


def _read(value: Any, action: argparse.Action) -> Any:
    """Read a value from the text that it would have in a command; numbers of numpy are numbers."""
    kind: Any = str if action.type is None else action.type
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if action.nargs != 0 and (is_number or isinstance(value, (str, os.PathLike))):
        with contextlib.suppress(ValueError):
            return kind(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
    wanted = {int: "a whole number", float: "a number", as_path: "the name of a file or folder"}
    words = "True or False" if action.nargs == 0 else wanted.get(kind, "text or a number")
    example = f", as in --{action.dest}={action.metavar}" if action.metavar else ""
    raise ValueError(f"{action.dest}={reprlib.repr(value)}: expected {words}{example}.")


def command_line(command: str, gin_files: GinFiles, given: Mapping[str, Any]) -> list[str]:
    """Turn keywords into the arguments of `vidgen COMMAND`.

    Args:
      command: its name.
      gin_files: one file or several, as --gin_file.
      given: flags by their names, which are in small letters; everything else is a gin macro or,
        with a dot in its name, a parameter. False and None leave a flag out.

    Returns:
      The arguments, the name of the command first.
    """
    flags = {name: value for name, value in given.items() if is_flag(name)}
    arguments = [f"--gin_file={file}" for file in listed(gin_files)]
    for name, value in flags.items():
        if value is not False and value is not None:
            arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return [command, *arguments, *(f"--gin.{b}" for b in bindings(given, without=flags))]


def listed(gin_files: GinFiles) -> list[str]:
    """List the names of configuration files, of which one need not be in a list.

    Args:
      gin_files: one file or several.

    Returns:
      Their names, in order.
    """
    one = isinstance(gin_files, (str, os.PathLike))
    return [os.fspath(file) for file in ([gin_files] if one else gin_files)]


def is_flag(name: str) -> bool:
    """Whether a keyword is a flag: macros of gin are in capitals, and parameters have a dot.

    Args:
      name: of the keyword.

    Returns:
      False for a macro or a parameter of gin.
    """
    return name.islower() and "." not in name


def bindings(given: Mapping[str, Any], without: Collection[str] = ()) -> list[str]:
    """Write values that Python holds as bindings of gin.

    Args:
      given: values by the name of a macro or a parameter. Text that begins with @ or % refers to
        what gin knows by this name: "@Sprites()", "%CLIP_SHAPE".
      without: names that are left out.

    Returns:
      NAME=VALUE for each, the value as gin reads it.
    """
    return [f"{name}={_literal(value)}" for name, value in given.items() if name not in without]


def _literal(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    is_reference = isinstance(value, str) and value.startswith(("@", "%"))
    return value if is_reference else repr(value)
