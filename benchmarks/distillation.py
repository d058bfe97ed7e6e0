"""Time and quality of a distilled cascade beside its teachers.

    python benchmarks/distillation.py --teachers=runs/cascade --students=runs/cascade8 \\
        --teacher_steps=128,base=256

Both folders hold one training folder a stage, named by the stage. Prompts are combinations of
subject, motion and background, half of which training never showed. The clips of the last stage are
read with vidgen/sprites/probe.py, made smaller first. Seconds are those of sampling: what JAX
says that it spent on lowering and compiling is taken out and shown apart, weights are read before.
Beside that, how far each student follows its guidance weight: guidance_response.py.
One JSON line goes to STUDENTS/distillation.jsonl, Markdown tables to standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging
from guidance_response import LOGSNRS, guidance_response
from sprite_probe import scenes, triples_of

from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.data.pipeline import Pipeline
from vidgen.data.video.encode import write_video
from vidgen.imagen.students import StudentSchedule
from vidgen.inference import per_stage, stages
from vidgen.inference.generate import Generate
from vidgen.inference.sampling_settings import Sampling
from vidgen.sprites import probe
from vidgen.sprites.sprites import Sprites, Triple
from vidgen.train.batches import encode_batch

SPLITS = ("train", "held_out")
SHARES = ("subject", "motion", "background", "all", "error")


def questions(folder: str, count: int) -> tuple[Sprites, dict[str, list[Triple]], list[str]]:
    """The world of the first stage, `count` triples of each split, and all their captions."""
    first = stages.find(folder)[0]
    triples, captions = {}, []
    with gin_utils.session(["runs/train.gin", str(first / "config.gin")]):
        for split in SPLITS:
            world = gin_utils.build(Sprites, split=split, templates=1)
            asked = scenes(world, count)
            triples[split] = triples_of(asked)
            captions += [world.caption(scene) for scene in asked]
    return world, triples, captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept(stages.Stage):
    """A stage that has read its weights from disk before the clock runs."""

    kept: Any

    def load(self, step: int | None = None, mesh: Any = None) -> Any:
        """The averaged weights, on the device."""
        return jax.device_put(self.kept)


def kept(stage: stages.Stage) -> Kept:
    """`stage` with its weights on the host."""
    params = jax.device_get(stage.load())
    return Kept(
        model=stage.model, text_encoder=stage.text_encoder, model_dir=stage.model_dir, kept=params
    )


# Not tracing: that of a program called by another counts twice.
COMPILING = ("jaxpr_to_mlir_module_duration", "backend_compile_duration")


@contextlib.contextmanager
def compiling() -> Iterator[list[float]]:
    """Seconds that JAX spends on making programs, while the block runs."""
    seconds: list[float] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.removeprefix("/jax/core/compile/") in COMPILING:
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def cascade(flags: argparse.Namespace, folder: str, captions: list[str], steps: str | None) -> Any:
    """A run that generates a clip for every caption with the whole cascade in `folder`."""
    folders = stages.find(folder, None, flags.until)
    sessions = Sessions(["runs/generate.gin"], [], [])
    given: dict[str, Any] = {"prompts": captions, "batch_size": flags.batch_size}
    given["stages"] = [
        kept(stages.build_trained(sessions, stages.Stage, folder)) for folder in folders
    ]
    if steps is not None:
        chosen = per_stage.parse("teacher_steps", steps, per_stage.whole)
        given["sampling"] = Sampling(steps=chosen)
    return sessions.build(Generate, **given)


def timed(run: Generate) -> tuple[dict[str, float], float, list[np.ndarray]]:
    """Seconds of sampling by stage, seconds of compiling, and the clips of the last stage."""
    seconds: dict[str, float] = {}
    last, clips = run.chain.names[-1], []
    with compiling() as programs:
        began, compiled = time.perf_counter(), 0.0
        for model, _, video in run.stage_videos():
            spent = time.perf_counter() - began - (sum(programs) - compiled)
            seconds[model.name] = seconds.get(model.name, 0.0) + spent
            began, compiled = time.perf_counter(), sum(programs)
            if model.name == last:
                clips.append(video)
    return seconds, sum(programs), clips


def quality(
    flags: argparse.Namespace, clips: list[np.ndarray], world: Sprites, triples: dict[str, list]
) -> dict[str, dict[str, float]]:
    """What the probe reads in the clips, by split."""
    found, start = {}, 0
    for split in SPLITS:
        own = clips[start : start + len(triples[split])]
        start += len(own)
        small = [probe.smaller(clip, flags.probe_size) for clip in own]
        readings = [probe.read(clip, world) for clip in small]
        shares = probe.accuracy(readings, triples[split])
        found[split] = shares | {"error": float(np.mean([r.error for r in readings]))}
    return found


def measure(
    flags: argparse.Namespace, folder: str, asked: tuple[Sprites, dict, list], steps: str | None
) -> dict[str, Any]:
    """Time, evaluations of the networks and quality of one cascade."""
    world, triples, captions = asked
    run = cascade(flags, folder, captions, steps)
    seconds, compiled, clips = timed(run)
    write_video(Path(flags.students) / f"{Path(folder).name}.png", np.stack(clips[:4]), 8.0)
    models = run.chain.stages
    return {
        "folder": folder,
        "steps": {m.name: m.sampler.steps for m in models},
        "evaluations": {m.name: evaluations(m) for m in models},
        "seconds": seconds,
        "compile_seconds": compiled,
        "quality": quality(flags, clips, world, triples),
    }


def evaluations(model: Any) -> int:
    """Of the network for one clip: two a step where guidance needs both halves."""
    both = not model.guidance_input and not model.guidance.is_unguided
    return model.sampler.steps * (2 if both else 1)


def responses(flags: argparse.Namespace, teachers: str, students: str) -> dict[str, Any]:
    """How far each student follows its guidance weight, by stage and log-SNR."""
    found = {}
    own = {folder.name: folder for folder in stages.find(students, None, flags.until)}
    for folder in stages.find(teachers, None, flags.until):
        sessions = Sessions(["runs/generate.gin"], [], [])
        teacher = stages.build_trained(sessions, stages.Stage, folder)
        student = stages.build_trained(sessions, stages.Stage, own[folder.name])
        if not student.model.guidance_input:
            continue  # left as it was, as in some rows of the paper's table
        with gin_utils.session(["runs/train.gin", str(own[folder.name] / "config.gin")]):
            weights = gin_utils.build(StudentSchedule).weight_range
            data = gin_utils.build(Pipeline, batch_size=8, seed=1).iterator()
        batches: list[Any] = [
            encode_batch(next(data), student.text_encoder) for _ in range(flags.batches)
        ]
        found[folder.name] = [
            row._asdict()
            for row in guidance_response(
                student.model,
                student.load(),
                teacher.model,
                teacher.load(),
                batches,
                weights=weights,
            )
        ]
    return found


def response_table(found: dict[str, Any]) -> str:
    """Slope and cosine of every student by log-SNR, as Markdown."""
    levels = [f"{logsnr:g}" for logsnr in LOGSNRS]
    lines = ["| follows its guidance: slope, cosine at log-SNR | " + " | ".join(levels) + " |"]
    lines.append("|---" * (1 + len(levels)) + "|")
    for stage, rows in found.items():
        cells = [f"{row['slope']:.2f}, {row['cosine']:.2f}" for row in rows]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]], clips: int) -> str:
    """The rows as Markdown: time, then quality."""
    lines = [
        "| cascade | evaluations | compiling, s | sampling, s | sampling, s a clip | "
        + " | ".join(f"{name}, seen / held out" for name in SHARES)
        + " |",
        "|---" * (5 + len(SHARES)) + "|",
    ]
    for name, row in rows.items():
        sampling = sum(row["seconds"].values())
        cells = [name, f"{sum(row['evaluations'].values())}"]
        cells += [f"{row['compile_seconds']:.1f}", f"{sampling:.1f}", f"{sampling / clips:.2f}"]
        cells += [" / ".join(f"{row['quality'][s][x]:.2f}" for s in SPLITS) for x in SHARES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stage_table(rows: dict[str, dict[str, Any]]) -> str:
    """Seconds of sampling of every stage."""
    teachers, students = rows["teachers"], rows["students"]
    lines = ["| stage | teacher: steps, s | student: steps, s | ratio |", "|---|---|---|---|"]
    for stage, slow in teachers["seconds"].items():
        fast = students["seconds"][stage]
        steps = teachers["steps"][stage], students["steps"][stage]
        lines.append(
            f"| {stage} | {steps[0]}, {slow:.2f} | {steps[1]}, {fast:.2f} | {slow / fast:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure both cascades."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--teachers", required=True, metavar="DIR", help="a cascade: one folder a stage")
    add("--students", required=True, metavar="DIR", help="its students, likewise")
    add("--clips", type=int, default=32, help="clips, half of them held out; default: 32")
    add("--batch_size", type=int, default=8, help="clips made at a time; default: 8")
    add("--teacher_steps", metavar="PER-STAGE", help="as for vidgen generate --steps")
    add("--until", metavar="STAGE", help="the last stage to run")
    add("--batches", type=int, default=4, help="of 8 clips, for the response; default: 4")
    add("--probe_size", type=int, default=32, help="side of what the probe reads; default: 32")
    flags = parser.parse_args()
    logging.getLogger("vidgen").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.FATAL)
    asked = questions(flags.teachers, flags.clips // 2)
    rows = {
        "teachers": measure(flags, flags.teachers, asked, flags.teacher_steps),
        "students": measure(flags, flags.students, asked, None),
    }
    total = {name: sum(row["seconds"].values()) for name, row in rows.items()}
    report = rows | {
        "guidance_response": responses(flags, flags.teachers, flags.students),
        "speedup": total["teachers"] / total["students"],
        "clips": len(asked[2]),
        "batch_size": flags.batch_size,
        "device": jax.devices()[0].device_kind,
    }
    with open(Path(flags.students) / "distillation.jsonl", "a") as log:
        log.write(json.dumps(report) + "\n")
    print(table(rows, len(asked[2])))
    print()
    print(stage_table(rows))
    print()
    print(response_table(report["guidance_response"]))
    print(f"\n{report['speedup']:.1f} times faster on {report['device']}, {len(asked[2])} clips")


if __name__ == "__main__":
    main()
