"""Programs and shapes that were traced in an earlier run, kept beside JAX's compiled programs.

JAX keeps on disk what it has compiled. To find it again it traces and lowers the program, which for
the networks of a cascade takes longer than to read their weights: 3 of the 15 processor seconds of
the demo's clip. Here the lowered program is kept, too, as StableHLO (`jax.export`), and the shapes
of parameters. They are found again by all that they depend on:

    the function, and the settings among its arguments, field by field (`described`)
    tree, shapes and dtypes of the arrays among them
    the source of vidgen, unless it was edited since; the versions of what it computes with
    JAX's configuration, and where the program runs

Where one of these cannot be told, nothing is kept and the function is called as it is: settings of
another package, lambdas, several devices or processes, an accelerator, arguments that are being
traced. The same holds without a folder of compiled programs (JAX_COMPILATION_CACHE_DIR).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import core

from vidgen import paths

enabled = True  # False: every function is called as it is
_FOLDER = "traced"  # in the folder of compiled programs
_VERSIONED = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes", "optax")
_PACKAGES = {"builtins", "functools", "vidgen", *_VERSIONED}
_ROOT = Path(__file__).parent
_programs: dict[Path, Kept] = {}  # those of this process


@dataclasses.dataclass(frozen=True)
class Kept:
    """A program that was found, or traced and kept.

    Attributes:
      run: takes the arguments that are no settings, as a list.
      static: numbers of the arguments that are settings.
      summary: what the `summary` given to `program` made of the jaxpr when it was traced.
    """

    run: Callable[[list[Any]], Any]
    static: tuple[int, ...]
    summary: Any

    def __call__(self, *args: Any) -> Any:
        """Run it."""
        return self.run([x for i, x in enumerate(args) if i not in self.static])


def program(
    jitted: Any,
    *args: Any,
    static: tuple[int, ...] = (),
    donated: tuple[int, ...] = (),
    out_shardings: Any = None,
    summary: Callable[[Any], Any] | None = None,
) -> Callable[..., Any]:
    """Prepare a jitted function for calls with arguments such as these.

    Args:
      jitted: what `jax.jit` returned.
      *args: arguments of its first call. Those of later ones have the same tree, shapes and
        settings.
      static: numbers of the arguments that are settings, as `static_argnums` of `jax.jit` has them.
      donated: numbers of the arguments that a call consumes, as `donate_argnums` has them.
      out_shardings: those of `jax.jit`.
      summary: a function of the jaxpr whose result is kept with the program; it can be pickled.

    Returns:
      A `Kept`, a function of all its arguments; `jitted` itself where nothing can be kept.
    """
    arrays = [x for i, x in enumerate(args) if i not in static]
    settings = [x for i, x in enumerate(args) if i in static]
    # A module has it by its name as a function, or as what `jax.jit` made of it.
    path = _path(jitted, settings, arrays) or _path(_function(jitted), settings, arrays)
    if path is None:
        return jitted
    if path in _programs:
        return _programs[path]
    try:
        stored = _read(path) or _exported(path, jitted, args, static, summary)
    # An operation without a portable form, or JAX without its package for the file.
    except (ValueError, NotImplementedError, ImportError):
        return jitted
    text, structure, name, summarized = stored
    sizes = [0 if i in static else len(jax.tree.leaves(x)) for i, x in enumerate(args)]
    leaves = [n + sum(sizes[:i]) for i in donated for n in range(sizes[i])]
    options = {"donate_argnums": leaves, "out_shardings": out_shardings}
    kept = Kept(_runner(text, structure, name, options), static, summarized)
    if not donated:  # a training has its step in hand, and ends with it
        _programs[path] = kept
    return kept


def call(jitted: Any, *args: Any, static: tuple[int, ...] = ()) -> Any:
    """Call a jitted function once; see `program`."""
    return program(jitted, *args, static=static)(*args)


def shapes(function: Callable[..., Any], *settings: Any) -> Any:
    """Evaluate the shapes of a function of settings, by `jax.eval_shape` or from an earlier run.

    Args:
      function: returns a PyTree of arrays; it is a function of a module, without a closure.
      *settings: its arguments, ShapeDtypeStructs among them.

    Returns:
      The PyTree of ShapeDtypeStructs.
    """
    path = _path(function, settings, [])
    if path is not None and (stored := _read(path)) is not None:
        tree, leaves = stored
        return tree.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    result = jax.eval_shape(functools.partial(function, *settings))
    leaves, tree = jax.tree.flatten(result)
    if path is not None:
        _write(path, (tree, [(leaf.shape, leaf.dtype) for leaf in leaves]))
    return result


def described(value: Any, arrays: frozenset[int] = frozenset()) -> str:
    """Write out settings, so that different ones differ.

    Args:
      value: numbers, texts, and classes, functions and dataclasses of vidgen, JAX and NumPy, in
        tuples, lists and dicts.
      arrays: `id` of arrays whose values do not count.

    Returns:
      A text that is the same in another process.

    Raises:
      ValueError: it holds anything else; an object whose fields are not known, for example.
    """
    if id(value) in arrays:
        is_weak = getattr(value, "weak_type", False)
        return f"{type(value).__name__} {value.shape} {value.dtype} {is_weak}"
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | complex | str | bytes):
        return f"{_name(type(value))} {value!r}"
    if isinstance(value, enum.Enum | np.dtype | np.generic | jax.ShapeDtypeStruct):
        return f"{_name(type(value))} {value!r}"
    if isinstance(value, functools.partial):  # jax.tree_util.Partial is one
        parts = (value.func, value.args, value.keywords)
        return f"{_name(type(value))}{described(parts, arrays)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{_name(type(value))}{described(parts, arrays)}"
    if isinstance(value, Mapping):
        parts = ", ".join(f"{key!r}: {described(x, arrays)}" for key, x in value.items())
        return f"{_name(type(value))}{{{parts}}}"
    if isinstance(value, tuple | list):
        parts = ", ".join(described(x, arrays) for x in value)
        return f"{_name(type(value))}({parts})"
    return _name(value)


def _name(value: Any) -> str:
    """Return the full name of a class or function that its module has by this name."""
    module, name = (getattr(value, part, None) for part in ("__module__", "__qualname__"))
    found: Any = sys.modules.get(str(module))
    for part in str(name).split("."):
        found = getattr(found, part, None)
    if found is not value or str(module).partition(".")[0] not in _PACKAGES:
        raise ValueError(f"{value!r:.100} has no description.")
    return f"{module}.{name}"


def _function(jitted: Any) -> Any:
    return getattr(jitted, "__wrapped__", jitted)


def _path(function: Any, settings: Any, arrays: Any) -> Path | None:
    """Return the file of a program, or None where it cannot be kept."""
    config: Any = jax.config
    folder, leaves = config.jax_compilation_cache_dir, jax.tree.leaves(arrays)
    is_on = enabled and config.jax_enable_compilation_cache and folder and "://" not in folder
    is_alone = is_on and jax.default_backend() == "cpu" and jax.process_count() == 1
    mesh = jax.sharding.get_abstract_mesh()
    is_alone = is_alone and (mesh.empty or mesh.size == 1)
    if not is_alone or not all(map(_is_on_this_cpu, leaves)) or not _is_as_it_was():
        return None
    try:
        what = described((function, settings))
        what += described(arrays, frozenset(map(id, leaves)))
    except ValueError:
        return None
    what += f"{[getattr(config, name, None) for name in sorted(config.values)]}"
    what += f"{mesh} {os.environ.get('XLA_FLAGS')}"
    return Path(folder, _FOLDER, _source(), hashlib.sha256(what.encode()).hexdigest())


def _is_on_this_cpu(leaf: Any) -> bool:
    if isinstance(leaf, core.Tracer) or not hasattr(leaf, "dtype"):
        return False
    return not isinstance(leaf, jax.Array) or leaf.sharding.device_set == {jax.local_devices()[0]}


# The files of vidgen as they were when this process began; none in a zip archive.
_SOURCES = {path: paths.stat(path) for path in sorted(_ROOT.rglob("*.py"))}


def _is_as_it_was() -> bool:
    """Whether the source is there and was not edited since."""
    try:
        return bool(_SOURCES) and all(paths.stat(path) == stat for path, stat in _SOURCES.items())
    except OSError:
        return False


@functools.cache
def _source() -> str:
    """Return a hash of the source of vidgen, and of what else programs are made by."""
    digest = hashlib.sha256()
    for package in _VERSIONED:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    for path in _SOURCES:
        digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _exported(
    path: Path,
    jitted: Any,
    args: tuple,
    static: tuple[int, ...],
    summary: Callable[[Any], Any] | None,
) -> tuple[bytes, Any, str, Any]:
    """Trace, lower and keep a program: its text, the tree of its result, its name, its summary."""
    leaves, tree = jax.tree.flatten([x for i, x in enumerate(args) if i not in static])
    function, result = _function(jitted), []

    def of_leaves(*leaves: Any) -> Any:
        left = iter(tree.unflatten(leaves))
        whole = [x if i in static else next(left) for i, x in enumerate(args)]
        values, structure = jax.tree.flatten(function(*whole))
        result.append(structure)
        return values

    of_leaves.__name__ = getattr(function, "func", function).__name__  # of a functools.partial
    alone = jax.jit(of_leaves)
    exported = bytes(jax.export.export(alone)(*leaves).serialize())
    # It was traced just now, and is not traced again.
    summarized = None if summary is None else summary(alone.trace(*leaves).jaxpr)
    stored = exported, result[-1], of_leaves.__name__, summarized
    _write(path, stored)
    return stored


def _runner(
    program: bytes, structure: Any, name: str, options: dict[str, Any]
) -> Callable[[list[Any]], Any]:
    """Return a function of a list of arguments, compiled with these options of `jax.jit`."""
    exported = jax.export.deserialize(bytearray(program))

    def call(*leaves: Any) -> Any:
        return structure.unflatten(exported.call(*leaves))

    call.__name__ = name  # a profile shows it
    jitted = jax.jit(call, **options)
    return lambda arrays: jitted(*jax.tree.leaves(arrays))


def _read(path: Path) -> Any:
    """Return what a file holds; None where there is none, or none that can be read."""
    try:
        return pickle.loads(path.read_bytes())
    except Exception:  # damage has no error of its own
        return None


def _write(path: Path, content: Any) -> None:
    """Write a file whole or not at all, and remove those of another source."""
    with contextlib.suppress(OSError):  # a full disk, or a folder that may not be written
        if not path.parent.exists():
            shutil.rmtree(path.parent.parent, ignore_errors=True)
        paths.write(path, pickle.dumps(content))
