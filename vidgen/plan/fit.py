"""`vidgen plan --fit`: the way to train on a slice of chips that keeps them busiest, and fits.

    candidates -> estimates of all -> the compiler on the best few -> the best of those that fit

An estimate is corrected by every program that was compiled, so that what is compiled next is the
best of what is still believed to fit. Candidates are ranked by the bound of MFU where nothing
overlaps (`plan/bound.py`): the other one is the same for all that computing holds up.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from jax.errors import JaxRuntimeError

from vidgen.model import Model
from vidgen.plan import candidates, programs
from vidgen.plan.bound import networks_with_remat
from vidgen.plan.candidates import Candidate, Estimator
from vidgen.plan.estimate import Plan
from vidgen.train import chips as chip_facts
from vidgen.train.partitioning import Partitioner
from vidgen.train.trainer import Trainer

Report = dict[str, Any]
_ROOM = 0.95  # of the memory: an estimate above it is not compiled
_MORE = 2  # that are compiled where none fits
# The report of a program at which the compiler ended its process, as libtpu does at what it lacks.
_BROKEN: Report = {"fits": False, "peak_bytes_per_device": None, "bound": None}
# Slices that can be rented, by the number of chips: cubes of v4 and v5p, squares of v5e and v6e.
_CUBES = "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16".split()
_SQUARES = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16".split()
_SHAPES = {"v4": _CUBES, "v5p": _CUBES, "v5e": _SQUARES, "v6e": _SQUARES}


def topology(chips: str) -> str:
    """Translate a number of chips into a topology.

    Args:
      chips: KIND:COUNT, or KIND:COUNT*SLICES, as --chips takes it.

    Returns:
      What `programs.topology` takes: "v5p:64" is "v5p:4x4x4", and "v5p:64*2" is "v5p:4x4x4*2".

    Raises:
      ValueError: there is no such slice.
    """
    kind, _, rest = chips.partition(":")
    count, _, slices = rest.partition("*")
    sizes = {str(_product(shape)): shape for shape in _SHAPES.get(kind, ())}
    if count not in sizes or not (slices or "1").isdecimal():
        known = "; ".join(
            f"{name}: {', '.join(str(_product(shape)) for shape in shapes)}"
            for name, shapes in _SHAPES.items()
        )
        raise ValueError(
            f"--chips={chips} is no slice of TPUs: give a kind and a number of chips, like v5p:64, "
            f"or v5p:64*2 for two slices ({known})."
        )
    return f"{kind}:{sizes[count]}" + (f"*{slices}" if slices else "")


def _product(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))


class CompiledCandidate(NamedTuple):
    """A candidate that was compiled, and what the plan says of it."""

    candidate: Candidate
    report: Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """The search for the best way to train one model on a slice; calling it prints the report.

    Attributes:
      plan: of one model; its batch is the largest that is tried.
      meshes: partitioners by file: all of `candidates.MESHES`.
      chips: such as "v5p:64".
      compiles: how many candidates the compiler gets at most, and two more where none of them fits.
      as_json: print one JSON object.
    """

    plan: Plan
    meshes: Mapping[str, Partitioner]
    chips: str
    compiles: int = 3
    as_json: bool = False

    def __post_init__(self) -> None:
        if len(self.plan.trainers) != 1 or not isinstance(self.plan.batch_size, int):
            raise ValueError("--fit takes one model and one BATCH_SIZE.")
        if self.compiles < 1:
            raise ValueError(f"--compiles={self.compiles}: it must be 1 or more.")
        topology(self.chips)

    def __call__(self) -> Report:
        """Search, and print the report on standard output: text, or with `as_json` one object.

        Returns:
          The report.
        """
        report = self.report()
        print(json.dumps(report) if self.as_json else table(report))
        return report

    def report(self) -> Report:
        """Search the best candidate.

        Returns:
          `best`, the candidate (None where no program that was compiled fits), `lost`, the others
          and why, how many were estimated (`candidates`) and `compiled`, and what the search was
          for.

        Raises:
          ValueError: the batch divides over the chips in no way that is tried.
        """
        assert isinstance(self.plan.batch_size, int)
        devices = programs.topology(topology(self.chips))
        estimator = self._estimator(devices)
        ways = list(estimator.candidates(len(devices), self.plan.batch_size))
        if not ways:
            raise ValueError(
                f"a batch of {self.plan.batch_size} does not divide over {len(devices)} chips "
                "in any way that is tried: make BATCH_SIZE a multiple of the chips."
            )
        compiled: list[CompiledCandidate] = []
        while len(compiled) < self._limit(compiled) and (
            way := self._next(estimator, ways, compiled)
        ):
            report = self._compile(estimator, way)
            if report != _BROKEN:
                estimator.correct(way, report)
            compiled.append(CompiledCandidate(way, report))
        return self._summary(estimator, ways, compiled)

    def _limit(self, compiled: list[CompiledCandidate]) -> int:
        """Return how many may be compiled."""
        return self.compiles + (0 if any(x.report["fits"] for x in compiled) else _MORE)

    def _estimator(self, devices: Any) -> Estimator:
        (trainer,) = self.plan.trainers
        flat = dataclasses.replace(
            self.meshes["mesh/fsdp.gin"], mesh_shape=(len(devices), 1, 1), device_count=None
        )
        here = dataclasses.replace(trainer, partitioner=programs.Elsewhere.of(flat, devices))
        text = self.plan.text_encoder.length, self.plan.text_encoder.dim
        chip = chip_facts.of(devices[0].device_kind)
        assert chip is not None
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        work = candidates.work_of(here, text)
        return Estimator(trainer, self.meshes, text, work, chip, slices)

    def _next(
        self, estimator: Estimator, ways: list[Candidate], compiled: list[CompiledCandidate]
    ) -> Candidate | None:
        """Return what to compile next: the best that may fit and beat what was compiled."""
        done = {entry.candidate for entry in compiled}
        # At what the compiler breaks off, it does so on other shapes of the mesh as well.
        broken = {_part(x.candidate) for x in compiled if x.report == _BROKEN}
        best = max((rank(x.report["bound"]) for x in compiled if x.report["bound"]), default=0.0)
        memory = (estimator.chip.memory or 0) * 2**30
        ways = [way for way in ways if way not in done and _part(way) not in broken]
        left = [(way, estimator.estimate(way)) for way in ways]
        fit = [(way, x) for way, x in left if x.peak <= _ROOM * memory]
        if not fit and not best:  # nothing seems to fit: the compiler may know better
            return min(left, key=lambda pair: pair[1].peak)[0] if left else None
        better = [(way, x) for way, x in fit if rank(x.bound) > best]
        return max(better, key=lambda pair: rank(pair[1].bound))[0] if better else None

    def _compile(self, estimator: Estimator, way: Candidate) -> Report:
        """Return the compiler's report of a candidate, or `_BROKEN` if the compiler broke off."""
        print(f"vidgen: {way}", file=sys.stderr, flush=True)
        work = estimator.work.model_flops * way.batch
        trainer, where = estimator.trainer_of(way), (topology(self.chips), self.plan.effort)
        try:
            return apart(compile_step, trainer, way.batch, estimator.text, work, *where)
        except (BrokenProcessPool, JaxRuntimeError) as error:
            print(f"vidgen: the compiler broke off: {error}", file=sys.stderr, flush=True)
            return dict(_BROKEN)

    def _summary(
        self, estimator: Estimator, ways: list[Candidate], compiled: list[CompiledCandidate]
    ) -> Report:
        fitting = [entry for entry in compiled if entry.report["bound"]]
        best = max(fitting, key=lambda x: rank(x.report["bound"]), default=None)
        limits = best and best.report["bound"]
        lost = [_row(x.candidate, x.report, limits) for x in compiled if x is not best]
        model, chosen = self.plan.trainers[0].model, None
        if best is not None:
            chosen = _row(best.candidate, best.report, None)
            chosen |= {"flags": flags(best.candidate, model), "report": best.report}
            shown = {x.candidate for x in compiled}
            rivals = dict.fromkeys(_rivals(estimator, ways, best.candidate))
            lost += [_estimated_row(way, best, estimator) for way in rivals if way not in shown]
        return {
            "model": model.name,
            "chips": self.chips,
            "topology": topology(self.chips),
            "effort": self.plan.effort,
            "candidates": len(ways),
            "compiled": len(compiled),
            "best": chosen,
            "lost": lost,
        }


def _part(way: Candidate) -> tuple[object, ...]:
    """What a device computes at a time, wherever the others are."""
    return way.remat, way.batch / way.shape[0] / way.shape[1] / way.microbatches


def apart(function: Callable[..., Report], *arguments: Any) -> Report:
    """Call a function in a process of its own: a compiler that breaks off ends no search.

    Args:
      function: of a module.
      *arguments: that can be pickled.

    Returns:
      What it returns.

    Raises:
      BrokenProcessPool: the process ended before the function did.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def compile_step(
    trainer: Trainer,
    batch_size: int,
    text: tuple[int, int],
    model_flops: float,
    target: str,
    effort: str,
) -> Report:
    """Compile a training step for TPUs, and read what it needs.

    Args:
      trainer: with the mesh of the candidate.
      batch_size: examples of a step.
      text: length and width of the text in a batch.
      model_flops: of the whole batch; see `programs.training_step`.
      target: the TPUs, as `programs.topology` takes them.
      effort: of the compiler.

    Returns:
      The report of `programs.training_step`, and `compile_processor_seconds`.
    """
    elsewhere = programs.Elsewhere.of(trainer.partitioner, programs.topology(target))
    trainer = dataclasses.replace(trainer, partitioner=elsewhere)
    batch = trainer.model.batch_spec(batch_size, *text)
    start = time.process_time()
    with programs.effort(effort):
        report = programs.training_step(trainer, batch, model_flops)
    return report | {"compile_processor_seconds": time.process_time() - start}


def rank(bound: Mapping[str, Any]) -> float:
    """Return the number by which candidates are ranked.

    Args:
      bound: of `bound.of`.

    Returns:
      The bound of MFU where nothing overlaps; more is better.
    """
    return bound["mfu_alone"]


def _rivals(estimator: Estimator, ways: list[Candidate], best: Candidate) -> list[Candidate]:
    """Return the best ways that differ from the winner in one thing: the next choices of each."""
    memory = (estimator.chip.memory or 0) * 2**30

    def worth(way: Candidate) -> tuple[bool, float]:
        x = estimator.estimate(way)
        return x.peak <= memory, rank(x.bound)

    rivals: list[Candidate] = []
    for field in ("shape", "batch", "remat", "microbatches"):
        varied = {"shape", "mesh"} if field == "shape" else {field}
        same = [n for n in Candidate._fields if n not in varied]
        alike = [way for way in ways if all(getattr(way, n) == getattr(best, n) for n in same)]
        rivals += sorted((x for x in alike if x != best), key=worth, reverse=True)[:3]
    return rivals


def _row(way: Candidate, report: Report, best: Mapping[str, Any] | None) -> Report:
    """Return a candidate that was compiled, and why it lost."""
    limits = report["bound"]
    row = way._asdict() | {"way": str(way), "compiled": True}
    row |= {"peak": report["peak_bytes_per_device"], "bound": limits}
    if report == _BROKEN:
        row["why"] = "the compiler broke off"
    elif limits is None and report["fits"]:
        row["why"] = "fits, but the compiler does not print it"
    elif limits is None:
        there = report["device_bytes"]
        row["why"] = f"does not fit: {_gib(row['peak'])} of {_gib(there)}"
    elif best is not None:
        row["why"] = _slower(limits, best)
    return row


def _estimated_row(way: Candidate, best: CompiledCandidate, estimator: Estimator) -> Report:
    x = estimator.estimate(way)
    there = (estimator.chip.memory or 0) * 2**30
    limits = best.report["bound"]
    if x.peak > _ROOM * there:
        why = f"would not fit: about {_gib(x.peak)} of {_gib(there)}"
    elif rank(x.bound) >= rank(limits):
        why = "would be better by this estimate; --compiles were used up"
    else:
        why = _slower(x.bound, limits)
    row = way._asdict() | {"way": str(way), "compiled": False, "peak": x.peak}
    return row | {"bound": dict(x.bound), "why": why}


def _slower(bound: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """Return what a candidate spends more time on than the winner, for the same work."""
    scale = [x["mfu_overlapped"] and x["mfu_alone"] for x in (bound, best)]
    total = [sum(value or 0 for value in x["seconds"].values()) for x in (bound, best)]
    work = [mfu * seconds for mfu, seconds in zip(scale, total, strict=True)]  # ideal seconds
    more = {
        name: (bound["seconds"][name] or 0) / work[0] - (best["seconds"][name] or 0) / work[1]
        for name in bound["seconds"]
    }
    name = max(more, key=lambda key: more[key])
    words = {
        "compute": "computes more",
        "memory": "moves more in memory",
        "links": "receives more from its neighbors",
        "network": "receives more from other slices",
    }
    return f"{words[name]}: {more[name]:+.2f} s for each second of the model's work at the peak"


def flags(way: Candidate, model: Model) -> str:
    """Write the flags of `vidgen train` that train as a candidate does.

    Args:
      way: the candidate.
      model: whose networks with the setting `remat` get the candidate's.

    Returns:
      One line, quoted for a shell.
    """
    parts = [f"--gin_file={way.mesh}", f'--gin.MESH_SHAPE="{way.shape}"']
    parts += [f"--gin.BATCH_SIZE={way.batch}", f"--gin.Trainer.microbatches={way.microbatches}"]
    networks = [type(network).__name__ for network in networks_with_remat(model).values()]
    parts += [f"--gin.{network}.remat=\"'{way.remat}'\"" for network in networks]
    return " ".join(parts)


def table(report: Report) -> str:
    """Write the report of a search as text.

    Args:
      report: of `Fit.report`.

    Returns:
      Lines, without an end of the last.
    """
    best = report["best"]
    head = f"{report['model']} on {report['chips']} ({report['topology']})"
    lines = [
        f"{head}: {report['candidates']} ways estimated, {report['compiled']} of them compiled"
    ]
    if best is None:
        lines.append("  none of those that were compiled fits:")
    else:
        lines += [
            f"  best: {best['way']}",
            f"    peak {_gib(best['peak'])}, MFU at most {_percent(best['bound'])}",
            f"    {best['flags']}",
            "  those that lost:",
        ]
    for row in report["lost"]:
        how = "compiled" if row["compiled"] else "estimated"
        mfu = f", MFU at most {_percent(row['bound'])}" if row["bound"] else ""
        lines += [f"    {row['way']}", f"      {how}{mfu}; {row['why']}"]
    return "\n".join(lines)


def _percent(bound: Mapping[str, Any]) -> str:
    return f"{bound['mfu_overlapped']:.1%}, {bound['mfu_alone']:.1%} where nothing overlaps"


def _gib(count: int | float | None) -> str:
    return "more than there is" if count is None else f"{count / 2**30:,.1f} GiB"
