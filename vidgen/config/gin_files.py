"""Where configuration files are found and how they are read, without gin; errors in plain words."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vidgen.config.old_names import with_new_names
from vidgen.config.t5x_configs import without_t5x

PACKAGE = Path(__file__).resolve().parents[1]

_INCLUDE = re.compile(r"""include\s+(['"])(.+?)\1\s*(?:#.*)?$""")


class GinError(ValueError):
    """A mistake in a configuration file or in a --gin flag, told in one sentence."""


class Untrusted(str):
    """Path of a configuration that came with weights, from whoever trained them."""


_search_paths: list[Path] = []  # folders of the user's own, looked into first


@contextlib.contextmanager
def searching(folders: Sequence[str]) -> Iterator[None]:
    """Look for files in these folders too inside the block, before those of vidgen.

    Args:
      folders: values of --gin_search_paths.

    Yields:
      Nothing.

    Raises:
      GinError: one of them is no folder.
    """
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise GinError(f"--gin_search_paths: there is no folder {folder}.")
    before = list(_search_paths)
    _search_paths[:] = [Path(folder).expanduser() for folder in folders]
    try:
        yield
    finally:
        _search_paths[:] = before


def config_roots() -> tuple[Path, ...]:
    """Return the folders of .gin files: --gin_search_paths, then those of this installation."""
    candidates = (PACKAGE.parent / "gin_configs", PACKAGE / "gin_configs")
    return (*_search_paths, *(root for root in candidates if root.is_dir()))


def find_file(name: str) -> Path:
    """Find a configuration file: absolute, in the current folder, or in `config_roots`.

    Args:
      name: as it stands in --gin_file or in an include; ~ is expanded.

    Returns:
      Its path, in the first of these folders that has it.

    Raises:
      GinError: there is no such file; the message names the nearest matches.
    """
    name = os.path.expanduser(name)
    for root in (Path(), *config_roots()):
        if (root / name).is_file():
            return root / name
    known = [str(p.relative_to(r)) for r in config_roots() for p in sorted(r.rglob("*.gin"))]
    folders = (Path.cwd(), *config_roots())
    searched = "" if Path(name).is_absolute() else f" in {' or '.join(map(str, folders))}"
    raise GinError(f"there is no configuration file {name!r}{searched}{nearest(name, known)}")


def read(path: Path) -> str:
    """Read a file as it is to be understood today: in new names, and without what is t5x's own.

    Args:
      path: the path of a .gin file.

    Returns:
      Its text, changed as far as that takes.
    """
    return with_new_names(without_t5x(path.read_text(encoding="utf-8")))


def parts(path: Path) -> Iterator[tuple[str, str | None, int]]:
    """Split a file at its includes.

    The text of a part has all the lines of the file up to its end, but those of the parts before
    are blank unless they import: gin then says the right line of a mistake. The last part includes
    nothing.

    Args:
      path: the path of a .gin file.

    Yields:
      (text, file included after it, line of the include).
    """
    lines = read(path).split("\n")
    before: list[str] = []  # of the parts before
    start = 0
    for number, line in enumerate(lines):
        if match := _INCLUDE.match(line):
            yield "\n".join([*before, *lines[start:number]]), match[2], number + 1
            part, start = lines[start : number + 1], number + 1
            before += [line if line.startswith(("import ", "from ")) else "" for line in part]
    yield "\n".join([*before, *lines[start:]]), None, len(lines)


def expand_home(value: Any) -> Any:
    """Expand "~" in a setting, which no shell does in --gin.DATA_DIR=~/x.

    Args:
      value: any value of gin; texts inside of lists and dicts count too.

    Returns:
      The same value with whole paths.
    """
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, list | tuple):
        return type(value)(map(expand_home, value))
    if isinstance(value, dict):
        return {key: expand_home(inner) for key, inner in value.items()}
    return value


def excerpt(config: Path, scope: str, macro: str) -> str:
    """Cut out what a saved configuration says of one part.

    Args:
      config: written by training.
      scope: whose bindings are kept, beside the imports.
      macro: a macro that is kept, too.

    Returns:
      The text of a configuration.

    Raises:
      GinError: it sets no such macro.
    """
    kept, keeps = [], False
    for line in read(config).splitlines():
        begins = line[:1].isidentifier()
        if begins:
            keeps = line.startswith(("import ", "from ", f"{scope}/", f"{macro} ="))
        if keeps and (begins or line[:1] in (" ", ")", "]", "}")):
            kept.append(line)
    if not any(line.startswith(f"{macro} =") for line in kept):
        raise GinError(f"{config} sets no {macro}; name a folder of another kind of model.")
    return "\n".join(kept) + "\n"


# ---- errors --------------------------------------------------------------------------------------


def nearest(name: str, known: Sequence[str]) -> str:
    """Suggest what a misspelled name may mean.

    Args:
      name: as a user wrote it.
      known: the names that there are.

    Returns:
      ", did you mean X?", or "" where nothing known is close to it.
    """
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(matches)}?" if matches else ""


def plain(error: Exception, file: str, hint: Callable[[str, str], str]) -> str:
    """Say in one sentence what gin raised, without its trail of calls.

    Args:
      error: an error of gin, of its parser, or of a constructor that it called.
      file: the file that was read.
      hint: returns the nearest names for (configurable, parameter).

    Returns:
      The sentence, with file and line where gin knows them.
    """
    if isinstance(error, tokenize.TokenError):
        return f"{file} ends inside a bracket or a string."
    if isinstance(error, SyntaxError):
        place = error.filename or "command line"
        line = (error.text or "").strip()
        return f"{place}, line {error.lineno}: cannot read {line!r} ({error.msg})"
    message = str(error)
    where = re.search(r'In file "([^"]+)", line (\d+)', message)
    what = re.split(r"\n\s+(?:In (?:call to|file|bindings)|No values supplied)", message)[0]
    what = re.sub(r"\s+", " ", what).strip() or type(error).__name__
    if match := re.match(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'", what):
        what = f"{match[1]} has no parameter {match[2]!r}" + hint(match[1], match[2])
    elif match := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*?arguments?: (.*)", what):
        what = f"{match[1]} needs a value for {match[2]}; no configuration file gives one"
    elif match := re.search(r"module '?([\w.]+)'?.* has no attribute (\w+)", what):
        what = f"{match[1]} has no {match[2]}"
    elif isinstance(error, TypeError):
        scoped = re.search(r"In call to configurable '([^']+)'", message)
        what = f"{scoped[1]}: {what}" if scoped else what
    return f"{where[1]}, line {where[2]}: {what}" if where else what
