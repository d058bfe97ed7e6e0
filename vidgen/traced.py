"""Programs and shapes that were traced in an earlier run, kept beside JAX's compiled programs.

JAX keeps on disk what it has compiled. To find it again it traces and lowers the program, which for
the networks of a cascade takes longer than to read their weights: 3 of the 15 processor seconds of
the demo's clip. Here the lowered program is kept, too, as StableHLO (`jax.export`), and the shapes
of parameters. They are found again by all that they depend on:

    the function, and the settings among its arguments, field by field (`described`)
    tree, shapes and dtypes of the arrays among them
    the source of vidgen, unless it was edited since; the versions of JAX, Flax and NumPy
    JAX's configuration, and where the program runs

Where one of these cannot be told, nothing is kept and the function is called as it is: settings of
another package, lambdas, a mesh, several devices or processes, an accelerator, arguments that are
being traced. The same holds without a folder of compiled programs (JAX_COMPILATION_CACHE_DIR).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jax import core

from vidgen import paths

enabled = True  # False: every function is called as it is
_FOLDER = "traced"  # in the folder of compiled programs
_PACKAGES = {"builtins", "vidgen", "jax", "jaxlib", "flax", "numpy", "ml_dtypes", "functools"}
_ROOT = Path(__file__).parent
_programs: dict[Path, Callable[..., Any]] = {}  # those of this process


def program(jitted: Any, *args: Any, static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Prepare a jitted function for calls with arguments such as these.

    Args:
      jitted: what `jax.jit` returned.
      *args: arguments of its first call. Those of later ones have the same tree, shapes and
        settings.
      static: numbers of the arguments that are settings, as `static_argnums` of `jax.jit` has them.

    Returns:
      A function of all its arguments; `jitted` itself where nothing can be kept.
    """
    arrays = [x for i, x in enumerate(args) if i not in static]
    settings = [x for i, x in enumerate(args) if i in static]
    # A module has it by its name as a function, or as what `jax.jit` made of it.
    path = _path(jitted, settings, arrays) or _path(_function(jitted), settings, arrays)
    if path is None:
        return jitted
    if path not in _programs:
        stored = _read(path)
        try:
            _programs[path] = _runner(*stored) if stored else _exported(path, jitted, args, static)
        # An operation without a portable form, or JAX without its package for the file.
        except (ValueError, NotImplementedError, ImportError):
            return jitted
    run = _programs[path]
    return lambda *args: run([x for i, x in enumerate(args) if i not in static])


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
    is_alone = is_alone and jax.sharding.get_abstract_mesh().empty
    if not is_alone or not all(map(_is_on_this_cpu, leaves)) or not _is_as_it_was():
        return None
    try:
        what = described((function, settings))
        what += described(arrays, frozenset(map(id, leaves)))
    except ValueError:
        return None
    what += f"{[getattr(config, name, None) for name in sorted(config.values)]}"
    what += f"{os.environ.get('XLA_FLAGS')}"
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
    for module in (jax, jax.lib, flax, np):
        digest.update(f"{module.__name__} {module.__version__}".encode())
    for path in _SOURCES:
        digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _exported(path: Path, jitted: Any, args: tuple, static: tuple[int, ...]) -> Callable[..., Any]:
    """Trace, lower and keep a program."""
    leaves, tree = jax.tree.flatten([x for i, x in enumerate(args) if i not in static])
    result = []

    def of_leaves(*leaves: Any) -> Any:
        left = iter(tree.unflatten(leaves))
        whole = [x if i in static else next(left) for i, x in enumerate(args)]
        values, structure = jax.tree.flatten(_function(jitted)(*whole))
        result.append(structure)
        return values

    of_leaves.__name__ = _function(jitted).__name__
    exported = bytes(jax.export.export(jax.jit(of_leaves))(*leaves).serialize())
    _write(path, (exported, result[-1], of_leaves.__name__))
    return _runner(exported, result[-1], of_leaves.__name__)


def _runner(program: bytes, structure: Any, name: str) -> Callable[..., Any]:
    exported = jax.export.deserialize(bytearray(program))

    def call(*leaves: Any) -> Any:
        return exported.call(*leaves)

    call.__name__ = name  # a profile shows it
    jitted = jax.jit(call)
    return lambda arrays: structure.unflatten(jitted(*jax.tree.leaves(arrays)))


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
