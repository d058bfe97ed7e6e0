"""What a person and the log see of a run: rates, time left, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

_GIB = 2.0**30


class Clock:
    """Rates since the last reading. The first step, which compiles, is not part of any."""

    def __init__(self) -> None:
        """Starts now."""
        self.start = time.perf_counter()
        self._mark: float | None = None
        self._steps = 0
        self._waited = 0.0

    def step(self) -> None:
        """Counts a step; after the first, call when it has finished on the device."""
        if self._mark is None:
            self._mark = time.perf_counter()
        else:
            self._steps += 1

    @property
    def compiled(self) -> bool:
        """True once the first step is over."""
        return self._mark is not None

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not training: sampling, evaluation, saving."""
        if self._mark is not None:
            self._mark += seconds

    def reading(self, batch_size: int, waited: float, flops: float | None) -> dict[str, float]:
        """Rates since the last call, for the log; empty when no step was timed.

        Args:
          batch_size: examples of a step.
          waited: seconds waited for data since the start of the run.
          flops: operations of a step, None if unknown.
        """
        now = time.perf_counter()
        if self._mark is None or not self._steps:
            self._waited = waited
            return {}
        elapsed, steps = max(now - self._mark, 1e-9), self._steps
        found = {
            "seconds_per_step": elapsed / steps,
            "steps_per_second": steps / elapsed,
            "examples_per_second": steps * batch_size / elapsed,
            "data_wait_fraction": min((waited - self._waited) / elapsed, 1.0),
        }
        if flops is not None:
            found["flops_per_second"] = flops * steps / elapsed
        self._mark, self._steps, self._waited = now, 0, waited
        return found


def memory() -> dict[str, float]:
    """Peak memory in GiB of the first device (where it can tell) and of this process."""
    found = {}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["device_memory_gib"] = stats["peak_bytes_in_use"] / _GIB
    try:
        import resource  # not on every system
    except ImportError:
        return found
    # Kibibytes on Linux, bytes on macOS.
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    found["host_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    return found


def duration(seconds: float) -> str:
    """3 725 seconds as "1h 02m", for people."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def engineering(value: float) -> str:
    """2.1e10 as "21.0 G", 32 as "32.0 "; a unit follows."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} E"


def line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """One line of the console about a step."""
    parts = [f"step {step:>{len(str(steps))}}/{steps}", f"loss {values['loss']:.4f}"]
    if "eval_loss" in values:
        parts.append(f"held-out {values['eval_loss']:.4f}")
    if "seconds_per_step" in values:
        pace = values["seconds_per_step"]
        parts.append(f"{pace:.3g} s/step")
        parts.append(f"{engineering(values['examples_per_second'])}clips/s")
        if "flops_per_second" in values:
            parts.append(f"{engineering(values['flops_per_second'])}FLOP/s")
        if "mfu" in values:
            parts.append(f"{values['mfu']:.0%} of peak")
        if values["data_wait_fraction"] > 0.1:
            parts.append(f"waiting for data {values['data_wait_fraction']:.0%}")
        parts.append(f"{duration(pace * (steps - step))} left")
    return "  ".join(parts)


class Console:
    """Lines on stderr from the first process, and on a terminal a last line that moves."""

    def __init__(self, stream: Any = None) -> None:
        """Writes to `stream`, by default stderr."""
        self._stream = sys.stderr if stream is None else stream
        self._active = jax.process_index() == 0
        self._moving = self._active and self._stream.isatty()
        self._last = 0.0

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        if self._active:
            clear = "\r\x1b[K" if self._moving else ""
            print(f"{clear}{text}", file=self._stream, flush=True)

    def show(self, text: str) -> None:
        """Writes over the moving line, at most five times a second; nothing if not a terminal."""
        if self._moving and time.perf_counter() - self._last > 0.2:
            self._last = time.perf_counter()
            print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)
