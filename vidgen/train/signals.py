"""Signals that ask a run to stop, and how its process then ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Preempted(SystemExit):
    """SIGTERM stopped the run before its last step; it has saved, and re-running it resumes."""

    def __init__(self) -> None:
        """End the process with status 75, on which launch/ scripts and queues run it again."""
        super().__init__(75)  # EX_TEMPFAIL of sysexits.h


@contextlib.contextmanager
def stop_requests(say: Callable[[str], None]) -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C while the block runs, instead of ending the process.

    A second Ctrl-C interrupts at once. Outside the main thread, which signals never reach, nothing
    is collected.

    Args:
      say: prints a line for the user.

    Yields:
      A list to which each signal appends its number.
    """
    requested: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requested  # signals reach the main thread only
        return

    def on_signal(number: int, frame: Any) -> None:
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.append(number)
        say(f"{signal.Signals(number).name}: stopping after this step, with a checkpoint")

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
