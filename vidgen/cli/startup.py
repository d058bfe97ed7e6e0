"""How a process begins: its log, the cache of compiled programs, and the group it is one of."""

from __future__ import annotations

import atexit
import gc
import importlib.metadata
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

from vidgen import allocator, paths
from vidgen.cli import xla_flags

# Objects made and kept between two searches for garbage. Tracing a network makes a million that
# stay, and looking through them after each 700, as Python does, is a tenth of the time to the first
# step of a tiny model (.76 of 7.0 processor seconds; with these .23 of 6.4, and 60 MB more).
_OBJECTS = 20_000

# Seconds of compiling from which on a program is kept on disk. JAX keeps those of a second; the
# fifty small ones of `generate`, which draw noise, resize and the like, take 10 ms each to compile
# and 1 to read.
_SHORTEST = "0"

_GOOGLE = "0x1ae0"  # the vendor of TPUs on the PCI bus, and of other devices of its cloud


def setup_process(debug: bool = False) -> None:
    """Set up compiler, logging, platform and cache of programs, before JAX is imported or after.

    Args:
      debug: show the log messages of libraries, too.
    """
    xla_flags.set_defaults()
    search_for_garbage_less_often()
    allocator.keep_freed_memory()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vidgen: %(message)s"))
    logger = logging.getLogger("vidgen")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    from absl import logging as absl_logging

    # Orbax speaks through absl: it warns of what is as it should be, and prints the stack of every
    # error that it then raises, which becomes our own sentence.
    absl_logging.set_verbosity(absl_logging.DEBUG if debug else absl_logging.FATAL)
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", paths.cache_folder("xla"))
    shortest = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _SHORTEST)
    if "JAX_PLATFORMS" not in os.environ and only_cpus():
        os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # it has read the environment already, in a notebook
        import jax

        config: Any = jax.config
        config.update("jax_compilation_cache_dir", folder)
        config.update("jax_persistent_cache_min_compile_time_secs", float(shortest))
        if config.jax_platforms is None:
            config.update("jax_platforms", os.environ.get("JAX_PLATFORMS"))


def search_for_garbage_less_often() -> None:
    """Let Python look for garbage less often, unless the process has set it lower or off.

    At its end the process does not look at all: the system takes back everything at once.
    """
    first, *others = gc.get_threshold()
    if first:
        gc.set_threshold(max(first, _OBJECTS), *others)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # .2 s of `vidgen generate`


def only_cpus(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether libtpu is installed where there is no TPU, for `vidgen plan` or the tests.

    JAX would start it before it takes the CPU, and libtpu asks the network of a cloud which machine
    it is on, and complains at length.

    Args:
      devices: the folder in which the system lists what is on the PCI bus.

    Returns:
      False where JAX may choose by itself: without libtpu, with a plug-in for GPUs, beside a device
      of Google's, or where no device is listed.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")  # of GPUs
    if plugins or importlib.util.find_spec("jax_plugins") or not importlib.util.find_spec("libtpu"):
        return False
    vendors = [path.read_text().strip() for path in devices.glob("*/vendor")]
    return bool(vendors) and _GOOGLE not in vendors


def initialize_distributed() -> None:
    """Join the group of processes that the environment describes.

    On Cloud TPU, Slurm and Kubernetes jax looks up the numbers itself; elsewhere they are in
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    import jax

    numbers = {
        "num_processes": os.environ.get("JAX_NUM_PROCESSES"),
        "process_id": os.environ.get("JAX_PROCESS_ID"),
    }
    known: dict[str, Any] = {name: int(value) for name, value in numbers.items() if value}
    jax.distributed.initialize(**known)  # which reads the address itself
