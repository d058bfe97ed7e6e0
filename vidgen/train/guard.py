"""Steps that go wrong: a loss or a gradient that is no number, or a loss far above those before.

    step n is bad    if loss or gradient norm is not finite, or loss > spike · average of the losses
                     up to step n - 2
    "stop"           training ends with an error that names the step; its update is never saved
    "skip"           the update of the step is left out on the device, and the step is named

The average is two steps old because the host reads the loss of a step while the next one runs, and
so that the limits of a run are the same whenever it is interrupted.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

log = logging.getLogger(__name__)

_BEFORE = 2  # the limit of a step knows the losses up to so many steps before it


class TrainingDiverged(ValueError):
    """Training cannot go on; the message names the step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
    """What counts as a bad step, and what becomes of it.

    Attributes:
      policy: "stop" or "skip".
      spike: a loss over so many times the average of those before is bad; None: none is too high.
      average: steps over which the losses are averaged (exponentially), and before which none of
        them is too high.
      patience: so many bad steps in a row stop training even where they are skipped.
    """

    policy: str = "stop"
    spike: float | int | None = None
    average: int = 100
    patience: int = 10

    def __post_init__(self) -> None:
        if self.policy not in ("stop", "skip"):
            raise ValueError(
                f"DivergencePolicy.policy is {self.policy!r}; choose 'stop' or 'skip'."
            )
        if self.spike is not None and not self.spike > 1:
            raise ValueError(f"DivergencePolicy.spike is {self.spike}; it must be over 1, or None.")
        for name in ("average", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"DivergencePolicy.{name} is {getattr(self, name)}; it must be >= 1."
                )

    @property
    def skips(self) -> bool:
        """Whether the update of a bad step is left out."""
        return self.policy == "skip"


class LossMonitor:
    """Looks at every step of one run, on the host."""

    def __init__(self, guard: DivergencePolicy) -> None:
        """Has seen nothing."""
        self._guard = guard
        self._mean, self._seen, self._row = 0.0, 0, 0
        self._limits: dict[str, float] = {}

    def limit(self, step: int) -> float:
        """The highest loss that step `step` (1 is the first) may have."""
        return self._limits.get(str(step), math.inf)

    def see(self, step: int, loss: float, grad_norm: float, saved: int | None) -> None:
        """Takes note of a step; `saved` is the newest checkpoint.

        Raises:
          TrainingDiverged: the step is bad, and so is going on.
        """
        reasons = [
            f"{name} is {value}"
            for name, value in (("loss", loss), ("grad_norm", grad_norm))
            if not math.isfinite(value)
        ]
        if not reasons and loss > self.limit(step):
            reasons = [f"loss is {loss:.4g}, over {self.limit(step):.4g}"]
        if reasons:
            self._bad(step, ", ".join(reasons), saved)
        else:
            self._row, self._seen = 0, self._seen + 1
            self._mean += (loss - self._mean) / min(self._seen, self._guard.average)
        spike = self._guard.spike
        self._limits.pop(str(step), None)
        if spike is not None and self._seen >= self._guard.average:
            self._limits[str(step + _BEFORE)] = spike * self._mean

    def _bad(self, step: int, reason: str, saved: int | None) -> None:
        self._row += 1
        if self._guard.skips and self._row < self._guard.patience:
            log.warning("step %d is skipped: %s", step, reason)
            return
        what = f"training diverged at step {step} ({reason})"
        if self._guard.skips:
            what += f", after {self._row} bad steps in a row"
        kept = "there is no checkpoint yet" if saved is None else f"checkpoint {saved} is kept"
        raise TrainingDiverged(
            f"{what}; {kept}. Lower LEARNING_RATE or lengthen its warm-up, and run again"
            + (
                "."
                if self._guard.skips
                else "; DivergencePolicy.policy = 'skip' leaves such steps out."
            )
        )

    def state(self) -> dict[str, Any]:
        """What it knows, as JSON can hold it: for a checkpoint."""
        return {"mean": self._mean, "seen": self._seen, "row": self._row, "limits": self._limits}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._mean, self._seen, self._row = state["mean"], state["seen"], state["row"]
        self._limits = dict(state["limits"])
