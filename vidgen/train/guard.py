"""What counts as a bad training step, and what becomes of it.

    step n is bad    if loss or gradient norm is not finite, or loss > spike · average of the losses
                     up to step n - 2
    "stop"           training ends with an error that names the step; its update is never saved
    "skip"           the update of the step is left out on the device, and the step is named

The average is two steps old because the host reads the loss of a step while the next one runs:
the device never waits, and the limits of a run are the same whenever it is interrupted. The policy
is no wrapped optimizer, whose state would make a checkpoint of one policy unreadable to the other.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

log = logging.getLogger(__name__)

_DELAY = 2  # the limit of a step knows the losses up to so many steps before it


class TrainingDiverged(ValueError):
    """Training cannot go on; the message names the step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
    """What counts as a bad step, and what becomes of it.

    Attributes:
      policy: "stop" or "skip".
      spike: a loss above this multiple of the average loss is bad; None sets no limit.
      average: steps over which the losses are averaged (exponentially), and before which no loss
        is too high.
      patience: this many bad steps in a row stop training even where they are skipped.
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
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"DivergencePolicy.{name} is {value}; it must be >= 1.")

    @property
    def skips(self) -> bool:
        """Whether the update of a bad step is left out."""
        return self.policy == "skip"


class LossMonitor:
    """Check the loss of every step of one run, on the host."""

    def __init__(self, policy: DivergencePolicy) -> None:
        """Start with an empty loss history."""
        self._policy = policy
        self._mean, self._good_steps, self._bad_in_a_row = 0.0, 0, 0
        self._limits: dict[str, float] = {}

    def limit(self, step: int) -> float:
        """Return the highest loss that a step may have.

        Args:
          step: its number; the first is 1.

        Returns:
          Infinity where no spike is defined, or too few losses are known yet.
        """
        return self._limits.get(str(step), math.inf)

    def update(self, step: int, loss: float, grad_norm: float, saved: int | None) -> None:
        """Take the loss and the gradient norm of a step into account.

        Args:
          step: its number; the first is 1.
          loss: the mean loss of its batch.
          grad_norm: the norm of the gradient.
          saved: the newest checkpoint, for the message; None where there is none.

        Raises:
          TrainingDiverged: the step is bad, and the policy is to stop.
        """
        reasons = [
            f"{name} is {value}"
            for name, value in (("loss", loss), ("grad_norm", grad_norm))
            if not math.isfinite(value)
        ]
        if not reasons and loss > self.limit(step):
            reasons = [f"loss is {loss:.4g}, over {self.limit(step):.4g}"]
        if reasons:
            self._on_bad_step(step, ", ".join(reasons), saved)
        else:
            self._bad_in_a_row, self._good_steps = 0, self._good_steps + 1
            self._mean += (loss - self._mean) / min(self._good_steps, self._policy.average)
        spike = self._policy.spike
        self._limits.pop(str(step), None)
        if spike is not None and self._good_steps >= self._policy.average:
            self._limits[str(step + _DELAY)] = spike * self._mean

    def _on_bad_step(self, step: int, reason: str, saved: int | None) -> None:
        self._bad_in_a_row += 1
        advice = "; DivergencePolicy.policy = 'skip' leaves such steps out."
        what = f"training diverged at step {step} ({reason})"
        if self._policy.skips:
            if self._bad_in_a_row < self._policy.patience:
                log.warning("step %d is skipped: %s", step, reason)
                return
            what, advice = f"{what}, after {self._bad_in_a_row} bad steps in a row", "."
        kept = "there is no checkpoint yet" if saved is None else f"checkpoint {saved} is kept"
        raise TrainingDiverged(
            f"{what}; {kept}. Lower LEARNING_RATE or lengthen its warm-up, and run again{advice}"
        )

    def state(self) -> dict[str, Any]:
        """Return the loss history as JSON can hold it, for a checkpoint."""
        return {
            "mean": self._mean,
            "seen": self._good_steps,
            "row": self._bad_in_a_row,
            "limits": self._limits,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a loss history.

        Args:
          state: what `state` returned.
        """
        self._mean, self._good_steps = state["mean"], state["seen"]
        self._bad_in_a_row, self._limits = state["row"], dict(state["limits"])
