"""The only module that imports gin: what files say, how a run is built, what it used.

    with session(files, bindings):      # parses; forgets everything on leaving
        run = build(Train)              # gin supplies the fields, nested objects included
        text = operative_config()       # what was really used, as a .gin file

Gin alone accepts three mistakes in silence or answers them obscurely; here each is a `GinError`
of one sentence: a macro that no file mentions, a required macro that is reached but not set, and
a value of another kind than the one it replaces. Bindings that a run never used are listed by
`unused_bindings` (a binding on an object that Python code builds would have no effect).
"""

from __future__ import annotations

import contextlib
import inspect
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from unittest import mock

import gin
from gin import config as gin_config
from gin.selector_map import SelectorMap

from vidgen.config import gin_files
from vidgen.config.gin_files import GinError, config_roots, nearest, plain

T = TypeVar("T")
_MACRO = "gin.macro"
_REQUIRED = "%gin.REQUIRED"
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


@contextlib.contextmanager
def session(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    renamed: Mapping[str, Mapping[str, str]] | None = None,
    excerpts: Sequence[str] = (),
) -> Iterator[None]:
    """Gin holds exactly these files and then these `NAME=VALUE` bindings inside the block.

    Args:
      files: read in this order.
      bindings: applied last.
      renamed: for a file, new names of macros that it sets; a later file may bind the old name.
      excerpts: text of saved configurations (`gin_files.excerpt`), read after the files.

    Raises:
      GinError: a file or a binding is wrong.
    """
    gin.clear_config()
    # Only plain files: gin's other reader looks into packages, and logs an error when it fails.
    readers, prefixes = [gin_files.READER], ["", *map(str, config_roots())]
    try:
        with (
            mock.patch.object(gin_config, "_FILE_READERS", readers),
            mock.patch.object(gin_config, "_LOCATION_PREFIXES", prefixes),
            _own_names(),
        ):
            for name in files:
                path = str(gin_files.find_file(name))
                with _one_sentence(path):
                    gin.parse_config_file(path)
                for old, new in (renamed or {}).get(name, {}).items():
                    _rename_macro(path, old, new)
            for text in excerpts:
                gin.parse_config(text)
            for binding in bindings:
                bind(binding)
            yield
    finally:
        gin.clear_config()


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """What files register by importing it is forgotten after the block.

    Gin would keep the name that the first file of a process gave a module, and refuse the name
    that a later session's files give it.
    """
    names = SelectorMap()
    for selector, configurable in gin_config._REGISTRY.items():
        names[selector] = configurable
    with (
        mock.patch.object(gin_config, "_REGISTRY", names),
        mock.patch.object(gin_config, "_INVERSE_REGISTRY", dict(gin_config._INVERSE_REGISTRY)),
    ):
        yield


def build(cls: Callable[..., T], **given: Any) -> T:
    """`cls` with its fields from gin; `given` fields win over gin's.

    Raises:
      GinError: a macro is missing, a field has no value, or an object refuses its settings.
    """
    configurable = gin_config._inverse_lookup(cls)
    if configurable is None:
        name = getattr(cls, "__name__", str(cls))
        raise GinError(f"no configuration file binds anything of {name}; add its runs/*.gin file.")
    _check_required(configurable.selector, set(given))
    for (_, selector), values in gin_config._CONFIG.items():
        values.update({name: gin_files.at_home(value) for name, value in values.items()})
        if selector == configurable.selector:
            for name in given.keys() & values.keys():
                del values[name]  # gin would build it all the same, perhaps of what is not set
    with _one_sentence():
        return gin.get_configurable(cls)(**given)


def named_by(macro: str) -> Callable[..., Any]:
    """The class that a macro names, as in RUN = @train.Train(); it counts as used.

    Raises:
      GinError: it is not set, or to something else.
    """
    value = gin_config._CONFIG.get((macro, _MACRO), {}).get("value")
    is_reference = isinstance(value, gin_config.ConfigurableReference)
    if not is_reference or _selector(value).startswith("gin."):  # a macro or a constant
        raise GinError(f"{macro} is {value!r}; it must name a class, like @train.Train().")
    gin_config._OPERATIVE_CONFIG[macro, _MACRO] = {"value": value}
    return gin_config._REGISTRY[_selector(value)].wrapped


def operative_config() -> str:
    """All values that built objects really used, defaults included, as the text of a .gin file.

    Gin notes an object reached through a macro under the macro's name as scope. Those scopes are
    dropped where nothing is lost, so that an unscoped binding can still override the saved file.
    """
    used = gin_config._OPERATIVE_CONFIG
    bound = {scope for scope, selector in gin_config._CONFIG if selector != _MACRO}
    aliases = set(macros()) - bound
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for (scope, selector), values in used.items():
        if scope in aliases and selector != _MACRO:
            same = [v for (s, sel), v in used.items() if sel == selector and s in {"", *aliases}]
            scope = "" if all(repr(v) == repr(values) for v in same) else scope
        merged[scope, selector] = values
    return gin_config._config_str(merged, max_line_length=100).rstrip("\n") + "\n"


def macros() -> tuple[str, ...]:
    """Names of the macros that the parsed files set or read."""
    bound = {scope for scope, selector in gin_config._CONFIG if selector == _MACRO}
    read = {"/".join(ref.scopes) for ref in _references(gin_config._CONFIG) if _is_macro(ref)}
    return tuple(sorted(bound | read))


def unused_bindings() -> tuple[str, ...]:
    """The `scope/selector.parameter` bindings that no object built so far has read.

    That is so where nothing of that class was built in that scope, and where a binding of the same
    parameter in a narrower scope won every time.
    """
    unused = []
    for (scope, selector), values in gin_config._CONFIG.items():
        built = [s for s, other in gin_config._OPERATIVE_CONFIG if other == selector]
        for parameter in values:
            if not any(_winner(active, selector, parameter) == scope for active in built):
                unused.append(_binding_name(scope, selector, parameter))
    return tuple(sorted(unused))


def _winner(active: str, selector: str, parameter: str) -> str | None:
    """The narrowest scope that binds a parameter of an object built in the scope `active`."""
    parts = active.split("/") if active else []
    for length in range(len(parts), -1, -1):
        scope = "/".join(parts[:length])
        if parameter in gin_config._CONFIG.get((scope, selector), {}):
            return scope
    return None


def _binding_name(scope: str, selector: str, parameter: str) -> str:
    if selector == _MACRO:
        return scope
    return f"{scope}/{selector}.{parameter}" if scope else f"{selector}.{parameter}"


def _rename_macro(path: str, old: str, new: str) -> None:
    if (new, _MACRO) in gin_config._CONFIG:
        raise GinError(f"{path} has a {new} already; its {old} cannot become another {new}.")
    if (old, _MACRO) not in gin_config._CONFIG:
        raise GinError(f"{path} sets no {old}.")
    gin_config._CONFIG[new, _MACRO] = gin_config._CONFIG.pop((old, _MACRO))


def bind(binding: str) -> None:
    """Apply one NAME=VALUE to the open session, checked against what its files say."""
    name, equals, text = (part.strip() for part in binding.partition("="))
    if not equals or not name or not text:
        raise GinError(f"--gin.{binding} needs the form --gin.NAME=VALUE.")
    value = _parse_value(name, text)
    selector = name.split("/")[-1]
    with _one_sentence():
        if "." not in selector:
            _check_macro(name)
            key = (name, _MACRO, "value")
        else:
            scope, slash, _ = name.rpartition("/")
            configurable, _, parameter = selector.rpartition(".")
            key = (scope if slash else "", _known_selector(configurable), parameter)
            _check_parameter(*key[1:])
        _check_kind(name, key, value)
        gin.bind_parameter(key, value)


def _parse_value(name: str, text: str) -> Any:
    """A gin value; a bare word or path that is none counts as a string."""
    if text in ("true", "false", "none", "null"):
        python = {"true": "True", "false": "False"}.get(text, "None")
        raise GinError(f"--gin.{name}={text}: write {python}, as Python does.")
    try:
        delegate = gin_config.ParserDelegate(skip_unknown=False)
        statement: Any = next(gin_config.config_parser.ConfigParser(f"_x = {text}", delegate))
        return statement.value
    except (SyntaxError, ValueError, StopIteration, tokenize.TokenError) as error:
        if text[0] in "@%([{'\"" or "\n" in text:
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) else "not a value"
            hint = f"strings need their own quotes, --gin.{name}=\"'text'\""
            raise GinError(f"--gin.{name}={text} cannot be read ({reason}); {hint}.") from None
        return text


def _check_macro(name: str) -> None:
    known = macros()
    if name not in known:
        raise GinError(
            f"--gin.{name}: no configuration file mentions a macro {name}"
            f"{nearest(name, known)}; known: {', '.join(known) or 'none'}."
        )


def _known_selector(name: str) -> str:
    known = {selector for _, selector in gin_config._CONFIG}
    known |= {_selector(ref) for ref in _references(gin_config._CONFIG)}
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


def _check_parameter(selector: str, parameter: str) -> None:
    known = _parameters(selector)
    if parameter not in known:
        short = selector.rpartition(".")[2]
        raise GinError(
            f"{short} has no parameter {parameter!r}{nearest(parameter, known)}; "
            f"it has: {', '.join(known)}."
        )


def _parameters(selector: str) -> tuple[str, ...]:
    wrapped = gin_config._REGISTRY[selector].wrapped
    names = inspect.signature(wrapped).parameters
    # A Linen module's parent and name are Flax's business.
    return tuple(n for n in names if n not in ("parent", "name") or not hasattr(wrapped, "apply"))


def _check_kind(name: str, key: tuple[str, str, str], value: Any) -> None:
    """A word where the files hold a number (or the reverse) is a slip worth stopping for."""
    old = gin_config._CONFIG.get(key[:2], {}).get(key[2])
    if isinstance(old, int | float) and isinstance(value, str):
        wanted = "True or False" if isinstance(old, bool) else f"a number like {old!r}"
        raise GinError(f"--gin.{name} takes {wanted}; got {value!r}.")
    if isinstance(old, str) and isinstance(value, int | float):
        raise GinError(f"--gin.{name} takes text like {old!r}; got {value!r}: put it in quotes.")


def _references(tree: Any) -> Iterator[gin_config.ConfigurableReference]:
    for value in gin_config._iterate_flattened_values(tree):
        if isinstance(value, gin_config.ConfigurableReference):
            yield value


def _is_macro(reference: gin_config.ConfigurableReference) -> bool:
    return _selector(reference) == _MACRO


def _selector(reference: gin_config.ConfigurableReference) -> str:
    assert reference.configurable is not None  # gin refuses a reference to nothing
    return reference.configurable.selector


def _check_required(root: str, given: set[str]) -> None:
    """Every macro reached from the configurable `root`, but for its `given` fields, has a value."""
    seen: set[str] = set()
    todo = [("", root)]
    while todo:
        scope, selector = todo.pop()
        key = f"{scope}/{selector}"
        if key in seen:
            continue
        seen.add(key)
        for (bound_scope, bound), values in gin_config._CONFIG.items():
            if bound != selector or (selector == _MACRO and bound_scope != scope):
                continue
            for parameter, value in values.items():
                if selector == root and parameter in given:
                    continue
                name = _binding_name(bound_scope, bound, parameter)
                todo.extend(_reached(name, value))


def _reached(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """(scope, selector) of all that a bound value refers to."""
    for reference in _references([value]):
        if repr(reference) == _REQUIRED:
            if name.endswith("_DIR"):
                raise GinError(f"{name} is not set: pass --gin.{name}=\"'runs/x'\".")
            raise GinError(
                f"{name} is not set: pass --gin.{name}=VALUE, or a --gin_file that sets it."
            )
        macro = "/".join(reference.scopes)
        if _is_macro(reference) and (macro, _MACRO) not in gin_config._CONFIG:
            raise GinError(f"{name} reads %{macro}, which no configuration file sets.")
        yield (macro if _is_macro(reference) else ""), _selector(reference)


@contextlib.contextmanager
def _one_sentence(file: str = "the command line") -> Iterator[None]:
    """Whatever gin or a constructor raises becomes a GinError that keeps what a user needs."""
    try:
        yield
    except GinError:
        raise
    except tokenize.TokenError as error:
        raise GinError(f"{file} ends inside a bracket or a string.") from error
    except SyntaxError as error:
        raise GinError(gin_files.syntax_sentence(error)) from error
    except Exception as error:
        raise GinError(plain(str(error), error, _parameter_hint)) from error


def _parameter_hint(name: str, parameter: str) -> str:
    known = _parameters(gin_config._REGISTRY.matching_selectors(name)[0])
    return f"{nearest(parameter, known)}; it has: {', '.join(known)}"
