"""`--profile=START:STOP`: a trace of a few training steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

log = logging.getLogger(__name__)


class Trace:
    """Trace some of the steps that one call trains."""

    def __init__(self, profile: str, folder: epath.Path, left: int) -> None:
        """Trace the steps that `profile` names, of the `left` that will run, into `folder`."""
        steps = parse_steps(profile)
        self._steps = range(steps.start, min(steps.stop, left + 1))
        self._folder = folder

    @contextlib.contextmanager
    def step(self, number: int, state: Callable[[], Any]) -> Iterator[None]:
        """Run one step in a block, and trace it if it is one of the steps to trace.

        Args:
          number: the number of the step that runs in the block; the first is 1.
          state: returns what the last step makes; a trace begins and ends when that is there.

        Yields:
          Nothing.
        """
        if self._steps and number == self._steps.start:
            jax.block_until_ready(state())
            jax.profiler.start_trace(str(self._folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self._steps and number == self._steps.stop - 1:
            jax.block_until_ready(state())
            jax.profiler.stop_trace()
            log.info("the trace of %d step(s) is in %s", len(self._steps), self._folder)


def parse_steps(text: str) -> range:
    """Read the value of `--profile`.

    Args:
      text: "START:STOP", or "" for no steps.

    Returns:
      The steps from START to STOP - 1.

    Raises:
      ValueError: the text is not of that form.
    """
    if not text:
        return range(0)
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and 0 < int(start) < int(stop)):
        raise ValueError(
            f"--profile={text}: expected START:STOP, steps from 1 on, like --profile=10:13."
        )
    return range(int(start), int(stop))
