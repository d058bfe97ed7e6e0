"""What a smoke test measures: programs compiled in each life, both logs, and the report of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.monitoring
from etils import epath

from vidgen.progress import engineering

EXACT = ("loss", "grad_norm")  # of a line of the log, equal to the last bit
RATES = (
    "seconds_per_step",
    "examples_per_second",
    "flops_per_second",
    "mfu",
    "data_wait_fraction",
)
_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(kw_only=True)
class Compilations:
    """The programs of this process that were compiled, or read from the cache of programs."""

    programs: int = 0
    from_cache: int = 0
    seconds: float = 0.0

    def on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        """Count a program, and the seconds until it was there.

        Args:
          event: name of an event of JAX; others are passed over.
          duration_secs: how long it took.
          **_: its attributes.
        """
        if event == _COMPILED:
            self.programs += 1
            self.seconds += duration_secs

    def on_event(self, event: str, **_: Any) -> None:
        """Count a program that was read and not compiled.

        Args:
          event: name of an event of JAX; others are passed over.
          **_: its attributes.
        """
        self.from_cache += event == _FROM_CACHE


@contextlib.contextmanager
def compilations() -> Iterator[Compilations]:
    """Count what is compiled in the block.

    Yields:
      The counts, which grow as the block goes on.
    """
    count = Compilations()
    jax.monitoring.register_event_duration_secs_listener(count.on_duration)
    jax.monitoring.register_event_listener(count.on_event)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(count.on_duration)
        jax.monitoring.unregister_event_listener(count.on_event)


def write_life(folder: epath.Path, compilations: Compilations) -> None:
    """Add what this life compiled, and how far it came, to lives.jsonl.

    Args:
      folder: that of the smoke test.
      compilations: counted since the process began. Only process 0 writes them.
    """
    if jax.process_index() != 0:
        return
    life = {"last_step": len(_lines(folder / "metrics.jsonl"))}
    life |= {"compile_seconds": compilations.seconds, "programs": compilations.programs}
    life |= {"programs_from_cache": compilations.from_cache}
    with (folder / "lives.jsonl").open("a") as file:
        file.write(json.dumps(life) + "\n")


def measured(folder: epath.Path) -> dict[str, Any]:
    """Return what the files of both runs say.

    Args:
      folder: that of the smoke test, with the undisturbed run in it.

    Returns:
      Steps, lives, medians of the rates, GiB of memory, the loss of every step, and whether both
      logs are equal: fields of report.json.
    """
    rows, undisturbed = (_lines(f / "metrics.jsonl") for f in (folder, folder / "undisturbed"))
    memory = {
        name: max((row[name] for row in [*rows, *undisturbed] if name in row), default=None)
        for name in ("device_memory_gib", "host_memory_gib")
    }
    return {
        "steps": len(rows),
        "lives": _lines(folder / "lives.jsonl"),
        **{name: _median(undisturbed, name) for name in RATES},
        **memory,
        "loss": [row["loss"] for row in rows],
        "curves_equal": not (differs := difference(folder, folder / "undisturbed")),
        "difference": differs,
    }


def difference(folder: epath.Path, undisturbed: epath.Path) -> str:
    """Compare the log of a run with that of an undisturbed one.

    Args:
      folder: of the run.
      undisturbed: folder of the other.

    Returns:
      Where they first differ, as the rest of a sentence; "" if nowhere.
    """
    rows, others = (_lines(f / "metrics.jsonl") for f in (folder, undisturbed))
    if (a := [row["step"] for row in rows]) != (b := [row["step"] for row in others]):
        return f"the run has the steps {a}, the undisturbed one {b}"
    for row, other in zip(rows, others, strict=True):
        for name in EXACT:
            if (a := row.get(name)) != (b := other.get(name)):
                return f"{name} of step {row['step']} is {a}, that of the undisturbed run {b}"
    return ""


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the median over the steps that were timed; the first compiles."""
    values = [row[name] for row in rows if name in row]
    return statistics.median(values) if values else None


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def text(report: Mapping[str, Any]) -> str:
    """Write the report as a table for a terminal.

    Args:
      report: the fields of report.json.

    Returns:
      Lines without a newline at the end.
    """
    lives = report["lives"]
    stop = lives[0]["last_step"]
    mesh = ", ".join(f"{name} {size}" for name, size in report["mesh"].items())
    size = engineering(float(report["parameters"])).strip()
    compiled = ", ".join(
        f"{life['compile_seconds']:.1f} s for {life['programs']} programs"
        f" ({life['programs_from_cache']} from the cache)"
        for life in lives
    )
    memory = [
        f"{report[name]:.2f} GiB of {what}"
        for name, what in (("device_memory_gib", "a device"), ("host_memory_gib", "a process"))
        if report[name] is not None
    ]
    speed = [f"{report['seconds_per_step']:.3g} s", f"{report['examples_per_second']:.3g} clips/s"]
    if report["flops_per_second"] is not None:
        speed.append(f"{engineering(report['flops_per_second'])}FLOP/s")
    if report["mfu"] is not None:
        speed.append(f"{report['mfu']:.0%} of peak")
    speed.append(f"waiting for data {report['data_wait_fraction']:.0%}")
    rows = {
        "devices": f"{report['devices']} x {report['device']} in {report['processes']} process(es)",
        "mesh": mesh,
        "model": f"{report['model']}, {size} parameters, batch {report['batch_size']}",
        "compiling": compiled,
        "a step": ", ".join(speed),
        "memory": ", ".join(memory),
        "preemption": f"SIGTERM after step {stop} of {report['steps']}, saved, resumed",
        "loss": f"{report['loss'][0]:.4f} to {report['loss'][-1]:.4f}, "
        + (report["difference"] or "equal to the last bit to an undisturbed run's"),
        "a clip": f"{report['clip']} ({report['clip_seconds']:.1f} s with compiling)",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in rows.items())
