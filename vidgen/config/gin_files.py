"""Where configuration files are found, and what is said of one that is wrong; gin is not needed."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vidgen.config.old_names import with_new_names

PACKAGE = Path(__file__).resolve().parents[1]


class GinError(ValueError):
    """A mistake in a configuration file or in a --gin flag, told in one sentence."""


_search_paths: list[Path] = []  # folders of the user's own, looked into first


@contextlib.contextmanager
def searching(folders: Sequence[str]) -> Iterator[None]:
    """Inside, files are looked for in these folders too, before those of vidgen.

    Raises:
      GinError: one is no folder.
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
    """The folders of .gin files: --gin_search_paths, then those of this clone or installation."""
    candidates = (PACKAGE.parent / "gin_configs", PACKAGE / "gin_configs")
    return (*_search_paths, *(root for root in candidates if root.is_dir()))


def find_file(name: str) -> Path:
    """Path of a configuration file: absolute, in the current folder, or in `config_roots`.

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


def at_home(value: Any) -> Any:
    """A setting in which "~" is the home folder, which no shell says in --gin.DATA_DIR=~/x."""
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, list | tuple):
        return type(value)(map(at_home, value))
    if isinstance(value, dict):
        return {key: at_home(inner) for key, inner in value.items()}
    return value


def _opened(path: str) -> io.StringIO:
    """A configuration file, in the names of today."""
    path = at_home(path)
    file = io.StringIO(with_new_names(Path(path).read_text(encoding="utf-8")))
    file.name = path  # gin says it where a line is wrong
    return file


# How gin opens what it reads, and what that includes.
READER = (_opened, lambda path: os.path.isfile(at_home(path)))


def nearest(name: str, known: Sequence[str]) -> str:
    """', did you mean ...' or nothing."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(matches)}?" if matches else ""


def syntax_sentence(error: SyntaxError) -> str:
    """Where the parser stopped, and at what."""
    location = error.args[1]
    line = (location[3] or "").strip()
    return (
        f"{location[0] or 'command line'}, line {location[1]}: cannot read {line!r} ({error.msg})"
    )


def plain(message: str, error: Exception, hint: Callable[[str, str], str]) -> str:
    """Gin's message without its trail of calls; `hint` tells the nearest names of a parameter."""
    where = re.search(r'In file "([^"]+)", line (\d+)', message)
    what = re.split(r"\n\s+In (?:call to|file|bindings)", message)[0]
    what = re.split(r"\n\s+No values supplied", what)[0]
    what = re.sub(r"\s+", " ", what).strip() or type(error).__name__
    if match := re.match(r"Unable to open file: (.*?)\. Searched", what):
        what = f"it includes {match[1]!r}, which does not exist"
    elif match := re.match(
        r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'", what
    ):
        what = f"{match[1]} has no parameter {match[2]!r}" + hint(match[1], match[2])
    elif match := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*?arguments?: (.*)", what):
        what = f"{match[1]} needs a value for {match[2]}; no configuration file gives one"
    elif match := re.search(r"module '?([\w.]+)'?.* has no attribute (\w+)", what):
        what = f"{match[1]} has no {match[2]}"
    elif isinstance(error, TypeError):
        scoped = re.search(r"In call to configurable '([^']+)'", message)
        what = f"{scoped[1]}: {what}" if scoped else what
    return f"{where[1]}, line {where[2]}: {what}" if where else what


def reached(config: Path, macro: str) -> dict[str, str]:
    """All that a saved configuration binds of the objects that a macro leads to, as text.

    Args:
      config: written by training, which names every object with its module.
      macro: where to begin, as DATASET.

    Returns:
      The value by "scope/module.Class.parameter"; where it is a macro, the value of that.
    """
    values = _values(config.read_text(encoding="utf-8"))
    todo, objects, found = [macro], set(), dict[str, str]()
    while todo:
        for scoped in re.findall(r"@([\w/.]+)", _resolved(values, todo.pop())):
            built = scoped.rpartition("/")[2]
            if built not in objects:
                objects.add(built)
                own = [n for n in values if n.rpartition("/")[2].rpartition(".")[0] == built]
                found |= {name: _resolved(values, name) for name in own}
                todo += own
    return found


def _values(text: str) -> dict[str, str]:
    """The text of each value of a saved configuration by its name, its lines joined."""
    found, name = dict[str, str](), ""
    for line in text.splitlines():
        if line[:1].isidentifier() and " = " in line:
            name, _, value = line.partition(" = ")
            found[name] = value.rstrip("\\ ")
        elif name and line[:1] in (" ", ")", "]", "}"):
            found[name] += line.strip()
        else:
            name = ""
    return found


def _resolved(values: dict[str, str], name: str) -> str:
    while (text := values.get(name, "")).startswith("%"):
        name = text[1:]
    return text


def excerpt(config: Path, scope: str, macro: str) -> str:
    """What a saved configuration says of one part: its imports, bindings in `scope`, one macro.

    Raises:
      GinError: it has no such part.
    """
    kept, taken = [], False
    for line in with_new_names(config.read_text(encoding="utf-8")).splitlines():
        begins = line[:1].isidentifier()
        if begins:
            taken = line.startswith(("import ", "from ", f"{scope}/", f"{macro} ="))
        if taken and (begins or line[:1] in (" ", ")", "]", "}")):
            kept.append(line)
    if not any(line.startswith(f"{macro} =") for line in kept):
        raise GinError(f"{config} sets no {macro}; name a folder of another kind of model.")
    return "\n".join(kept) + "\n"
