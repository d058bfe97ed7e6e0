"""The flags of `vidgen evaluate`."""

from __future__ import annotations

import argparse

from vidgen.cli.generate_flags import COUNT, EACH, FILE, SAMPLING, SWITCH, Row, add_rows

_GENERAL: tuple[Row, ...] = (
    ("inputs", FILE | {"metavar": "CLIPS", "nargs": "*"}, "folders of videos, arrays, or results "
     "(.json)"),
    ("--model", FILE | {"metavar": "MODEL"}, "a folder that vidgen train wrote, or a model that "
     "comes with vidgen"),
    ("--stories", FILE, "a task file of StoryBench, for --protocol=storybench"),
    ("--inception", FILE, "weights of Inception-v3, for FID: pt_inception-2015-12-05-6726825d.pth"),
    ("--clip", FILE | {"metavar": "FOLDER"}, "a CLIP model of Hugging Face, for the CLIP score"),
    ("-o --output", FILE, "write the result as JSON"),
    ("--html", FILE, "write a page with videos, plots and the protocol"),
    ("--cache", FILE | {"metavar": "FOLDER"}, "where clips and features are kept; default: "
     "vidgen/evaluations in the user's cache"),
    ("--protocol", {"metavar": "NAME"}, "a file of gin_configs/evaluations/; see below"),
    ("--metrics", {"metavar": "NAMES"}, "metrics to compute, as a,b,c, or help to list them; "
     "default: the protocol's, or all that can be computed"),
    ("--clips", COUNT, "number of true clips; default: the protocol's, or 64"),
    ("--samples", COUNT, "clips that the model makes for each true one; default: 1"),
    ("--given", COUNT, "true frames that the model is given, to predict the rest"),
    ("--seed", COUNT, "seed of the choice of clips and of all noise; default: 0"),
    ("--batch_size", {"metavar": "N"}, "clips at a time; default: 8"),
    ("--json", SWITCH, "print the result as one JSON object"),
)  # fmt: skip
_FRAMES: tuple[Row, ...] = (
    ("--frames", COUNT, "read the first N frames of a file; default: all"),
    ("--stride", COUNT | {"default": 1}, "read every N-th frame"),
    ("--fps", {"type": float, "metavar": "N"}, "read at this rate; default: the file's own"),
    ("--size", {"metavar": "HxW"}, "crop and resize to this size; default: the file's own"),
)
_MODEL: tuple[Row, ...] = (
    ("--until", {"metavar": "STAGE"}, "the last stage of a cascade to run"),
    ("--step", EACH, "training step of the checkpoint to use; default: the last"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `vidgen evaluate` but those of the configuration.

    Args:
      parser: of the sub-command; it is changed.
    """
    add_rows(parser, _GENERAL)
    add_rows(parser.add_argument_group("which frames of files"), _FRAMES)
    group = parser.add_argument_group("sampling from a model")
    add_rows(group, (*_MODEL, *SAMPLING))
