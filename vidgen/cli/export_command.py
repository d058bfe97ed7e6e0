"""From the flags of `vidgen export` to the run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vidgen.cli.generate_flags import COUNT, FILE, Row, as_path

ROWS: tuple[Row, ...] = (
    ("model", {"type": as_path, "metavar": "MODEL"}, "a folder that vidgen train wrote, of one "
     "model or with a folder for each, or a model that comes with vidgen"),
    ("-o --output", {"default": "", "type": as_path, "metavar": "FOLDER"}, "the folder to write; "
     "also gs://... or hf://OWNER/NAME"),
    ("--weights", {"choices": ("full", "8bit"), "default": "full"}, "full: float32; 8bit: large "
     "kernels in 8 bits a value, a quarter of the size"),
    ("--step", COUNT, "training step of the checkpoint to write; default: the last"),
    ("--title", {"default": "", "metavar": "TEXT"}, "of the model card; default: the folder's "
     "name"),
    ("--license", {"default": "", "metavar": "NAME"}, "as the Hub spells it, such as apache-2.0"),
    ("--data", {"default": "", "metavar": "TEXT"}, "what it was trained on, for the model card"),
    ("--metrics", FILE | {"action": "append", "default": []}, "a result of vidgen evaluate -o "
     "FILE.json, for the model card; repeatable"),
    ("--prompt", {"action": "append", "metavar": "TEXT"}, "of a sample clip; repeatable; default: "
     "those of training"),
    ("--samples", COUNT | {"default": 4}, "make at most so many sample clips; default: 4"),
    ("--gin_file", FILE | {"action": "append", "default": []}, "a .gin file of yours that imports "
     "modules which the model needs; repeatable"),
)  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Write the folder of a trained model, and print its path.

    Args:
      flags: of the command, and `bindings`, of which there must be none.

    Raises:
      ValueError: a flag does not fit, or a result is none of `vidgen evaluate`.
      OSError: something that is named is not there, or the folder cannot be written.
    """
    if flags.bindings:
        raise ValueError(
            f"vidgen export takes no --gin.{flags.bindings[0]}: it hands on what was trained."
        )
    from vidgen.evals.report import results
    from vidgen.inference.export import Export
    from vidgen.inference.model_card import CardText

    card = CardText(
        title=flags.title,
        license=flags.license,
        data=flags.data,
        results=tuple(results.load(Path(path)) for path in flags.metrics),
    )
    folder = Export(
        model=flags.model,
        output=flags.output,
        eight_bits=flags.weights == "8bit",
        step=flags.step,
        prompts=flags.prompt,
        samples=flags.samples,
        card=card,
        gin_files=flags.gin_file,
    )()
    print(folder)
