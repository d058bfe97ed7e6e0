"""Metrics, added up on the device and written by the first process to JSON lines and boards.

Boards are TensorBoard, and Weights & Biases where it is asked for (`wandb_board.py`).

`MODEL_DIR/metrics.jsonl` has one object a line with `step` among its keys, each step once: a run
that resumes from step n first drops the lines beyond n, which it is about to write again. Values
that are not finite are written as null, since JSON has no word for them; boards do not get them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from vidgen.train import wandb_board
from vidgen.types import Mean, Metrics


@jax.jit
def _merged(a: Metrics, b: Metrics) -> Metrics:
    return {name: mean.merge(b[name]) for name, mean in a.items()}


@jax.jit
def _counted(metrics: Metrics) -> Metrics:
    """Return what a step adds to the log: only `skipped` if its update was skipped."""
    skipped = metrics["skipped"].total > 0
    rest = {name: mean for name, mean in metrics.items() if name != "skipped"}
    kept = jax.tree.map(lambda x: jnp.where(skipped, jnp.zeros_like(x), x), rest)
    return kept | {"skipped": metrics["skipped"]}


class Accumulator:
    """Add up metrics, without waiting for the device until `result` asks for numbers."""

    def __init__(self) -> None:
        """Start with no steps."""
        self._sum: Metrics | None = None

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of one more step.

        Of a step that was `skipped`, the loss and the norms do not count.

        Args:
          metrics: on the device; their names must not change between steps.
        """
        metrics = _counted(dict(metrics)) if "skipped" in metrics else metrics
        self._sum = metrics if self._sum is None else _merged(self._sum, metrics)

    def state(self) -> dict[str, list[float]]:
        """Return the exact sums so far as JSON can hold them, for a checkpoint."""
        host = jax.device_get(dict(self._sum or {}))
        return {name: [float(m.total), float(m.weight)] for name, m in host.items()}

    def set_state(self, state: Mapping[str, list[float]]) -> None:
        """Resume from sums of an earlier process, exactly.

        Args:
          state: what `state` returned.
        """
        exact: Any = np.float32
        sums = {n: Mean(total=exact(t), weight=exact(w)) for n, (t, w) in state.items()}
        self._sum = sums or None

    def result(self) -> dict[str, float]:
        """Return the means since the last call, and start again with no steps."""
        total, self._sum = self._sum, None
        return {} if total is None else to_floats(total)


def to_floats(metrics: Metrics) -> dict[str, float]:
    """Fetch metrics from the device as floats, which waits for it.

    Args:
      metrics: sums and weights by name.

    Returns:
      The means, sorted by name; NaN where nothing was counted.
    """
    host = jax.device_get(dict(metrics))
    out = {}
    for name in sorted(host):
        total, weight = float(host[name].total), float(host[name].weight)
        out[name] = total / weight if weight else math.nan
    return out


class MetricsWriter:
    """Write the log of one run; every process but the first writes nothing."""

    def __init__(
        self, model_dir: epath.PathLike, *, resume_step: int = 0, boards: bool = True
    ) -> None:
        """Open the log, and remove what lies beyond `resume_step`, which will come again.

        Args:
          model_dir: folder of the run.
          resume_step: the step from which the run resumes.
          boards: also write to TensorBoard, and to Weights & Biases if it is asked for.
        """
        self._active = jax.process_index() == 0
        self._boards: list[Any] = []
        if not self._active:
            return
        self.path = epath.Path(model_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_beyond(resume_step)
        if boards:
            from tensorboardX import SummaryWriter  # imported late: it is slow to load

            folder = os.fspath(epath.Path(model_dir) / "tensorboard")
            board = SummaryWriter(folder, purge_step=resume_step + 1, flush_secs=30)
            self._boards.append(board)
            self._boards += filter(None, [wandb_board.open_board(model_dir)])

    def _drop_beyond(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        text = "".join(line + "\n" for line in kept)
        if text == self.path.read_text():
            return
        # Written beside and moved there: a stop halfway must not lose the history.
        beside = self.path.with_suffix(".jsonl.part")
        beside.write_text(text)
        beside.replace(self.path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to the log, and give the same numbers to the boards.

        Args:
          step: the step of the run.
          values: by name; `loss` comes first in the line. Those that are not finite become null in
            the line and are kept from the boards.
        """
        if not self._active:
            return
        first = {"loss": values["loss"]} if "loss" in values else {}
        line = {"step": int(step)} | {
            k: float(v) if math.isfinite(v) else None for k, v in (first | dict(values)).items()
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        counted = {name: value for name, value in values.items() if math.isfinite(value)}
        for board in self._boards:
            for name, value in counted.items():
                board.add_scalar(name, value, step)

    def write_video(self, step: int, name: str, video: Float[np.ndarray, "b t h w c"]) -> None:
        """Give clips to the boards as one picture: a row for each clip, frames from left to right.

        Args:
          step: the step of the run.
          name: title of the picture.
          video: clips in [-1, 1].
        """
        if not self._boards:
            return
        b, t, h, w, c = video.shape
        sheet = video.transpose(0, 2, 1, 3, 4).reshape(b * h, t * w, c)
        image = np.clip((sheet + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8)
        for board in self._boards:
            board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered, and close the boards."""
        while self._boards:
            self._boards.pop().close()


def _step_of(line: str) -> float:
    """Return the step of a line; infinity for the torn last line of a killed run."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
