"""N processes of `vidgen train` that work together, as a launcher starts, kills and restarts them.

They are forked from a process that has imported everything and started nothing, which saves their
imports; from there on each is a process like any other, and runs the command itself:

    Group.start()    N processes, their logs in files
    strike           SIGKILL, SIGTERM or SIGSTOP to one or all of them
    Group.ended()    waits as launch/local_multiprocess.sh does: when one failed, the rest is killed
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PDEATHSIG = 1  # of prctl(2), Linux
PREEMPTED = 75  # as `vidgen train` ends after SIGTERM, once it has saved


def setup(cache: Path) -> None:
    """Prepare this process to be forked: import what a training imports, start no thread."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import faults_network
    import jax
    import orbax.checkpoint
    import tensorboardX

    import vidgen.cli.main
    from vidgen.config import gin_utils
    from vidgen.data.sources import tar_shards
    from vidgen.train import train

    del faults_network, orbax, tensorboardX, vidgen, gin_utils, tar_shards, train
    config: Any = jax.config  # it may have been imported before
    config.update("jax_compilation_cache_dir", str(cache))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Group:
    """The processes of one start of a run."""

    def __init__(self, flags: Sequence[str], logs: Path, count: int = 4) -> None:
        """Start `vidgen train` with these flags in `count` processes."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{index}.log" for index in range(count)]
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self.statuses: list[int | None] = [None] * count
        self.pids = [
            _forked(["train", *flags], self.logs[index], port, index, count)
            for index in range(count)
        ]

    def send(self, number: int, *indices: int) -> None:
        """Send a signal to some of the processes, if they still run."""
        for index in indices:
            if self.statuses[index] is None:
                os.kill(self.pids[index], number)

    def poll(self) -> bool:
        """Look at who has ended; return whether all have."""
        for index, pid in enumerate(self.pids):
            if self.statuses[index] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.statuses[index] = os.waitstatus_to_exitcode(status)
        return None not in self.statuses

    def failed(self) -> bool:
        """Whether a process ended otherwise than done or preempted."""
        return any(status not in (None, 0, PREEMPTED) for status in self.statuses)

    def ended(self, patience: float, timeout: float = 600.0) -> int:
        """Wait for all to end; return how many ended by themselves after the first that failed.

        Args:
          patience: seconds after a failure until the others are killed, as a launcher does.
          timeout: seconds after which all are killed in any case.
        """
        begin = time.monotonic()
        before = sum(status is not None for status in self.statuses)
        first: float | None = None
        while not self.poll():
            now = time.monotonic()
            if self.failed() and first is None:
                first, before = now, sum(status is not None for status in self.statuses)
            if now - begin > timeout or (first is not None and now - first > patience):
                break
            time.sleep(0.01)
        alone = sum(status is not None for status in self.statuses) - before
        self.kill()
        return alone

    def kill(self) -> None:
        """End all processes that still run."""
        while not self.poll():
            self.send(signal.SIGCONT, *range(len(self.pids)))
            self.send(signal.SIGKILL, *range(len(self.pids)))
            time.sleep(0.01)


def _forked(argv: list[str], log: Path, port: int, index: int, count: int) -> int:
    """Start one process, and return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status: Any = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the parent alone
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)  # and none outlives it
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.environ |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_ID": f"{index}"}
        os.environ["JAX_NUM_PROCESSES"] = f"{count}"
        os.environ.pop("XLA_FLAGS", None)  # one device each
        from vidgen.cli.main import main

        status = main(argv)
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
