"""The `evaluate` run mode: clips that a model makes, or that are there, judged by metrics.

    make the clips that are missing -> features and comparisons, block by block -> metrics -> report

All of it goes on where it was stopped: clips and features are kept under `folder`, by what they
depend on. With several processes each makes its share of the blocks, and process 0 reports; they
must see the same folder. Sample sizes, networks and their hashes, sizes, range, frames and seed
are part of every result.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from vidgen import __version__, paths
from vidgen.data.video.encode import write_video
from vidgen.data.video.stream import RATES
from vidgen.evals import collect
from vidgen.evals.generated_clips import MadeClips
from vidgen.evals.metric_inputs import EvalData, MetricInputs
from vidgen.evals.metrics import METRICS, check_names
from vidgen.evals.protocols import Protocol
from vidgen.evals.report import page as report_page
from vidgen.evals.report import results

log = logging.getLogger(__name__)

SHOWN = 8  # clips on a page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """One evaluation; see the module docstring.

    Attributes:
      question: the clips.
      protocol: what is pinned of them.
      tools: where numbers come from.
      folder: where clips and features are kept.
      title: of what is judged.
      metrics: names; empty means those of the protocol, or all that can be had.
      output: JSON file of the result; None writes none.
      page: HTML file with videos and plots; None writes none.
      curves: metrics.jsonl of the training, for the page.
      settings: what else is shown of how clips were read.
      as_json: print the result as JSON instead of a table.
    """

    question: EvalData
    protocol: Protocol
    tools: MetricInputs
    folder: Path
    title: str
    metrics: tuple[str, ...] = ()
    output: str | None = None
    page: str | None = None
    curves: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    as_json: bool = False

    def __post_init__(self) -> None:
        check_names((*self.metrics, *self.protocol.metrics))
        _ = self.wanted  # what cannot be had is told before anything is made

    @functools.cached_property
    def wanted(self) -> tuple[str, ...]:
        """The metrics."""
        asked = self.metrics or tuple(self.protocol.metrics)
        return self.tools.wanted(asked, self.question)

    def __call__(self) -> dict[str, Any]:
        """Computes, writes, and prints; returns the result."""
        processes = (jax.process_index(), jax.process_count())
        self._make(processes)
        rows = self._rows(processes)
        found = self._result(rows)
        if processes[0]:
            return found
        if self.output:
            paths.write(Path(self.output), results.dumps(found).encode())
        if self.page:
            report_page.write_page(Path(self.page), [found | self._shown()])
        print(results.dumps(found) if self.as_json else results.table([found]), flush=True)
        return found

    def _make(self, process: tuple[int, int]) -> None:
        """The clips that are not there yet."""
        made = self.question.made
        if isinstance(made, MadeClips):
            missing = made.missing()[process[0] :: process[1]]
            with tqdm(total=len(missing), desc="clips", unit="block", disable=None) as bar:
                for start in missing:
                    made.make(start)
                    bar.update(1)
        _wait("clips", process[1])

    def _rows(self, process: tuple[int, int]) -> Mapping[str, np.ndarray]:
        """What all metrics need."""
        needs = [need for name in self.wanted for need in METRICS[name].needs]
        collected = functools.partial(self._collected, process)
        captions = functools.partial(collect.captions, self.question.made)
        return self.tools.rows(needs, collected, captions)

    def _collected(
        self, process: tuple[int, int], names: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """The rows of these measures."""
        measures = {name: self.tools.measure(name, self.question) for name in names}
        with tqdm(desc="features", unit="block", disable=None) as bar:

            def on_block(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return collect.collect(
                measures,
                self.question.made,
                self.question.real,
                self.folder / "features",
                process=process,
                wait=functools.partial(_wait, "features", process[1]),
                on_block=on_block,
            )

    def _result(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The JSON object."""
        made, real = self.question.made, self.question.real
        settings = made.maker.settings if isinstance(made, MadeClips) else dict(self.settings)
        task = {"task": made.maker.task} if isinstance(made, MadeClips) else {}
        metrics = {
            name: METRICS[name].result(rows) | {"network": self.tools.protocol(name)}
            for name in self.wanted
        }
        return {
            "vidgen": __version__,
            "title": self.title,
            "protocol": self.protocol.facts(made.shape) | task | settings,
            "made": {"what": made.name, "n": len(made), "fingerprint": made.fingerprint},
            "real": real and {"what": real.name, "n": len(real), "fingerprint": real.fingerprint},
            "metrics": metrics,
        }

    def _shown(self) -> dict[str, Any]:
        """Some clips as files, and the curves, for the page."""
        made, real = self.question.made, self.question.real
        videos = []
        for number in range(min(SHOWN, len(made))):
            clip, caption = made.read(number)
            entry: dict[str, Any] = {"prompt": caption or f"clip {number}", "real": None}
            entry["made"] = self._video("made", made.fingerprint, number, clip)
            if real is not None and number < len(real):
                truth = real.read(number)[0]
                entry["real"] = self._video("real", real.fingerprint, number, truth)
            videos.append(entry)
        return {"videos": videos, "curves": self.curves}

    def _video(self, side: str, fingerprint: str, number: int, clip: np.ndarray) -> str:
        fps = self.question.made.shape.fps
        suffix = ".webp" if fps <= RATES[".webp"] else ".webm"
        path = self.folder / "shown" / f"{side}-{fingerprint}-{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_video(path, clip, fps)
        return str(path)


def _wait(what: str, processes: int) -> None:
    """Until all processes are here."""
    if processes > 1:
        multihost_utils.sync_global_devices(f"vidgen evaluate: {what}")
