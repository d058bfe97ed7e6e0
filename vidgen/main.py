"""The `vidgen` command: sub-commands, flags, process start, and errors in one sentence.

    flags -> files and bindings -> gin builds the run (wrong input stops here, nothing is written)
          -> MODEL_DIR/config.gin -> the run is called

A sub-command is a file in `vidgen/runs/` whose frozen dataclass gin fills in: `runs/<name>.gin` is
read first, then every --gin_file, then every --gin.NAME=VALUE, the last word winning. Exit status
0: done; 1: a fault of ours; 2: wrong input; 130: stopped by the user.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vidgen import __version__

_EXAMPLES = {
    "": """examples:
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin.MODEL_DIR="'runs/a'"
  vidgen generate "a tiger moving right on a green background" --model=runs/a -o tiger.mp4
  vidgen plan --gin_file=experiments/imagen_base_paper.gin
  vidgen COMMAND --help""",
    "train": """examples:
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin.MODEL_DIR="'runs/a'"
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin_file=data/folder.gin \\
      --gin.DATA_DIR="'my_videos'" --gin.MODEL_DIR="'runs/b'" --gin.TRAIN_STEPS=20000

The same command again continues from the last checkpoint in MODEL_DIR.""",
    "generate": """examples:
  vidgen generate "a tiger moving right on a green background" --model=runs/a -o tiger.mp4
  vidgen generate --prompts_file=prompts.txt --model=runs/a -o clips.webm --num_samples=4 \\
      --guidance=3 --steps=64 --sampler=ddim

The suffix chooses the format: .mp4, .webm, .gif, .webp, .png (a sheet of frames) or .npy. Several
clips are numbered: clips-000.webm, clips-001.webm, ... A file of that name is replaced.
The same seed, prompt, model and settings give the same clip, alone or among others.""",
    "plan": """examples:
  vidgen plan --gin_file=experiments/imagen_base_paper.gin
  vidgen plan --gin_file=experiments/imagen_base_demo.gin --gin.BATCH_SIZE=64 --compile --json""",
    "assets": """examples:
  vidgen assets list
  vidgen assets fetch minilm
  VIDGEN_ASSETS=/media/stick vidgen assets path minilm""",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        sys.stderr.write(f"vidgen: error: {message} (see {self.prog} --help).\n")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `vidgen` command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    bindings = [a.removeprefix("--gin.") for a in arguments if a.startswith("--gin.")]
    flags = _parser().parse_args([a for a in arguments if not a.startswith("--gin.")])
    flags.bindings = bindings
    try:
        flags.command(flags)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _fail("stopped by the user.", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if flags.debug:
            raise
        return _report(error)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vidgen", description="Text to video.", epilog=_EXAMPLES[""])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"vidgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help_text, command, add in (
        ("train", "train a model, or continue to", _train, _add_train),
        ("generate", "make videos from prompts", _generate, _add_generate),
        ("plan", "parameters, FLOPs and memory of a configuration", _plan, _add_plan),
        ("assets", "third-party files: what they are, where they are", _assets, _add_assets),
    ):
        sub = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=_EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--debug", action="store_true", help="show the stack trace of an error")
        sub.set_defaults(command=command)
        add(sub)
    return parser


def _add_gin(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a .gin file, from here or from gin_configs/; repeatable, later ones win",
    )
    group.add_argument(
        "--gin.NAME=VALUE",
        dest="_shown_in_help_only",
        action="store_true",
        help="set a macro or a parameter, e.g. --gin.BATCH_SIZE=8; repeatable",
    )
    group.add_argument(
        "--dry_run", action="store_true", help="print the resolved configuration and stop"
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_gin(parser)
    parser.add_argument(
        "--distributed",
        action="store_true",
        default=os.environ.get("VIDGEN_DISTRIBUTED", "") not in ("", "0"),
        help="one of several processes that train together (also: VIDGEN_DISTRIBUTED=1, or "
        "JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID)",
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help="what to show, one quoted sentence each")
    add("--prompts_file", metavar="FILE", help="more prompts, one a line")
    add("--model", required=True, metavar="MODEL_DIR", help="a folder that vidgen train wrote")
    add("-o", "--output", default="out.mp4", metavar="FILE", help="default: out.mp4")
    add("--seed", type=int, default=0, help="default: 0")
    add("--num_samples", type=int, default=1, metavar="N", help="clips for each prompt")
    add(
        "--guidance",
        type=float,
        metavar="W",
        help="how strongly to follow the prompt: (1 + W) * with - W * without; 0 is unguided",
    )
    add("--steps", type=int, metavar="N", help="sampling steps")
    add("--sampler", metavar="KIND", help="ddim, ancestral, stochastic or dpmpp_2m")
    add("--batch_size", type=int, metavar="N", help="clips made at a time")
    add("--step", type=int, metavar="N", help="checkpoint to use; default: the last")
    _add_gin(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--compile", action="store_true", help="compile the training step: real memory, slower"
    )
    _add_gin(parser)


def _add_assets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "fetch", "path"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")


# Sub-commands. Everything heavy is imported here, after the flags are known to be right. -------


def _train(flags: argparse.Namespace) -> None:
    _start_jax(flags, flags.distributed)
    _run(flags, "train", "Train", flags.gin_file, flags.bindings, write_config=True)


def _plan(flags: argparse.Namespace) -> None:
    _start_jax(flags)
    given = {"as_json": flags.json, "compile": flags.compile}
    _run(flags, "plan", "Plan", flags.gin_file, flags.bindings, **given)


def _generate(flags: argparse.Namespace) -> None:
    config = Path(flags.model).expanduser() / "config.gin"
    if not config.is_file():
        raise FileNotFoundError(
            f"--model={flags.model}: there is no {config}; name a folder that vidgen train wrote."
        )
    _start_jax(flags)
    from vidgen.runs import generate

    prompts = generate.read_prompts(flags.prompts, flags.prompts_file)
    optional = {
        "steps": flags.steps,
        "sampler": flags.sampler,
        "guidance": flags.guidance,
        "batch_size": flags.batch_size,
        "checkpoint_step": flags.step,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    given |= {"prompts": prompts, "output": flags.output}
    given |= {"seed": flags.seed, "num_samples": flags.num_samples}
    files = [str(config), *flags.gin_file]
    bindings = [f"MODEL_DIR={flags.model!r}", *flags.bindings]
    _run(flags, "generate", "Generate", files, bindings, **given)


def _assets(flags: argparse.Namespace) -> None:
    from vidgen import assets

    if flags.bindings:
        raise ValueError(f"vidgen assets takes no --gin.{flags.bindings[0]}; it has no settings.")
    for name in flags.names:
        assets.get(name)
    if flags.action == "list":
        for row in assets.listing():
            if not flags.names or row.name in flags.names:
                print(f"{row.name}: {row.what}")
                print(f"  {row.size / 1e6:.0f} MB, license {row.license}, {row.credit}")
                print(f"  {row.where or f'not here; vidgen assets fetch {row.name}'}")
        return
    find = assets.fetch if flags.action == "fetch" else assets.locate
    for name in flags.names or sorted(assets.ASSETS):
        print(find(name))


def _run(
    flags: argparse.Namespace,
    mode: str,
    class_name: str,
    files: Sequence[str],
    bindings: Sequence[str],
    *,
    write_config: bool = False,
    **given: Any,
) -> None:
    """Build the run mode `vidgen.runs.<mode>.<class_name>` through gin, then call it."""
    from vidgen import gin_utils

    with gin_utils.session([f"runs/{mode}.gin", *files], bindings):
        run_class = getattr(importlib.import_module(f"vidgen.runs.{mode}"), class_name)
        run: Any = gin_utils.build(run_class, **given)
        config = gin_utils.operative_config()
        unused = gin_utils.unused_bindings()
    for name in (binding.partition("=")[0].strip() for binding in flags.bindings):
        if any(_is_short_for(name, full) for full in unused):
            why = "nothing reads it, or the files bind it in a scope (such as base/), which wins"
            print(f"vidgen: note: --gin.{name} has no effect here: {why}.", file=sys.stderr)
    if flags.dry_run:
        print(config, end="")
        return
    if not write_config:
        run()
        return
    from vidgen.runs.config_file import saved_config

    with saved_config(run.model_dir, config):
        run()


def _is_short_for(name: str, full: str) -> bool:
    """True of `s/Trainer.ema_decay` and `s/vidgen.train.trainer.Trainer.ema_decay`."""
    scope, _, selector = name.rpartition("/")
    full_scope, _, full_selector = full.rpartition("/")
    return scope == full_scope and f".{full_selector}".endswith(f".{selector}")


def _start_jax(flags: argparse.Namespace, distributed: bool = False) -> None:
    """Set up logging, the cache of compiled programs and, where declared, the process group."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vidgen: %(message)s"))
    logger = logging.getLogger("vidgen")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    from absl import logging as absl_logging

    # Orbax speaks through absl: it warns of what is as it should be, and prints the stack of every
    # error that it then raises, which becomes our own sentence.
    absl_logging.set_verbosity(absl_logging.DEBUG if flags.debug else absl_logging.FATAL)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "vidgen", "xla"))
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not distributed and not coordinator:
        return
    import jax

    # On Cloud TPU, Slurm and Kubernetes jax finds the numbers itself; elsewhere they are given.
    numbers = {
        "num_processes": os.environ.get("JAX_NUM_PROCESSES"),
        "process_id": os.environ.get("JAX_PROCESS_ID"),
    }
    known: dict[str, Any] = {name: int(value) for name, value in numbers.items() if value}
    jax.distributed.initialize(coordinator_address=coordinator, **known)


# Errors -----------------------------------------------------------------------------------------


def _report(error: Exception) -> int:
    """Tell the user in one sentence, and return the exit status."""
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    text = " ".join(str(error).split()) or type(error).__name__
    full = any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain)
    if full or ("No space left on device" in text and not isinstance(error, ValueError)):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return _fail(f"the disk is full{where}; free some space and run the same command again.")
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return _fail("out of memory; lower BATCH_SIZE (or --batch_size), or use more devices.")
    if isinstance(error, OSError) and error.strerror and error.filename:
        return _fail(f"{error.filename}: {error.strerror}.")
    if isinstance(error, (ValueError, OSError)):
        return _fail(text)
    kind = type(error).__name__
    return _fail(f"internal fault, {kind}: {text} (--debug shows where; please report it).", 1)


def _fail(sentence: str, status: int = 2) -> int:
    print(f"vidgen: error: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
