"""Times one job in a process of its own, a call at a time, as the process that started it asks.

    job:     {"parameters": ..., "first_seconds": ..., ...}     one line, when it is made and warm
    parent:  call          job:  {"cpu_seconds": ..., ...}      as often as is wanted
    parent:  flops         job:  {"flops": ...}                 last, as counting takes memory

Two such processes are timed in turn by `alternate`: the one that waits for its line takes no
processor, so other work on the machine slows both alike. Neither JAX nor PyTorch is imported here:
the process of the PyTorch packages has no JAX.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20


class Job(NamedTuple):
    """What is timed: one call is one training step, or one batch of samples."""

    parameters: int
    call: Callable[[], Any]  # returns when its result is there
    flops: Callable[[], int]  # of one call


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most they have been."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Gives free memory back to the system and starts the peak anew from what is left."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Wall-clock and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def serve(make: Callable[[], Job]) -> None:
    """Makes the job, says what that took, and answers until no line comes any more.

    It must be the first that this process does: what it has imported before is told apart.
    """
    imports = resident()
    began = time.process_time()
    job = make()
    made = time.process_time() - began
    first, first_peak = timed(job.call), peak()
    job.call()
    forget_peak()
    _say(
        {
            "parameters": job.parameters,
            "init_seconds": made,
            "first_seconds": first["cpu_seconds"],
            "first_peak_bytes": first_peak,
            "imports_bytes": imports,
        }
    )
    for line in sys.stdin:
        if line.strip() == "call":
            _say(timed(job.call) | {"peak_bytes": peak()})
        else:
            _say({"flops": job.flops()})


def first_call(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What the job of a command says of itself, which is ended then.

    Raises:
      RuntimeError: it failed; with its last words.
    """
    job = _Process(command, environment)
    try:
        return job.answer()
    finally:
        job.stop()


def alternate(
    commands: dict[str, list[str]], environment: dict[str, str], repeats: int
) -> dict[str, dict[str, Any]]:
    """What the jobs of these commands say of themselves, and their calls, timed in turn.

    Raises:
      RuntimeError: one of them failed; with its last words.
    """
    jobs: dict[str, _Process] = {}
    try:
        for name, command in commands.items():  # one after the other, as making takes a processor
            jobs[name] = _Process(command, environment)
            jobs[name].answers.append(jobs[name].answer())
        for _ in range(repeats):
            for job in jobs.values():
                job.ask("call")
        for job in jobs.values():
            job.ask("flops")
    finally:
        for job in jobs.values():
            job.stop()
    return {
        name: job.answers[0] | {"calls": job.answers[1:-1]} | job.answers[-1]
        for name, job in jobs.items()
    }


class _Process:
    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+")
        pipe = subprocess.PIPE
        self._process: Any = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors, text=True
        )
        self.answers: list[dict[str, Any]] = []

    def ask(self, question: str) -> None:
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        self.answers.append(self.answer())

    def answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # packages print what they like
                return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"exit code {code}: {words[-1]}")

    def stop(self) -> None:
        if not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def _say(answer: dict[str, Any]) -> None:
    os.write(1, f"\n{json.dumps(answer)}\n".encode())
