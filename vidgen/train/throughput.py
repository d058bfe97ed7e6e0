"""How fast a run trains, what memory it takes, and the line that the console shows of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import jax

from vidgen import progress
from vidgen.progress import duration, engineering

_GIB = 2.0**30


class StepTimer:
    """Measure steps per second. The first step, which compiles, does not count."""

    def __init__(self) -> None:
        """Start the clock."""
        self.start = time.perf_counter()
        self._mark: float | None = None
        self._steps = 0
        self._waited = 0.0

    def step(self) -> None:
        """Count a step; the first must have finished on the device."""
        if self._mark is None:
            self._mark = time.perf_counter()
        else:
            self._steps += 1

    @property
    def compiled(self) -> bool:
        """Whether the first step is over."""
        return self._mark is not None

    def pause(self, seconds: float) -> None:
        """Leave out time that was not training: sampling, evaluation, saving.

        Args:
          seconds: how long it took.
        """
        if self._mark is not None:
            self._mark += seconds

    def reading(self, batch_size: int, waited: float, flops: float | None) -> dict[str, float]:
        """Return the rates since the last call, for the log.

        Args:
          batch_size: examples of a step.
          waited: seconds that the device waited for data since the start of the run.
          flops: floating-point operations of a step; None if unknown.

        Returns:
          `seconds_per_step`, `steps_per_second`, `examples_per_second`, `data_wait_fraction` from 0
          to 1 and, where they are known, `flops_per_second`; empty when no step was timed.
        """
        now = time.perf_counter()
        if self._mark is None or not self._steps:
            self._waited = waited
            return {}
        elapsed, steps = max(now - self._mark, 1e-9), self._steps
        rates = {
            "seconds_per_step": elapsed / steps,
            "steps_per_second": steps / elapsed,
            "examples_per_second": steps * batch_size / elapsed,
            "data_wait_fraction": min((waited - self._waited) / elapsed, 1.0),
        }
        if flops is not None:
            rates["flops_per_second"] = flops * steps / elapsed
        self._mark, self._steps, self._waited = now, 0, waited
        return rates


def say(text: str) -> None:
    """Print a line on stderr from the first process; the others print nothing.

    Args:
      text: the line.
    """
    if jax.process_index() == 0:
        progress.say(text)


def memory() -> dict[str, float]:
    """Return the peak memory of the first device and of this process.

    Returns:
      `device_memory_gib` and `host_memory_gib`, in GiB, each where the system can tell it.
    """
    values = {}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        values["device_memory_gib"] = stats["peak_bytes_in_use"] / _GIB
    try:
        import resource  # not on every system
    except ImportError:
        return values
    # Kibibytes on Linux, bytes on macOS.
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    values["host_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    return values


def log_line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """Write the console's line about a step.

    Args:
      step: the step that was made.
      steps: steps of the whole run.
      values: those of the log; `loss` must be among them.

    Returns:
      Loss, pace, use of the devices and the time that is left, as far as `values` has them.
    """
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
