"""The `vidgen` command: sub-commands, flags, process start, and errors in one sentence.

    flags -> files and bindings -> gin builds the run (wrong input stops here, nothing is written)
          -> MODEL_DIR/config.gin -> the run is called

A sub-command runs a frozen dataclass that gin fills in: `gin_configs/runs/<name>.gin` is read
first, then every --gin_file, then every --gin.NAME=VALUE, the last word winning. Exit status
0: done; 1: a fault of ours; 2: wrong input; 75: preempted (SIGTERM) and saved, run it again; 130:
stopped by the user.
"""

from __future__ import annotations

import argparse
import functools
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vidgen import __version__
from vidgen.assets import model_folders
from vidgen.cli import check_command as check
from vidgen.cli import derive_command as derive
from vidgen.cli import evaluate_command as evaluate
from vidgen.cli import evaluate_flags, generate_flags, startup
from vidgen.cli import export_command as export
from vidgen.cli import plan_command as plan
from vidgen.cli import web_command as web
from vidgen.cli.errors import fail, sentence
from vidgen.cli.examples import EXAMPLES
from vidgen.cli.generate_flags import FILE, SWITCH, Row, add_rows, as_path
from vidgen.config import gin_files


def _paths(text: str) -> list[str]:
    return [as_path(folder) for folder in text.split(",") if folder]


_GIN: tuple[Row, ...] = (
    ("--gin_file", FILE | {"action": "append", "default": []}, "read this .gin file, from here or "
     "from gin_configs/; repeatable, later ones override"),
    ("--gin.NAME=VALUE", SWITCH | {"dest": "_shown_in_help_only"}, "set a macro or a parameter, as "
     "--gin.BATCH_SIZE=8; repeatable"),
    ("--gin_search_paths", {"type": _paths, "default": [], "metavar": "FOLDER,FOLDER"}, "look for "
     ".gin files, and for what they include, in these folders first"),
    ("--dry_run", SWITCH, "print the resolved configuration and stop"),
)  # fmt: skip
_PROCESSES: tuple[Row, ...] = (
    ("--distributed", SWITCH, "this is one of several processes that work together (also: "
     "VIDGEN_DISTRIBUTED=1, or JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID)"),
)  # fmt: skip
_TRAIN: tuple[Row, ...] = (
    ("--profile", {"default": "", "metavar": "START:STOP"}, "trace the steps START to STOP - 1 "
     "into MODEL_DIR/profile, for TensorBoard or Perfetto"),
    ("--smoke", SWITCH, "first on new hardware: train ten steps, be preempted (exit status 75: run "
     "it again), resume, make a clip and report, all in MODEL_DIR/smoke"),
)  # fmt: skip
_ASSETS: tuple[Row, ...] = (
    ("action", {"choices": ("list", "fetch", "path")}, "what to do with the files"),
    ("names", {"nargs": "*", "metavar": "NAME"}, "which of them; default: all"),
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, as one sentence."""
        raise ValueError(f"{message} (see {self.prog} --help).")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `vidgen` command line, and print an error as one sentence.

    Args:
      argv: the words behind `vidgen`; None: those of this process.

    Returns:
      The exit status; see the module docstring.
    """
    try:
        flags = _parsed(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return fail(str(error))
    try:
        _call(flags)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return fail("stopped by the user.", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if flags.debug:
            raise
        return fail(*sentence(error))


def call(argv: Sequence[str]) -> Any:
    """Run one `vidgen` command line from Python.

    Args:
      argv: the words behind `vidgen`.

    Returns:
      The result of the command; None where it has none.

    Raises:
      ValueError: the command line, or what it asks for, is wrong.
      FileNotFoundError: a file or a model that it names is not there.
    """
    return _call(_parsed(argv))


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    end = argv.index("--") if "--" in argv else len(argv)  # behind it are no flags
    bindings = [word for word in argv[:end] if word.startswith("--gin.")]
    words = [word for word in argv[:end] if not word.startswith("--gin.")]
    flags = _parser().parse_args([*words, *argv[end:]])
    flags.bindings = [binding.removeprefix("--gin.") for binding in bindings]
    return flags


def _call(flags: argparse.Namespace) -> Any:
    with gin_files.searching(getattr(flags, "gin_search_paths", ())):
        if flags.command not in (_assets, derive.run):  # which work by themselves
            _start_jax(flags)
        return flags.command(flags)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vidgen", description="Text to video.", epilog=EXAMPLES[""])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"vidgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    train, both, none = [_GIN, _PROCESSES, _TRAIN], [_GIN, _PROCESSES], [_GIN]
    data = [check.ROWS, _GIN]
    for name, text, command, rows in (
        ("train", "train a model, or resume its training", _train, train),
        ("generate", "generate videos from prompts", _generate, none),
        ("encode", "encode the captions or the videos of a data set, once", _encode, both),
        ("prepare", "cut raw videos into clips to train on", _prepare, none),
        ("check", "read a folder as training would, and say what it holds", check.run, data),
        ("evaluate", "compute metrics of a model, or of two sets of clips", evaluate.run, both),
        ("plan", "count parameters, FLOPs and memory of a configuration", _plan, [plan.ROWS, _GIN]),
        ("web", "serve a page that generates, in a browser", _web, [web.FLAGS, _GIN]),
        ("export", "write a trained model to a folder to hand on", export.run, [export.ROWS]),
        ("merge", "write a LoRA run and its base as one model", derive.run, [derive.MERGE]),
        ("average", "average the weights of a run over any length", derive.run, [derive.AVERAGE]),
        ("assets", "list or fetch the third-party files that vidgen uses", _assets, [_ASSETS]),
    ):
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EXAMPLES.get(name),
            formatter_class=generate_flags.HelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--debug", action="store_true", help="show the stack trace of an error")
        sub.set_defaults(command=command)
        if module := {"generate": generate_flags, "evaluate": evaluate_flags}.get(name):
            module.add(sub)
        for group in rows:
            title = "configuration" if group is _GIN else None
            add_rows(sub.add_argument_group(title) if title else sub, group)
    return parser


# Sub-commands. Everything heavy is imported here, after the flags are known to be right. -------


def _train(flags: argparse.Namespace) -> None:
    profile = [f"Train.profile='{flags.profile}'"] if flags.profile else []
    run, config = _build(flags, "train", bindings=profile)
    from vidgen.train.saved_config import saved_config

    if flags.smoke:
        from vidgen.train.smoke import Smoke

        run = Smoke(run=run)
    if not _is_dry(flags, config):
        with saved_config(run.model_dir, config):
            run()


def _encode(flags: argparse.Namespace) -> None:
    run, config = _build(flags, "encode", macro="ENCODING")
    if not _is_dry(flags, config):
        run()


def _prepare(flags: argparse.Namespace) -> None:
    run, config = _build(flags, "prepare", "precompute.prepare:Prepare")
    if not _is_dry(flags, config):
        run()


def _plan(flags: argparse.Namespace) -> Any:
    return plan.run(flags, functools.partial(_build, flags, "plan"))


def _is_dry(flags: argparse.Namespace, config: str) -> bool:
    """Print the configuration if the flags ask for no more than that, and return whether so."""
    if flags.dry_run:
        print(config, end="")
    return flags.dry_run


def _build(
    flags: argparse.Namespace,
    mode: str,
    class_path: str | None = None,
    *,
    macro: str = "RUN",
    bindings: Sequence[str] = (),
    **fields: Any,
) -> tuple[Any, str]:
    """Build a run through gin; return it, and the configuration that it used.

    Args:
      flags: of the command.
      mode: `runs/MODE.gin` is read before the files of the flags, so that a user names only those,
        and `vidgen plan` and `vidgen generate` read a training configuration as it is.
      class_path: of the run, as in plan.estimate:Plan; None is what the files name by `macro`, as
        in RUN = @train.Train().
      macro: see `class_path`.
      bindings: NAME=VALUE, after those of the flags.
      **fields: of the run, which win over gin's.
    """
    from vidgen.config import gin_sessions, gin_utils, untrusted

    teacher = _trained_configs(flags.bindings, "TEACHER_DIR")
    renamed = {file: {"MODEL": "TEACHER"} for file in teacher}
    # A trained tokenizer is as large as its own configuration says, whatever the files say.
    configs = map(Path, _trained_configs(flags.bindings, "TOKENIZER_DIR"))
    excerpts = [gin_files.excerpt(config, "tokenizer", "TOKENIZER") for config in configs]
    files = [f"runs/{mode}.gin", *teacher, *flags.gin_file]
    all_bindings = [*flags.bindings, *bindings]
    trusted = untrusted.packages_of(flags.gin_file) if teacher or excerpts else ()
    with gin_utils.session(files, all_bindings, renamed, excerpts, trusted):
        named = pkgutil.resolve_name(f"vidgen.{class_path}") if class_path else None
        run = gin_utils.build(named or gin_utils.named_by(macro), **fields)
        config = gin_utils.operative_config()
        unused = gin_utils.unused_bindings()
    gin_sessions.note(gin_sessions.without_effect(flags.bindings, unused))
    return run, config


def _generate(flags: argparse.Namespace) -> None:
    from vidgen.cli import generate_command

    run, configs = generate_command.build(flags)
    if not flags.dry_run:
        run()
        return
    for title, config in configs.items():
        print(f"#### {title}\n\n{config}")


def _web(flags: argparse.Namespace) -> None:
    web.run(flags, lambda words: _parsed(["generate", *words]))


def _assets(flags: argparse.Namespace) -> None:
    from vidgen.assets import downloads

    if flags.bindings:
        raise ValueError(f"vidgen assets takes no --gin.{flags.bindings[0]}; it has no settings.")
    downloads.show(flags.action, flags.names)


def _trained_configs(bindings: Sequence[str], macro: str) -> list[str]:
    """Return the config.gin in the folder that --gin.MACRO names; none without that flag."""
    values = [b.split("=", 1)[1] for b in bindings if b.replace(" ", "").startswith(f"{macro}=")]
    named = [text.strip(" '\"") for text in values[-1:]]
    folders = [model_folders.check_local(macro, model_folders.find(name)) for name in named]
    configs = [folder / "config.gin" for folder in folders]
    for config in configs:
        if not config.is_file():
            raise FileNotFoundError(
                f"{macro}: there is no {config}; name a folder that vidgen train or export wrote."
            )
    return [gin_files.Untrusted(config) for config in configs]


def _start_jax(flags: argparse.Namespace) -> None:
    """Set up logging, the cache of compiled programs and, where declared, the process group."""
    if getattr(flags, "topology", "") or getattr(flags, "chips", ""):
        # Of `vidgen plan` nothing runs: leave alone what accelerators there are.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    startup.setup_process(flags.debug)
    declared = os.environ.get("VIDGEN_DISTRIBUTED", "") not in ("", "0")
    # Not every command has this flag.
    asked = hasattr(flags, "distributed") and (flags.distributed or declared)
    if asked or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        startup.initialize_distributed()


if __name__ == "__main__":
    sys.exit(main())
