"""How the processes of the tests compile, and the compiled programs that one of them keeps."""

import ctypes
import functools
import gc
import os
import pathlib
import platform
import resource
import sys
import threading
from unittest import mock

import places

# Options of XLA's compiler for CPUs, of jaxlib 0.10. The newer emitter of fused loops goes through
# MLIR, and code in parts is for several threads: without both, a small U-Net compiles in a third of
# the time (gradient 8.1 -> 2.7, forward 2.0 -> 0.8 processor seconds), of the same fusions. The
# others are those that `vidgen` sets itself (vidgen/cli/xla_flags.py): with them a program has the
# same key in the cache whether a command ran in its process before or not.
XLA_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options="
    "xla_cpu_disable_slp_vectorizer,xla_cpu_disable_loop_unrolling,xla_cpu_disable_tiled_emitter"
)

# Of `jax.jit`, for a program that runs for seconds: half the time of a step of a small U-Net (15 ms
# instead of 32) for a second more of compiling. conftest.py says 0 for all others.
RUNS_LONG = {"xla_backend_optimization_level": 1}

# Bytes of a process from which on it forgets them: all files compile the same hundreds of tiny
# programs, and many the same networks, but to keep all of every file is gigabytes. At most a sixth
# of the machine's: there are up to four workers, and what they start needs some.
LARGE = min(2**32, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 6)


def xla_flags(devices):
    """For a process that shall have so many simulated devices."""
    return f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}"


def environment_with_libtpu():
    """Of a process that loads libtpu, which ends it when it reads an option for CPUs.

    What the compiler says in it is kept: see tpu_programs.py. It has no options of libtpu, which a
    command that ran in this process may have set.
    """
    flags = os.environ["XLA_FLAGS"].replace(XLA_FLAGS, "").strip()
    options = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
    others = {name: value for name, value in os.environ.items() if name not in options}
    path = os.pathsep.join([str(places.HELPERS / "for_tpu"), places.PYTHONPATH])
    return others | {"PYTHONPATH": path} | ({"XLA_FLAGS": flags} if flags else {})


# Programs that are lowered in one context of MLIR; what a context has seen is kept until it goes.
IN_ONE_CONTEXT = 200


def share_contexts():
    """Lowers programs in one context of MLIR after the other, instead of in one each.

    JAX makes a context for every program, loads all dialects into it, and takes it down again. For
    a program of one operation, of which the tests have tens of thousands, that was two thirds of
    what is not compiling: with it lowering took 3.7 ms and reading from the cache 2.1, without it
    0.5 and 1.2.
    """
    from jax._src.interpreters import mlir

    own, make = threading.local(), mlir.ModuleContext.__init__

    def shared():
        own.left = getattr(own, "left", 0) - 1
        if own.left < 0:
            own.context, own.left = mlir.make_ir_context(), IN_ONE_CONTEXT - 1
        return own.context

    @functools.wraps(make)
    def init(self, *, context=None, **settings):
        make(self, context=context or shared(), **settings)

    mlir.ModuleContext.__init__ = init


def keep_those_of_all_processes():
    """Writes to the cache what any of several processes that train together has compiled.

    JAX leaves it to the first, as others would write the same. On CPUs programs of another process
    have other keys: it compiled each anew in every run, which was half of its processor seconds.
    """
    from jax._src import compiler, distributed

    write = compiler._cache_write

    @functools.wraps(write)
    def as_first(*arguments):
        with mock.patch.object(distributed.global_state, "process_id", 0):
            write(*arguments)

    compiler._cache_write = as_first


def forget_if_large():
    """Where this process has become large; what is left is not looked through for garbage again."""
    large = "jax" in sys.modules and _resident_bytes() > LARGE
    if large:
        gc.unfreeze()
        sys.modules["jax"].clear_caches()
    gc.collect()
    gc.freeze()
    if large and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # or it would be as large after every file from now on


def _resident_bytes():
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():  # not Linux: the most that there ever were
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(statm.read_text().split()[1]) * resource.getpagesize()
