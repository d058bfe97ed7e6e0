"""`vidgen plan`: its flags, and the run they ask for: a plan, or the search for the best one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vidgen.cli.generate_flags import COUNT, SWITCH, Row

ROWS: tuple[Row, ...] = (
    ("--json", SWITCH, "print one JSON object"),
    ("--details", SWITCH, "of several models, print everything about each"),
    ("--compile", SWITCH, "compile the training step: exact memory, but slower"),
    ("--sampling", SWITCH, "compile a step that samples a whole clip: exact memory, but slower"),
    ("--student_steps", {"type": int, "metavar": "N"}, "with --sampling: of students of so many "
     "steps, as vidgen train makes them of these models"),
    ("--captions", {"type": int, "metavar": "N"}, "print only where N captions are best encoded by "
     "T5: beside the model, or once by vidgen encode"),
    ("--epochs", {"type": float, "default": 1.0, "metavar": "E"}, "with --captions, how often "
     "trainings read each; default: 1"),
    ("--explain", {"default": "", "metavar": "PATH"}, "print axis by axis why the parameters with "
     "this in their path are sharded as they are"),
    ("--topology", {"default": "", "metavar": "NAME"}, "compile for TPUs that need not be here: "
     "v5p:2x2x1, v6e:2x2 (needs vidgen[tpu])"),
    ("--effort", {"default": "", "metavar": "LEVEL"}, "effort of the compiler, O0 to O3; the "
     "least, O0, compiles large U-Nets in minutes"),
    ("--fit", SWITCH, "search the mesh, batch (at most BATCH_SIZE), remat and microbatches that "
     "keep --chips busiest, with the compiler's word on the best few; print why the others lost"),
    ("--chips", {"default": "", "metavar": "NAME"}, "with --fit, the slice: v5p:64, v6e:256, or "
     "v5p:64*2 for two slices (needs vidgen[tpu])"),
    ("--compiles", COUNT | {"default": 3}, "with --fit, how many ways the compiler gets at most, "
     "and two more where none fits; default: 3"),
)  # fmt: skip


def run(flags: argparse.Namespace, build: Callable[..., tuple[Any, str]]) -> Any:
    """Print the plan that the flags ask for.

    Args:
      flags: of the command.
      build: builds a run from its class path and fields; returns it and its configuration.

    Returns:
      The report of the plan, or of the search for the best one; None with --explain, and with
      --dry_run, which prints the configuration.

    Raises:
      ValueError: flags are wrong together, or the configuration cannot be planned.
    """
    if bool(flags.chips) != flags.fit or (flags.fit and (flags.topology or flags.compile)):
        raise ValueError(
            "--fit and --chips=v5p:64 go together, and choose what --topology and --compile say."
        )
    if flags.captions is None:
        run, names = "plan.estimate:Plan", ("compile", "sampling", "student_steps", "topology")
        names += ("effort", "details", "explain")
    else:
        run, names = "plan.text_encoding:TextPlan", ("captions", "epochs", "topology")
    fields = {name: getattr(flags, name) for name in names} | {"as_json": flags.json}
    plan, config = build(run, **fields)
    if flags.dry_run:
        print(config, end="")
        return None
    return _fit(flags, plan) if flags.fit else plan()


def _fit(flags: argparse.Namespace, plan: Any) -> Any:
    from vidgen.config import gin_utils
    from vidgen.plan import candidates
    from vidgen.plan.fit import Fit

    meshes = {}
    for file in candidates.MESHES:
        with gin_utils.session([file]):
            meshes[file] = gin_utils.build(gin_utils.named_by("MESH"))
    chosen = {"chips": flags.chips, "compiles": flags.compiles, "as_json": flags.json}
    return Fit(plan=plan, meshes=meshes, **chosen)()
