"""What the compiler for TPUs says of a program is kept beside the programs that JAX keeps.

JAX gives a program for a TPU back from its cache without sizes, so the package compiles each anew
(vidgen/plan/programs.py), which takes five seconds of each. What is kept here is all that the
package asks of one: its text and its sizes, for the same program, options, devices and libtpu.
"""

import functools
import hashlib
import importlib.metadata
import os
import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax

_OPTIONS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")


def kept(compile):
    """`programs._compile` that compiles what was not compiled before."""

    @functools.wraps(compile)
    def compiled(lowered, platform):
        if platform != "tpu":
            return compile(lowered, platform)
        path = _folder() / f"tpu-{_key(lowered)}"
        if not path.exists():
            program, text = compile(lowered, platform)
            _write(path, (_sizes(program), text))
        sizes, text = pickle.loads(path.read_bytes())
        return SimpleNamespace(memory_analysis=lambda: SimpleNamespace(**sizes)), text

    return compiled


def _folder():
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(lowered):
    lowering = lowered._lowering
    devices = [
        [getattr(device, name, None) for name in ("device_kind", "id", "coords", "slice_index")]
        for device in lowering._device_list
    ]
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")]
    options = [os.environ.get(name) for name in _OPTIONS]
    options += [jax.config.jax_optimization_level, lowering._compiler_options_kvs]
    asked = repr([lowered.as_text(), devices, versions, options])
    return hashlib.sha256(asked.encode()).hexdigest()


def _sizes(program):
    stats = program.memory_analysis()
    return {name: getattr(stats, name) for name in dir(stats) if name.endswith("_in_bytes")}


def _write(path, value):
    """Whole or not at all: another process may read it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(pickle.dumps(value))
    os.replace(file.name, path)
