"""Gin, which no other module runs: it reads files, builds runs, and says what they used.

    with session(files, bindings):      # parses; forgets everything on leaving
        run = build(Train)              # gin supplies the fields, nested objects included
        text = operative_config()       # what was really used, as a .gin file

Gin accepts three mistakes in silence or answers them obscurely; here each is a `GinError`: a macro
that no file mentions, a required macro that is reached but not set, and a value of another kind
than the one it replaces. Required macros are checked when they are reached (`gin.finalize` wants
every macro of every file), so that `vidgen plan` needs no MODEL_DIR. Bindings that a run never used
are listed by `unused_bindings`: one on an object that Python code builds would have no effect.

Private names of gin 0.5 that have no public equal:

    _CONFIG              all bindings; `query_parameter` reads one of a known name
    _OPERATIVE_CONFIG    which of them were read, and in which scope
    _REGISTRY, _INVERSE_REGISTRY    all that files registered
    _config_str          `operative_config_str` takes no edited configuration
"""

from __future__ import annotations

import contextlib
import inspect
import io
import tokenize
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gin
from gin import config as gin_config
from gin import config_parser
from gin.selector_map import SelectorMap

from vidgen.config import gin_files, old_names, untrusted
from vidgen.config.gin_files import GinError, nearest, plain

T = TypeVar("T")
Key = tuple[str, str]  # (scope, selector)

_MACRO = "gin.macro"
_REQUIRED = "%gin.REQUIRED"
_bindings: dict[Key, dict[str, Any]] = gin_config._CONFIG
_operative: dict[Key, dict[str, Any]] = gin_config._OPERATIVE_CONFIG


@contextlib.contextmanager
def session(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    renamed: Mapping[str, Mapping[str, str]] = types.MappingProxyType({}),
    excerpts: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> Iterator[None]:
    """Let gin hold exactly these files and then these `NAME=VALUE` bindings inside the block.

    Args:
      files: read in this order, each `untrusted.Untrusted` one after a check.
      bindings: applied last.
      renamed: for a file, new names of macros that it sets; a later file may bind the old name.
      excerpts: text of saved configurations (`gin_files.excerpt`), checked, read after the files.
      trusted: packages outside vidgen that these may import.

    Yields:
      Nothing.

    Raises:
      GinError: a file or a binding is wrong.
    """
    gin.clear_config()
    # What files register is forgotten after the block: gin would keep a module's first name.
    registered = gin_config._REGISTRY, gin_config._INVERSE_REGISTRY
    own_names = SelectorMap()
    for selector, configurable in registered[0].items():
        own_names[selector] = configurable
    gin_config._REGISTRY, gin_config._INVERSE_REGISTRY = own_names, dict(registered[1])
    try:
        for name in files:
            _parse_file(path := untrusted.checked(name, trusted))
            untrusted.drop(name, _bindings)
            for names in renamed.get(name, {}).items():
                _rename_macro(path, *names)
        for text in excerpts:
            gin.parse_config(untrusted.check(text, "the tokenizer's configuration", trusted))
        for binding in bindings:
            bind(binding)
        yield
    finally:
        gin_config._REGISTRY, gin_config._INVERSE_REGISTRY = registered
        gin.clear_config()


def _parse_file(path: Path) -> None:
    """Parse a file, with those that it includes, in the names of today."""
    for text, included, line in gin_files.parts(path):
        stream = io.StringIO(text)
        stream.name = str(path)  # gin says it where a line is wrong
        with _one_sentence(str(path)):
            gin.parse_config(stream)
        if included is not None:
            try:
                inner = gin_files.find_file(included)
            except GinError as error:
                raise GinError(f"{path}, line {line}: it includes a file, and {error}") from error
            _parse_file(inner)


def _rename_macro(path: Path, old: str, new: str) -> None:
    if (new, _MACRO) in _bindings:
        raise GinError(f"{path} has a {new} already; its {old} cannot become another {new}.")
    if (old, _MACRO) not in _bindings:
        raise GinError(f"{path} sets no {old}.")
    _bindings[new, _MACRO] = _bindings.pop((old, _MACRO))


def build(cls: Callable[..., T], **given: Any) -> T:
    """Build an object whose fields come from gin.

    Args:
      cls: a class that the files of the session import.
      **given: fields that win over gin's.

    Returns:
      The object, with all objects that its bindings name.

    Raises:
      GinError: a macro is missing, a field has no value, or an object refuses its settings.
    """
    configurable = gin_config._INVERSE_REGISTRY.get(cls)
    if configurable is None:
        name = getattr(cls, "__name__", str(cls))
        raise GinError(f"no configuration file binds anything of {name}; add its runs/*.gin file.")
    _check_required(configurable.selector, frozenset(given))
    for (_, selector), values in _bindings.items():
        values.update({name: gin_files.expand_home(value) for name, value in values.items()})
        if selector == configurable.selector:
            for name in given.keys() & values.keys():
                del values[name]  # gin would build it all the same, perhaps of what is not set
    with _one_sentence():
        return gin.get_configurable(cls)(**given)


def named_by(macro: str) -> Callable[..., Any]:
    """Find the class that a macro names, as in RUN = @train.Train(); the macro counts as used.

    Args:
      macro: its name.

    Returns:
      The class itself, which `build` takes.

    Raises:
      GinError: the macro is not set, or to something else.
    """
    value = _bindings.get((macro, _MACRO), {}).get("value")
    is_reference = isinstance(value, gin_config.ConfigurableReference)
    if not is_reference or _selector(value).startswith("gin."):  # a macro or a constant
        raise GinError(f"{macro} is {value!r}; it must name a class, like @train.Train().")
    _operative[macro, _MACRO] = {"value": value}
    return gin_config._REGISTRY[_selector(value)].wrapped


def _check_required(root: str, supplied: frozenset[str]) -> None:
    """Raise GinError unless all macros that `root` reaches, but for `given`, have a value."""
    for name, _, value in _reached(("", root), supplied):
        for reference in gin_config.iterate_references([value]):
            if repr(reference) == _REQUIRED:
                how = "VALUE, or a --gin_file that sets it"
                how = "\"'runs/x'\"" if name.endswith("_DIR") else how
                raise GinError(f"{name} is not set: pass --gin.{name}={how}.")
            macro = "/".join(reference.scopes)
            if _selector(reference) == _MACRO and (macro, _MACRO) not in _bindings:
                raise GinError(f"{name} reads %{macro}, which no configuration file sets.")


def reached_values(macro: str, parameter: str) -> list[Any]:
    """Look up a field in all objects that a macro leads to; nothing is built.

    Args:
      macro: where to begin, such as DATASET.
      parameter: "Class.field", or "module.Class.field".

    Returns:
      The values that files bind to it, macros resolved; none where it has its default.
    """
    values = []
    for _, name, value in _reached((macro, _MACRO)):
        if f".{name}".endswith(f".{parameter}"):
            while isinstance(value, gin_config.ConfigurableReference):  # a macro
                value = _bindings["/".join(value.scopes), _MACRO]["value"]
            values.append(value)
    return values


def _reached(root: Key, left_out: frozenset[str] = frozenset()) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, name without scope, value) of all bindings that `root` leads to."""
    seen: set[Key] = set()
    todo = [root]
    while todo:
        scope, selector = key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        for (bound_scope, bound), values in _bindings.items():
            if bound != selector or (selector == _MACRO and bound_scope != scope):
                continue
            for parameter, value in values.items():
                if selector == root[1] and parameter in left_out:
                    continue
                yield _name(bound_scope, bound, parameter), f"{bound}.{parameter}", value
                for reference in gin_config.iterate_references([value]):
                    inner = _selector(reference)
                    todo.append(("/".join(reference.scopes) if inner == _MACRO else "", inner))


def operative_config() -> str:
    """Return all values that built objects really used, defaults included, as a .gin file.

    Gin notes an object that a macro leads to with the macro's name as scope. Those scopes are
    dropped where nothing is lost: an unscoped binding can then override the saved file.
    """
    bound = {scope for scope, selector in _bindings if selector != _MACRO}
    aliases = set(macros()) - bound
    merged: dict[Key, dict[str, Any]] = {}
    for (scope, selector), values in _operative.items():
        if scope in aliases and selector != _MACRO:
            scopes = {"", *aliases}
            same = [v for (s, sel), v in _operative.items() if sel == selector and s in scopes]
            scope = "" if all(repr(v) == repr(values) for v in same) else scope
        merged[scope, selector] = values
    return gin_config._config_str(merged, max_line_length=100).rstrip("\n") + "\n"


def macros() -> tuple[str, ...]:
    """Return the names of the macros that the parsed files set or read."""
    bound = {scope for scope, selector in _bindings if selector == _MACRO}
    references = gin_config.iterate_references(_bindings)
    read = {"/".join(ref.scopes) for ref in references if _selector(ref) == _MACRO}
    return tuple(sorted(bound | read))


def unused_bindings() -> tuple[str, ...]:
    """Return the `scope/selector.parameter` bindings that no object built so far has read.

    Nothing of that class was built in that scope, or a narrower scope won every time.
    """
    unused = []
    for (scope, selector), values in _bindings.items():
        built = [s for s, other in _operative if other == selector]
        for parameter in values:
            if not any(_winner(active, selector, parameter) == scope for active in built):
                unused.append(_name(scope, selector, parameter))
    return tuple(sorted(unused))


def _winner(active: str, selector: str, parameter: str) -> str | None:
    """Return the narrowest scope that binds a parameter of an object built in scope `active`."""
    parts = active.split("/") if active else []
    scopes = ("/".join(parts[:length]) for length in range(len(parts), -1, -1))
    return next((s for s in scopes if parameter in _bindings.get((s, selector), {})), None)


def _name(scope: str, selector: str, parameter: str) -> str:
    if selector == _MACRO:
        return scope
    return f"{scope}/{selector}.{parameter}" if scope else f"{selector}.{parameter}"


def _selector(reference: gin_config.ConfigurableReference) -> str:
    assert reference.configurable is not None  # gin refuses a reference to nothing
    return reference.configurable.selector


def bind(binding: str) -> None:
    """Apply one NAME=VALUE to the open session, checked against what its files say.

    Args:
      binding: what follows --gin. on a command line; NAME is a macro, or [scope/]Class.field.

    Raises:
      GinError: no file mentions the name, or the value cannot be read or is of another kind.
    """
    name, equals, text = (part.strip() for part in binding.partition("="))
    if not equals or not name or not text:
        raise GinError(f"--gin.{binding} needs the form --gin.NAME=VALUE.")
    value = _parse_value(name, text)
    scope, _, selector = name.rpartition("/")
    with _one_sentence():
        if "." not in selector:
            known = macros()
            if name not in known:
                raise GinError(
                    f"--gin.{name}: no configuration file mentions a macro {name}"
                    f"{nearest(name, known)}; known: {', '.join(known) or 'none'}."
                )
            key = (name, _MACRO, "value")
        else:
            configurable, _, parameter = old_names.new_selector(selector).rpartition(".")
            key = (scope, _known_selector(configurable), parameter)
            if parameter not in _parameters(key[1]):
                hint = _parameter_hint(key[1], parameter)
                raise GinError(f"{configurable} has no parameter {parameter!r}{hint}.")
        _check_kind(name, key, value)
        gin.bind_parameter(key, value)


def _parse_value(name: str, text: str) -> Any:
    """Return the value that a text means to gin; a bare word or path is a string."""
    if text in ("true", "false", "none", "null"):
        python = {"true": "True", "false": "False"}.get(text, "None")
        raise GinError(f"--gin.{name}={text}: write {python}, as Python does.")
    try:
        delegate = gin_config.ParserDelegate(skip_unknown=False)
        statement: Any = next(config_parser.ConfigParser(f"_x = {text}", delegate))
        return statement.value
    except (SyntaxError, ValueError, StopIteration, tokenize.TokenError) as error:
        if text[0] in "@%([{'\"" or "\n" in text:
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) else "not a value"
            hint = f"strings need their own quotes, --gin.{name}=\"'text'\""
            raise GinError(f"--gin.{name}={text} cannot be read ({reason}); {hint}.") from None
        return text


def _known_selector(name: str) -> str:
    """Return the only selector of the open session that `name` is, or is the end of."""
    references = gin_config.iterate_references(_bindings)
    known = {selector for _, selector in _bindings} | {_selector(ref) for ref in references}
    known = {selector for selector in known if not selector.startswith("gin.")}
    matches = [s for s in known if s == name or s.endswith("." + name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise GinError(f"--gin.{name}: {name} may be {' or '.join(sorted(matches))}; say which.")
    short = sorted(".".join(selector.split(".")[-2:]) for selector in known)
    raise GinError(
        f"--gin.{name}: no configuration file mentions {name}{nearest(name, short)}; "
        f"known: {', '.join(short)}."
    )


def _parameters(selector: str) -> tuple[str, ...]:
    wrapped = gin_config._REGISTRY[selector].wrapped
    names = inspect.signature(wrapped).parameters
    # Flax sets the parent and the name of a Linen module.
    return tuple(n for n in names if n not in ("parent", "name") or not hasattr(wrapped, "apply"))


def _check_kind(name: str, key: tuple[str, str, str], value: Any) -> None:
    """Raise GinError for a word where the files hold a number, or the reverse."""
    old = _bindings.get(key[:2], {}).get(key[2])
    if isinstance(old, int | float) and isinstance(value, str):
        wanted = "True or False" if isinstance(old, bool) else f"a number like {old!r}"
        raise GinError(f"--gin.{name} takes {wanted}; got {value!r}.")
    if isinstance(old, str) and isinstance(value, int | float):
        raise GinError(f"--gin.{name} takes text like {old!r}; got {value!r}: put it in quotes.")


@contextlib.contextmanager
def _one_sentence(file: str = "the command line") -> Iterator[None]:
    """Turn whatever gin or a constructor raises into a GinError that keeps what a user needs."""
    try:
        yield
    except GinError:
        raise
    except Exception as error:
        raise GinError(plain(error, file, _parameter_hint)) from error


def _parameter_hint(name: str, parameter: str) -> str:
    known = _parameters(gin_config._REGISTRY.matching_selectors(name)[0])
    return f"{nearest(parameter, known)}; it has: {', '.join(known)}"
