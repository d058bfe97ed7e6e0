"""The progress of a run through its stages: a bar for each, and what its callback is shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from vidgen.inference.preview import Look, StepPreview
from vidgen.model import SampledModel
from vidgen.progress import progress_bar
from vidgen.types import OnStep, Predict


class StageProgress:
    """Shows the steps of a stage over all its batches, and the time left, until it is closed."""

    def __init__(
        self,
        models: Mapping[str, SampledModel],
        sizes: Mapping[str, int],
        prompts: Sequence[str],
        look: Look | None = None,
    ) -> None:
        """Show the bar of the first stage, which is being loaded.

        Args:
          models: those that run, in order.
          sizes: clips that each makes at a time.
          prompts: one a clip.
          look: is called after every step; None is nobody.
        """
        self._models, self._sizes, self._look = models, sizes, look
        self._prompts = prompts
        self._begin(next(iter(models)))

    def _begin(self, stage: str) -> None:
        """Show the bar of the next stage."""
        self._stage = stage
        place = f"{list(self._models).index(stage) + 1}/{len(self._models)} {stage}"
        steps = self._windows(stage) * self._models[stage].sampler.steps
        self._bar, self._window = progress_bar(steps, desc=place, unit="step"), -1

    def steps_of(self, model: SampledModel) -> OnStep:
        """Make what follows the steps of the next batch of a model; call it once a batch.

        Args:
          model: the one that runs.

        Returns:
          A callback for `Generator.generate`.
        """
        if model.name != self._stage:
            self.close()
            self._begin(model.name)
        self._window += 1
        return functools.partial(self._step, model, self._window)

    def _windows(self, stage: str) -> int:
        return -(-len(self._prompts) // self._sizes[stage])

    def _step(
        self, model: SampledModel, window: int, done: int, steps: int, predict: Predict
    ) -> None:
        """Count one more step, and show it to who looks."""
        windows, size = self._windows(model.name), self._sizes[model.name]
        self._bar.total = windows * steps  # a sampler may take others than it was asked for
        self._bar.update(1)
        if self._look is None:
            return
        preview = StepPreview(
            stage=model.name,
            stages=tuple(self._models),
            step=done,
            steps=steps,
            window=window,
            windows=windows,
            prompts=tuple(self._prompts[window * size :][:size]),
            fps=model.shape.fps,
            predict=predict,
        )
        self._look(preview)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
