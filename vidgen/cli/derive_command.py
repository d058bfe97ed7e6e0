"""`vidgen merge` and `vidgen average`: models made of a training run (train/derived_models.py)."""

from __future__ import annotations

import argparse
import sys

from vidgen.cli import startup
from vidgen.cli.generate_flags import FILE, Row

_BOTH: tuple[Row, ...] = (
    ("-o --output", FILE | {"required": True, "metavar": "FOLDER"}, "write config.gin and "
     "model.safetensors there"),
    ("--step", {"type": int, "metavar": "N"}, "use this checkpoint; default: the newest"),
)  # fmt: skip
MERGE: tuple[Row, ...] = (
    ("model", {"metavar": "MODEL_DIR"}, "the folder of a LoRA run (experiments/lora.gin)"),
    *_BOTH,
)
AVERAGE: tuple[Row, ...] = (
    ("model", {"metavar": "MODEL_DIR"}, "a run with snapshots (experiments/post_hoc_ema.gin)"),
    ("--length", {"type": float, "required": True, "metavar": "SIGMA"}, "relative length of the "
     "average, its standard deviation over the steps of the run: 0.1; at most 0.2887, their mean"),
    *_BOTH,
)  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Write the model that `vidgen merge` or `vidgen average` makes of a training run.

    Args:
      flags: of the command, and `bindings`; those of `average` have a `length`.

    Raises:
      ValueError: a binding was set, the run lacks what the command needs, or the output is taken.
      OSError: there is no such run, or the output cannot be written.
    """
    if flags.bindings:
        raise ValueError(f"this command takes no --gin.{flags.bindings[0]}; it has no settings.")
    startup.setup_process(flags.debug)
    from vidgen.train import derived_models  # which is heavy

    if hasattr(flags, "length"):
        derived = derived_models.average(flags.model, flags.length, flags.output, flags.step)
    else:
        derived = derived_models.merge(flags.model, flags.output, flags.step)
    print(f"{derived.path}: {derived.what}")
    if derived.warning:
        print(f"vidgen: note: {derived.warning}", file=sys.stderr)
