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
    """Traces some of the steps that one call trains."""

    def __init__(self, profile: str, folder: epath.Path, left: int) -> None:
        """`profile` says which, `left` how many there will be; the trace goes into `folder`."""
        steps = steps_of(profile)
        self._steps = range(steps.start, min(steps.stop, left + 1))
        self._folder = folder

    @contextlib.contextmanager
    def step(self, number: int, state: Callable[[], Any]) -> Iterator[None]:
        """A step that is in the trace, or begins or ends it, or is none of its business.

        Args:
          number: of the step, from 1 on.
          state: what the last step makes; a trace begins and ends when that is there.
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


def steps_of(text: str) -> range:
    """The steps that "START:STOP" names; none for "".

    Raises:
      ValueError: it is not of that form.
    """
    if not text:
        return range(0)
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and 0 < int(start) < int(stop)):
        raise ValueError(
            f"--profile={text}: expected START:STOP, steps from 1 on, like --profile=10:13."
        )
    return range(int(start), int(stop))
