"""The registry of metrics: objects that say what they need, and compute a value from clips.

    register(ClipMetric(name="brightness", what="mean of all pixels", per_clip=brightness))

adds a metric; `vidgen evaluate --metrics=help` lists those that there are. A metric works in two
steps. First come measurements of each clip, which are kept on disk and shared by all metrics that
ask for the same ones. Then `value` turns the rows of all clips into one number and its standard
error. `set_metrics.py` has distances between sets of features, `clip_metrics.py` those of single
clips and of pairs, `vidgen/sprites/metrics.py` what the sprite data adds by itself. A module of
your own registers in the same way; an `import` line in a --gin_file loads it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from vidgen.data.source import Source
from vidgen.evals import uncertainty
from vidgen.evals.clips import ClipSet, digest
from vidgen.evals.collect import ClipBatch, Measurement
from vidgen.evals.tasks import ReconstructTask

METRICS: dict[str, Metric] = {}  # every registered metric by its name, in the order of reports

Rows = Sequence[np.ndarray]  # one array per measurement of a metric, each with a row per clip
Estimate = tuple[float, float | None]  # a value, and its standard error where it can be told


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """What the user brings to an evaluation besides the clips.

    Attributes:
      inception: file of Inception-v3's weights; None: there is no FID.
      clip: folder of a CLIP model; None: there is no CLIP score.
      batch_size: number of clips that a network is given at a time.
    """

    inception: str | None = None
    clip: str | None = None
    batch_size: int = 8

    @property
    def inception_file(self) -> Path:
        """The path of `inception`."""
        return Path(self.inception or "").expanduser()

    @property
    def clip_folder(self) -> Path:
        """The path of `clip`."""
        return Path(self.clip or "").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalData:
    """The clips of an evaluation, and what is known of them.

    Attributes:
      generated: the clips that are judged.
      real: the clips that they are compared with.
      paired: whether clip n of one set is to be like clip n of the other.
      captioned: whether the generated clips have captions.
      source: the data set that the real clips come from, where it is known.
      tokenizer: the task that made the clips from tokens, where one did.
      given: number of first frames that a prediction was given; pairs are compared after them.
      inputs: what the user brings.
    """

    generated: ClipSet
    real: ClipSet | None = None
    paired: bool = False
    captioned: bool = False
    source: Source | None = None
    tokenizer: ReconstructTask | None = None
    given: int = 0
    inputs: MetricInputs = MetricInputs()

    @functools.cached_property
    def captions(self) -> tuple[str, ...]:
        """The caption of every generated clip."""
        return tuple(self.generated.read(number)[1] for number in range(len(self.generated)))


# What a metric may need of the data, with the sentence for data that lacks it.
NEEDS: Mapping[str, tuple[Callable[[EvalData], bool], str]] = {
    "real": (lambda data: data.real is not None, "there is nothing to compare with"),
    "pairs": (lambda data: data.paired, "the clips are no pairs"),
    "captions": (lambda data: data.captioned, "the clips have no captions"),
    "tokens": (lambda data: data.tokenizer is not None, "no tokenizer made the clips"),
    "inception": (
        lambda data: data.inputs.inception is not None,
        "it needs the weights of Inception-v3 (--inception=FILE)",
    ),
    "clip": (
        lambda data: data.inputs.clip is not None,
        "it needs the weights of CLIP (--clip=FOLDER)",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: what it is called, what it needs, and how it is computed.

    A subclass implements `measurements`, and `value` unless the value is a mean over clips.

    Attributes:
      name: the name for --metrics and in results.
      what: one phrase for reports.
      better: which values are better; None where neither is.
      unit: the unit of the value; "" where it has none.
      needs: keys of NEEDS.
      frames: the fewest frames that a clip may have.
      pixels: the smallest height or width of a frame.
      least_clips: with fewer clips a warning says that the value means little.
      by_default: whether it is computed where no --metrics are named.
    """

    name: str
    what: str
    better: Literal["higher", "lower"] | None = None
    unit: str = ""
    needs: tuple[str, ...] = ()
    frames: int = 1
    pixels: int = 1
    least_clips: int = 0
    by_default: bool = True
    compares_sets: ClassVar[bool] = False  # whether the second rows are those of the real clips

    def why_not(self, data: EvalData) -> str | None:
        """Say why this metric cannot be computed of the data.

        Args:
          data: the clips, and what is known of them.

        Returns:
          The reason as a clause; None if it can.
        """
        shape = data.generated.shape
        for need in self.needs:
            is_there, reason = NEEDS[need]
            if not is_there(data):
                return reason
        if shape.frames < self.frames:
            return f"it needs {self.frames} frames, and the clips have {shape.frames}"
        if min(shape.height, shape.width) < self.pixels:
            return f"it needs {self.pixels} x {self.pixels} pixels, and frames have {shape}"
        return None

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """List what has to be computed of each clip.

        Args:
          data: the clips; `why_not` has returned None of them.

        Returns:
          The measurements whose rows `value` takes, in its order.
        """
        raise NotImplementedError

    def value(self, rows: Rows, captions: Sequence[str] = ()) -> Estimate:
        """Compute the value and its standard error: by default the mean of the first rows.

        Args:
          rows: the rows of each measurement.
          captions: one per generated clip, if the metric needs captions.

        Returns:
          (value, standard error); the error is None where it cannot be told.
        """
        del captions
        return uncertainty.of_mean(rows[0])

    def network(self, data: EvalData) -> dict[str, Any] | None:
        """Describe the network that the metric looks through, if there is one.

        Args:
          data: the clips; by `inputs` they have the weights that the user brings.

        Returns:
          Its name, the hash of its weights and all settings that change a number; None: no network.
        """
        del data
        return None

    def remarks(self, rows: Rows) -> dict[str, Any]:
        """Return further entries of the result: by default a warning of too few clips.

        Args:
          rows: the rows of each measurement.

        Returns:
          Entries by name; "warning" is a sentence for the reader, or None.
        """
        count = min(map(len, rows))
        if count >= self.least_clips:
            return {"warning": None}
        return {
            "warning": f"{count} clips: below {self.least_clips} this is mostly the chance of "
            "which clips they are; compare it with nothing but sets of as many"
        }

    def result(self, rows: Rows, captions: Sequence[str] = ()) -> dict[str, Any]:
        """Compute all that a result says of this metric.

        Args:
          rows: the rows of each measurement.
          captions: one per generated clip, if the metric needs captions.

        Returns:
          Value, standard error, numbers of clips and remarks, as plain data for JSON.
        """
        value, stderr = self.value(rows, captions)
        return {
            "value": value,
            "stderr": stderr,
            "n": len(rows[0]),
            "n_real": len(rows[1]) if self.compares_sets else None,
            "better": self.better,
            "unit": self.unit,
            "what": self.what,
        } | self.remarks(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipMetric(Metric):
    """The mean over generated clips of a number that each clip has by itself.

    Attributes:
      per_clip: turns clips "b t h w c" in [-1, 1] into one number per clip.
    """

    per_clip: Callable[[Float[np.ndarray, "b t h w c"]], Float[np.ndarray, " b"]]

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Measure each generated clip by itself; see `Metric.measurements`."""

        def compute(batch: ClipBatch) -> np.ndarray:
            return np.asarray(self.per_clip(np.clip(batch.video, -1, 1)))

        return (Measurement(side="generated", key=digest(self.name), compute=compute),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairMetric(Metric):
    """The mean over clips of a number that compares each with the real clip beside it.

    Attributes:
      per_pair: turns generated and real clips, both "b t h w c" in [-1, 1], into one number each.
    """

    per_pair: Callable[[np.ndarray, np.ndarray], np.ndarray]
    needs: tuple[str, ...] = ("real", "pairs")

    def measurements(self, data: EvalData) -> Sequence[Measurement]:
        """Measure each pair, without the frames that a prediction was given.

        See `Metric.measurements`.
        """
        return (pair_measurement(self.name, "", self.per_pair, data.given),)


def pair_measurement(
    name: str, weights: str, per_pair: Callable[[np.ndarray, np.ndarray], np.ndarray], given: int
) -> Measurement:
    """Make the measurement of pairs of a generated and a real clip.

    Args:
      name: the name of what is measured.
      weights: names the weights of a network; "" where there is none.
      per_pair: turns generated and real clips, both "b t h w c", into one number each. It is called
        with one pair at a time, so that large clips take little memory.
      given: number of first frames that are left out.

    Returns:
      A measurement with one number for each pair.
    """

    def compute(batch: ClipBatch) -> np.ndarray:
        assert batch.real is not None
        video = np.clip(batch.video, -1, 1)[:, given:]
        pairs = zip(video, batch.real[:, given:], strict=True)
        return np.concatenate([np.asarray(per_pair(a[None], b[None])) for a, b in pairs])

    return Measurement(side="pair", key=digest(name, weights, given), compute=compute)


def register(*metrics: Metric) -> None:
    """Add metrics to the registry; one of the same name is replaced.

    Args:
      *metrics: what `vidgen evaluate --metrics=help` then lists.
    """
    METRICS.update({metric.name: metric for metric in metrics})


def choose(names: Sequence[str], data: EvalData) -> tuple[Metric, ...]:
    """Return the metrics of these names, or all that can be computed where there are no names.

    Args:
      names: names of --metrics, or of the protocol; empty for all.
      data: the clips, and what is known of them.

    Returns:
      The metrics, in the order of the names, or of the registry.

    Raises:
      ValueError: there is no metric of a name, or it cannot be computed of the data.
    """
    check_names(names)
    if not names:
        metrics = [metric for metric in METRICS.values() if metric.by_default]
        return tuple(metric for metric in metrics if metric.why_not(data) is None)
    for name in names:
        if reason := METRICS[name].why_not(data):
            raise ValueError(f"--metrics={name}: {reason}.")
    return tuple(METRICS[name] for name in names)


def check_names(names: Iterable[str]) -> None:
    """Check that there is a metric of each name.

    Args:
      names: as a user or a protocol wrote them.

    Raises:
      ValueError: there is none of a name; the message lists those that there are.
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}.")


def listing() -> str:
    """Return what `vidgen evaluate --metrics=help` prints: a line for each metric."""
    width = max(map(len, METRICS))
    lines = []
    for metric in METRICS.values():
        words = [f"needs {', '.join(metric.needs)}"] if metric.needs else []
        words += [f"at least {metric.frames} frames"] if metric.frames > 1 else []
        words += [f"at least {metric.pixels} pixels a side"] if metric.pixels > 1 else []
        lines.append("; ".join([f"{metric.name.ljust(width)}  {metric.what}", *words]))
    return "\n".join(lines)
