"""The `evaluate` run mode: metrics of clips that a model makes, or of clips in files.

    make the missing clips -> measure every clip, block by block -> values -> report

Clips and measurements are kept under `folder`, by what they depend on, so that re-running the same
command resumes. With several processes each takes its share of the blocks, and process 0 reports;
they must see the same folder. Sample sizes, networks and their hashes, frame sizes, range, frames
and seed are part of every result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidgen import __version__, paths
from vidgen.data.video.encode import write_video
from vidgen.data.video.stream import RATES
from vidgen.evals import collect, metrics
from vidgen.evals.clips import ClipSet
from vidgen.evals.generated_clips import GeneratedClips
from vidgen.evals.metrics import EvalData, Metric
from vidgen.evals.protocols import Protocol
from vidgen.evals.report import page as report_page
from vidgen.evals.report import results
from vidgen.progress import progress_bar
from vidgen.train.batches import wait_for_all_processes

SHOWN = 8  # clips on a page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """One evaluation; see the module docstring.

    Attributes:
      data: the clips.
      protocol: the pinned settings.
      folder: where clips and measurements are kept.
      title: names what is judged.
      metrics: names; empty: those of the protocol, or all that can be computed.
      output: JSON file of the result; None writes none.
      page: HTML file with videos and plots; None writes none.
      curves: metrics.jsonl of the training, for the page.
      settings: how clips were read from files, for the result.
      as_json: whether the result is printed as JSON instead of a table.
    """

    data: EvalData
    protocol: Protocol
    folder: Path
    title: str
    metrics: tuple[str, ...] = ()
    output: str | None = None
    page: str | None = None
    curves: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    as_json: bool = False

    def __post_init__(self) -> None:
        metrics.check_names(self.protocol.metrics)
        _ = self.chosen  # an error before anything is made

    @functools.cached_property
    def chosen(self) -> tuple[Metric, ...]:
        """The metrics that are computed."""
        return metrics.choose(self.metrics or tuple(self.protocol.metrics), self.data)

    def __call__(self) -> dict[str, Any]:
        """Compute the metrics, and write and print the result.

        Returns:
          The result, as evals/report/results.py describes it.
        """
        processes = (jax.process_index(), jax.process_count())
        self._make_clips(*processes)
        result = self._result(self._measure(*processes))
        if processes[0]:
            return result
        if self.output:
            paths.write(Path(self.output), results.dumps(result).encode())
        if self.page:
            report_page.write_page(Path(self.page), [result | self._shown()])
        print(results.dumps(result) if self.as_json else results.table([result]), flush=True)
        return result

    def _make_clips(self, process: int, processes: int) -> None:
        """Make this process's share of the missing clips; wait for the others."""
        clips = self.data.generated
        if isinstance(clips, GeneratedClips):
            missing = clips.missing()[process::processes]
            with progress_bar(len(missing), desc="clips", unit="block") as bar:
                for start in missing:
                    clips.make(start)
                    bar.update()
        wait_for_all_processes("vidgen evaluate: clips")

    def _measure(self, process: int, processes: int) -> dict[str, list[np.ndarray]]:
        """Return the rows of each metric, by its name."""
        wanted = {metric.name: metric.measurements(self.data) for metric in self.chosen}
        with progress_bar(desc="features", unit="block") as bar:

            def on_block(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            rows = collect.collect(
                [measurement for several in wanted.values() for measurement in several],
                self.data.generated,
                self.data.real,
                self.folder / "features",
                process=(process, processes),
                wait=functools.partial(wait_for_all_processes, "vidgen evaluate: features"),
                on_block=on_block,
            )
        remaining = iter(rows)
        return {name: [next(remaining) for _ in several] for name, several in wanted.items()}

    def _result(self, rows: Mapping[str, list[np.ndarray]]) -> dict[str, Any]:
        """Return the JSON object, as evals/report/results.py describes it."""
        data, generated, real = self.data, self.data.generated, self.data.real
        settings = dict(self.settings)
        if isinstance(generated, GeneratedClips):
            settings = {"task": generated.task.task} | generated.task.settings
        values = {}
        for metric in self.chosen:
            captions = data.captions if "captions" in metric.needs else ()
            result = metric.result(rows[metric.name], captions)
            values[metric.name] = result | {"network": metric.network(data)}
        sets = {
            side: clips and {"what": clips.name, "n": len(clips), "fingerprint": clips.fingerprint}
            for side, clips in (("made", generated), ("real", real))
        }
        return {
            "vidgen": __version__,
            "title": self.title,
            "protocol": self.protocol.facts(generated.shape) | settings,
            **sets,
            "metrics": values,
        }

    def _shown(self) -> dict[str, Any]:
        """Write some clips as files, and return them with the curves, for the page."""
        generated, real = self.data.generated, self.data.real
        videos = [
            {
                "prompt": generated.read(number)[1] or f"clip {number}",
                "made": self._write("made", generated, number),
                "real": self._write("real", real, number),
            }
            for number in range(min(SHOWN, len(generated)))
        ]
        return {"videos": videos, "curves": self.curves}

    def _write(self, side: str, clips: ClipSet | None, number: int) -> str | None:
        if clips is None or number >= len(clips):
            return None
        fps = self.data.generated.shape.fps
        suffix = ".webp" if fps <= RATES[".webp"] else ".webm"
        path = self.folder / "shown" / f"{side}-{clips.fingerprint}-{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_video(path, clips.read(number)[0], fps)
        return str(path)
