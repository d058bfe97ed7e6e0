"""`vidgen merge` and `vidgen average`: models made of a training run (train/derived_models.py)."""

from __future__ import annotations

import argparse
import sys

from vidgen.cli import startup
from vidgen.cli.generate_flags import FILE, Row

_OUTPUT = FILE | {"required": True, "metavar": "FOLDER"}
_STEP: Row = ("--step", {"type": int, "metavar": "N"}, "use this checkpoint; default: the newest")
MERGE: tuple[Row, ...] = (
    ("model", {"metavar": "MODEL_DIR"}, "the folder of a LoRA run (experiments/lora.gin)"),
    ("-o --output", _OUTPUT, "write config.gin and model.safetensors there"),
    _STEP,
)  # fmt: skip
AVERAGE: tuple[Row, ...] = (
    ("model", {"metavar": "MODEL_DIR"}, "a run with snapshots (experiments/post_hoc_ema.gin)"),
    ("--length", {"type": float, "required": True, "metavar": "SIGMA"}, "relative length of the "
     "average, its standard deviation over the steps of the run: 0.1; at most 0.2887, their mean"),
    ("-o --output", _OUTPUT, "write config.gin and model.safetensors there"),
    _STEP,
)  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Run the command whose flags these are; only `average` has a length."""
    if flags.bindings:
        raise ValueError(f"this command takes no --gin.{flags.bindings[0]}; it has no settings.")
    startup.setup_process(flags.debug)
    from vidgen.train import derived_models  # which is heavy

    if hasattr(flags, "length"):
        made = derived_models.average(flags.model, flags.length, flags.output, flags.step)
    else:
        made = derived_models.merge(flags.model, flags.output, flags.step)
    print(f"{made.path}: {made.what}")
    if made.warning:
        print(f"vidgen: note: {made.warning}", file=sys.stderr)
