"""What the configuration of a model may say that came from somebody else: nothing that runs code.

A .gin file imports modules and calls what they hold: `import os` and `MODEL = @os.system()` would
do whatever its writer likes. So a config.gin that lies beside weights is read by gin's parser alone
first, which calls nothing, and refused unless

    its imports are modules of vidgen that training uses (`ROOMS`)
    it includes no other file
    all that it builds are dataclasses of these, or one of two functions: `from vidgen.data import
    pipeline` and then `@pipeline.os.system()` would leave vidgen again

Modules of a user's own (CONTRIBUTING.md, "Adding a network") are allowed where the user says so, by
a --gin_file that imports them, as in training. Fields that name modules to import (`IMPORTING`) are
left at their defaults.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import tokenize
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from vidgen.config import gin_files
from vidgen.config.gin_files import GinError, Untrusted, plain
from vidgen.config.old_names import with_new_names

PACKAGE = "vidgen"
ROOMS = frozenset(
    ("data", "diffusion", "imagen", "nn", "phenaki", "pretrained", "sprites", "text", "train")
) | {"types"}
FUNCTIONS = {("vidgen.imagen.students", "student"), ("vidgen.train.frozen", "fingerprint")}
IMPORTING = {"SeqioSource": "modules"}  # fields that hold names of modules, by class
_GIN = "__gin__."


def packages_of(files: Sequence[str]) -> frozenset[str]:
    """List the packages that files of the user's own import, and those that they include.

    Args:
      files: names as --gin_file gives them.

    Returns:
      Packages outside vidgen, which the user trusts by naming these files.

    Raises:
      GinError: there is no such file, or it cannot be read.
    """
    packages: set[str] = set()
    for name in files:
        for text, included, _ in gin_files.parts(gin_files.find_file(name)):
            packages |= {_root(x.module) for x in _statements(text, name) if _is_import(x)}
            packages |= packages_of([included] if included else [])
    return frozenset(packages - {PACKAGE, _root(_GIN)})


def checked(name: str, trusted: Collection[str] = ()) -> Path:
    """Find a configuration file, and check it where it came with weights.

    Args:
      name: the name of the file; one that is `Untrusted` is checked, unless it came with vidgen.
      trusted: packages outside vidgen that it may use (`packages_of`).

    Returns:
      Its path.

    Raises:
      GinError: there is no such file, or it does more than to build settings.
    """
    path = gin_files.find_file(name)
    if isinstance(name, Untrusted) and not path.resolve().is_relative_to(gin_files.PACKAGE):
        check(gin_files.read(path), str(path), trusted)
    return path


def drop(name: str, bindings: MutableMapping[tuple[str, str], dict[str, Any]]) -> None:
    """Forget the modules that an `Untrusted` file would import.

    Args:
      name: the name of the file.
      bindings: (scope, class) -> {field: value}, after it was read.
    """
    if isinstance(name, Untrusted):
        for (_, selector), values in bindings.items():
            values.pop(IMPORTING.get(selector.rpartition(".")[2], ""), None)


def check(text: str, where: str, trusted: Collection[str] = ()) -> str:
    """Check that a configuration builds settings of vidgen and nothing else.

    Args:
      text: the text of the configuration.
      where: its path, for the message.
      trusted: packages outside vidgen that it may use (`packages_of`).

    Returns:
      The same text.

    Raises:
      GinError: it does more.
    """
    names = _Names()
    modules: dict[str, str] = {}  # by the name that an import binds
    is_dynamic = False
    for statement in _statements(with_new_names(text), where, names):
        if isinstance(statement, config_parser.IncludeStatement):
            raise GinError(
                f"{where} includes {statement.filename}; a configuration that comes with weights "
                "has to be one file."
            )
        if _is_import(statement):
            is_dynamic |= statement.module == f"{_GIN}dynamic_registration"
            if not statement.module.startswith(_GIN):
                _note_import(statement, modules, where, trusted)
        elif isinstance(statement, config_parser.BlockDeclaration) or statement.arg_name:
            names.selectors.add(statement.selector)  # others are macros
    if not is_dynamic:
        raise GinError(
            f"{where} is no configuration that vidgen saved; it lacks dynamic_registration."
        )
    for selector in sorted(names.selectors):
        _check_selector(selector, modules, where, trusted)
    return text


class _Names(config_parser.ParserDelegate):
    """Notes what a text refers to; builds nothing."""

    def __init__(self) -> None:
        self.selectors: set[str] = set()

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        """Note the name in `@scope/name` or `@scope/name()`."""
        self.selectors.add(scoped_configurable_name.rpartition("/")[2])

    def macro(self, macro_name: str) -> None:
        """Read `%NAME`, which is nothing by itself."""


def _statements(text: str, where: str, names: _Names | None = None) -> Iterator[Any]:
    try:
        yield from config_parser.ConfigParser(text, names or _Names())
    except (SyntaxError, tokenize.TokenError) as error:
        raise GinError(plain(error, where, lambda *_: "")) from error


def _is_import(statement: Any) -> bool:
    return isinstance(statement, config_parser.ImportStatement)


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_allowed(module: str, trusted: Collection[str]) -> bool:
    package, room, *_ = (*module.split("."), "")
    return room in ROOMS if package == PACKAGE else package in trusted


def _note_import(
    statement: Any, modules: dict[str, str], where: str, trusted: Collection[str]
) -> None:
    if not _is_allowed(statement.module, trusted):
        raise GinError(
            f"{where} imports {statement.module}, which no model of vidgen consists of, and which "
            "could run anything: if you trust whoever wrote it, pass a --gin_file that imports it."
        )
    # `import a.b` binds a, of which b is an attribute.
    whole = statement.is_from or statement.alias
    module = statement.module if whole else _root(statement.module)
    if modules.setdefault(statement.bound_name(), module) != module:
        raise GinError(f"{where} imports two modules as {statement.bound_name()}.")


def _check_selector(
    selector: str, modules: dict[str, str], where: str, trusted: Collection[str]
) -> None:
    """Raise GinError unless a name is a class of settings or a network."""
    root, *inner = selector.split(".")
    thing: Any = importlib.import_module(modules[root]) if root in modules else None
    for name in inner:
        thing = getattr(thing, name, None)
    home, name = (str(getattr(thing, n, "")) for n in ("__module__", "__qualname__"))
    is_settings = inspect.isclass(thing) and dataclasses.is_dataclass(thing)
    is_known = is_settings or (home, name) in FUNCTIONS or _root(home) != PACKAGE
    if not (is_known and _is_allowed(home, trusted)):
        raise GinError(
            f"{where} uses {selector}, which is no class of settings and no network of vidgen; a "
            "configuration that comes with weights may use nothing else."
        )
