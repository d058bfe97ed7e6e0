"""The flags of `vidgen evaluate`."""

from __future__ import annotations

import argparse

from vidgen.cli import generate_flags
from vidgen.cli.generate_flags import as_path

EXAMPLES = """examples:
  vidgen evaluate --model=imagen_demo --clips=64            a text-to-video model, or a cascade
  vidgen evaluate --model=runs/phenaki/cvivit               a tokenizer: what comes back of clips
  vidgen evaluate --model=runs/cascade/ssr1                 a super-resolution stage
  vidgen evaluate --model=runs/a --given=5                  a model that goes on from 5 frames
  vidgen evaluate --model=runs/a --gin_file=data/folder.gin --gin.DATA_DIR="'videos'"
                                                            with other data than its own
  vidgen evaluate made/ real/                               two folders of videos
  vidgen evaluate made.npz real.npy --metrics=fvd,kvd       two arrays (n, t, h, w, 3)
  vidgen evaluate made/                                     one set, by itself
  vidgen evaluate --model=runs/a --protocol=ucf101 --gin.TFDS_DIR="'data'"
                                                            a benchmark of the papers
  vidgen evaluate --model=runs/phenaki --protocol=storybench --stories=story_gen.json -o raw/
                                                            StoryBench: films as .npz
  vidgen evaluate a.json b.json --html=both.html            two results side by side
  vidgen evaluate --model=runs/a -o a.json --html=a.html    a file, and a page with videos

Clips and features are kept, so the same command goes on where it was stopped, and other metrics of
the same clips are quick. `vidgen evaluate --metrics=help` lists the metrics and what each needs; by
default all that can be computed of the clips are.

Protocols, each with what you must bring in its file in gin_configs/evaluations/:
  ucf101 bair kinetics600 moments_in_time msrvtt coco storybench"""


def add(parser: argparse.ArgumentParser) -> None:
    """All flags but those of the configuration."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    _add_files(parser)
    add("--protocol", metavar="NAME", help="a file of gin_configs/evaluations/; see below")
    add("--metrics", metavar="NAMES", help="a,b,c, or help; default: the protocol's, or all")
    add("--clips", type=int, metavar="N", help="true clips; default: the protocol's, 64")
    add("--samples", type=int, metavar="N", help="clips that a model makes for each; default: 1")
    add("--given", type=int, metavar="N", help="frames that a model is given, to predict the rest")
    add("--seed", type=int, metavar="N", help="of the choice of clips, and of noise; default: 0")
    add("--batch_size", metavar="N", help="clips at a time; default: 8")
    add("--json", action="store_true", help="print the result as one JSON object")
    group = parser.add_argument_group("which frames of files")
    group.add_argument("--frames", type=int, metavar="N", help="the first N; default: all")
    group.add_argument("--stride", type=int, default=1, metavar="N", help="every N-th frame")
    group.add_argument("--fps", type=float, metavar="N", help="read at this rate; default: own")
    group.add_argument("--size", metavar="HxW", help="crop and resize to this; default: as it is")
    group = parser.add_argument_group("sampling, of a model")
    group.add_argument("--until", metavar="STAGE", help="the last stage of a cascade to run")
    group.add_argument("--step", metavar="PER-STAGE", help="checkpoint to use; default: the last")
    generate_flags.add_sampling(group)


def _add_files(parser: argparse.ArgumentParser) -> None:
    """What is read and written."""
    for name, metavar, text in (
        ("--model", "MODEL", "a folder that vidgen train wrote, or one of the zoo"),
        ("--stories", "FILE", "a task file of StoryBench, for --protocol=storybench"),
        ("--inception", "FILE", "weights of Inception-v3, for FID: "
         "pt_inception-2015-12-05-6726825d.pth"),
        ("--clip", "FOLDER", "a CLIP model of Hugging Face, for the CLIP score"),
        ("--html", "FILE", "write a page with videos, plots and the protocol"),
        ("--cache", "FOLDER", "where clips and features are kept; default: vidgen/evaluations in "
         "the user's cache"),
    ):  # fmt: skip
        parser.add_argument(name, type=as_path, metavar=metavar, help=text)
    add = parser.add_argument
    add("-o", "--output", type=as_path, metavar="FILE", help="write the result as JSON")
    text = "folders of videos, arrays, or results (.json)"
    add("inputs", type=as_path, nargs="*", metavar="CLIPS", help=text)
