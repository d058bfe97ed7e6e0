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
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vidgen import __version__
from vidgen.assets import zoo
from vidgen.cli import generate_flags, startup, xla_flags
from vidgen.cli.errors import fail, report
from vidgen.cli.examples import EXAMPLES
from vidgen.config import gin_files


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        sys.stderr.write(f"vidgen: error: {message} (see {self.prog} --help).\n")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `vidgen` command line and return its exit status."""
    flags = _parsed(sys.argv[1:] if argv is None else argv)
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
        return report(error)


def call(argv: Sequence[str]) -> None:
    """Run one `vidgen` command line, and raise what goes wrong: for calls from Python."""
    _call(_parsed(argv))


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    flags = _parser().parse_args([a for a in argv if not a.startswith("--gin.")])
    flags.bindings = [a.removeprefix("--gin.") for a in argv if a.startswith("--gin.")]
    return flags


def _call(flags: argparse.Namespace) -> None:
    xla_flags.set_defaults()
    with gin_files.searching(getattr(flags, "gin_search_paths", ())):
        flags.command(flags)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vidgen", description="Text to video.", epilog=EXAMPLES[""])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"vidgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help_text, command, add in (
        ("train", "train a model, or continue to", _train, _add_train),
        ("generate", "make videos from prompts", _generate, _add_generate),
        (
            "encode",
            "encode the captions, or the videos, of a data set once",
            _encode,
            _add_processes,
        ),
        ("prepare", "cut raw videos into clips to train on", _prepare, _add_gin),
        ("evaluate", "judge a model, or two sets of clips, by metrics", _evaluate, _add_evaluate),
        ("plan", "parameters, FLOPs and memory of a configuration", _plan, _add_plan),
        ("assets", "third-party files: what they are, where they are", _assets, _add_assets),
    ):
        sub = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=EXAMPLES.get(name),
            formatter_class=generate_flags.HelpFormatter,
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
        type=generate_flags.as_path,
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
        "--gin_search_paths",
        type=lambda text: [generate_flags.as_path(folder) for folder in text.split(",") if folder],
        default=[],
        metavar="FOLDER,FOLDER",
        help="look for .gin files, and for what they include, in these folders first",
    )
    group.add_argument(
        "--dry_run", action="store_true", help="print the resolved configuration and stop"
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_processes(parser)
    parser.add_argument(
        "--profile",
        default="",
        metavar="START:STOP",
        help="trace steps START to STOP - 1 into MODEL_DIR/profile, for TensorBoard or Perfetto",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    _add_gin(parser)
    parser.add_argument(
        "--distributed",
        action="store_true",
        default=os.environ.get("VIDGEN_DISTRIBUTED", "") not in ("", "0"),
        help="one of several processes that work together (also: VIDGEN_DISTRIBUTED=1, or "
        "JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID)",
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.epilog = generate_flags.EXAMPLES
    generate_flags.add(parser)
    _add_gin(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    from vidgen.cli import evaluate_flags

    evaluate_flags.add(parser)
    _add_processes(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object")
    add("--details", action="store_true", help="of several models, everything about each")
    add("--compile", action="store_true", help="compile the training step: real memory, slower")
    add(
        "--sampling",
        action="store_true",
        help="compile a step of sampling a whole clip: real memory, slower",
    )
    add(
        "--explain",
        default="",
        metavar="PATH",
        help="tell axis by axis why the parameters with this in their path lie where they do",
    )
    add(
        "--topology",
        default="",
        metavar="NAME",
        help="compile for TPUs that need not be here: v5p:2x2x1, v6e:2x2 (needs vidgen[tpu])",
    )
    add(
        "--effort",
        default="",
        metavar="LEVEL",
        help="of the compiler, O0 to O3: the least, O0, compiles large U-Nets in minutes",
    )
    _add_gin(parser)


def _add_assets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "fetch", "path"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")


# Sub-commands. Everything heavy is imported here, after the flags are known to be right. -------


def _train(flags: argparse.Namespace) -> None:
    _start_jax(flags, flags.distributed)
    bindings = flags.bindings
    if flags.profile:
        bindings = [*bindings, f"Train.profile='{flags.profile}'"]
    _run(flags, "train", None, flags.gin_file, bindings, write_config=True)


def _encode(flags: argparse.Namespace) -> None:
    _start_jax(flags, flags.distributed)
    _run(flags, "encode", None, flags.gin_file, flags.bindings, macro="ENCODING")


def _prepare(flags: argparse.Namespace) -> None:
    _start_jax(flags)
    _run(flags, "prepare", "precompute.prepare.Prepare", flags.gin_file, flags.bindings)


def _plan(flags: argparse.Namespace) -> None:
    _start_jax(flags)
    if flags.topology:  # nothing runs: leave alone what accelerators there are
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = ("compile", "sampling", "topology", "effort", "details", "explain")
    given = {name: getattr(flags, name) for name in names} | {"as_json": flags.json}
    _run(flags, "plan", "plan.estimate.Plan", flags.gin_file, flags.bindings, **given)


def _generate(flags: argparse.Namespace) -> None:
    _start_jax(flags)
    from vidgen.config.gin_sessions import Sessions
    from vidgen.inference import generate, stages, upscale_stages
    from vidgen.story import tell, upscale

    read = generate_flags.settings if flags.story is None else generate_flags.story_settings
    given = read(flags)
    model, cascade = generate_flags.models(flags)
    folders = stages.find(model, flags.first_stage, flags.until)
    later = upscale_stages.find(flags.upscale, model, cascade)
    folders = folders[:1] if later else folders
    # Every stage has a configuration of its own, and all of them bind the same names.
    sessions = Sessions(["runs/generate.gin"], flags.gin_file, flags.bindings)
    trained = [stages.build_trained(sessions, stages.Stage, folder) for folder in folders]
    raising = [stages.build_trained(sessions, stages.Stage, folder) for folder in later]
    stages.check_names(trained, flags.first_stage, flags.until)
    if flags.story is None:
        run = sessions.build(generate.Generate, stages=trained, **given)
    else:
        run = sessions.build(tell.GenerateStory, stage=stages.single(trained), **given)
    if raising:
        upscale_stages.check_names(raising, later, flags.upscale)
        options = {"stages": raising, "keep_stages": flags.keep_stages}
        run = sessions.build(upscale.Upscale, tell=run, **options)
    sessions.check_bindings()
    if not flags.dry_run:
        run()
        return
    titles = [*map(str, (*folders, *later)), "the run", "the upscaling"][: len(sessions.configs)]
    for title, config in zip(titles, sessions.configs, strict=True):
        print(f"#### {title}\n\n{config}")


def _evaluate(flags: argparse.Namespace) -> None:
    _start_jax(flags, flags.distributed)
    from vidgen.cli import evaluate_command

    evaluate_command.run(flags)


def _assets(flags: argparse.Namespace) -> None:
    from vidgen.assets import downloads

    if flags.bindings:
        raise ValueError(f"vidgen assets takes no --gin.{flags.bindings[0]}; it has no settings.")
    downloads.show(flags.action, flags.names)


def _run(
    flags: argparse.Namespace,
    mode: str,
    class_path: str | None,
    files: Sequence[str],
    bindings: Sequence[str],
    *,
    macro: str = "RUN",
    write_config: bool = False,
    **given: Any,
) -> None:
    """Build the run mode `class_path` through gin, then call it.

    Where `class_path` is None the files name the class, by the macro: RUN = @train.Train().
    """
    from vidgen.config import gin_sessions, gin_utils

    teacher = _trained_configs(bindings, "TEACHER_DIR")
    renamed = {file: {"MODEL": "TEACHER"} for file in teacher}
    # A trained tokenizer is as large as its own configuration says, whatever the files say.
    configs = map(Path, _trained_configs(bindings, "TOKENIZER_DIR"))
    excerpts = [gin_files.excerpt(config, "tokenizer", "TOKENIZER") for config in configs]
    with gin_utils.session([f"runs/{mode}.gin", *teacher, *files], bindings, renamed, excerpts):
        if class_path is None:
            run_class = gin_utils.named_by(macro)
        else:
            module, _, name = class_path.rpartition(".")
            run_class = getattr(importlib.import_module(f"vidgen.{module}"), name)
        run: Any = gin_utils.build(run_class, **given)
        config = gin_utils.operative_config()
        unused = gin_utils.unused_bindings()
    gin_sessions.note(gin_sessions.without_effect(flags.bindings, unused))
    if flags.dry_run:
        print(config, end="")
        return
    if not write_config:
        run()
        return
    from vidgen.train.saved_config import saved_config

    with saved_config(run.model_dir, config):
        run()


def _trained_configs(bindings: Sequence[str], macro: str) -> list[str]:
    """The config.gin in the folder that --gin.MACRO names; none without that flag."""
    given = [b.split("=", 1)[1] for b in bindings if b.replace(" ", "").startswith(f"{macro}=")]
    folders = [zoo.find(text.strip(" '\"")) for text in given[-1:]]
    configs = [Path(folder).expanduser() / "config.gin" for folder in folders]
    for config in configs:
        if not config.is_file():
            raise FileNotFoundError(
                f"{macro}: there is no {config}; name a folder that vidgen train wrote."
            )
    return [str(config) for config in configs]


def _start_jax(flags: argparse.Namespace, distributed: bool = False) -> None:
    """Set up logging, the cache of compiled programs and, where declared, the process group."""
    startup.setup_process(flags.debug)
    if distributed or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        startup.initialize_distributed()


if __name__ == "__main__":
    sys.exit(main())
