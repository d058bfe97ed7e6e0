"""From the flags of `vidgen evaluate` to what it runs: a model, files, stories, or results.

Nothing heavy is imported until the flags are known to be right.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from vidgen import paths
from vidgen.cli import generate_flags
from vidgen.config import gin_files


def run(flags: argparse.Namespace) -> dict[str, Any] | None:
    """Build the evaluation that the flags ask for, and run it.

    Args:
      flags: of the command, and `bindings`, the NAME=VALUE of its --gin.NAME=VALUE.

    Returns:
      The result of a model or of clips; None for --dry_run, --metrics=help, results that are
      compared, and stories.

    Raises:
      ValueError: flags do not fit together, or their values do not fit the model or the clips.
      FileNotFoundError: a file or a model that is named is not there.
    """
    jsons = [path for path in flags.inputs if path.lower().endswith(".json")]
    if flags.metrics == "help":
        _list_metrics(flags)
    elif jsons and not flags.model:
        _compare(flags, jsons)
    elif flags.protocol == "storybench" or flags.stories:
        _stories(flags)
    elif bool(flags.model) == bool(flags.inputs) or len(flags.inputs) > 2:
        raise ValueError(
            "name either a --model, or one or two sets of clips: vidgen evaluate MADE [REAL]."
        )
    else:
        built = _of_model(flags) if flags.model else _of_files(flags)
        return None if flags.dry_run else built()
    return None


def _list_metrics(flags: argparse.Namespace) -> None:
    """Print the metrics that there are, those of a user's own modules included."""
    from vidgen.config.gin_sessions import Sessions
    from vidgen.evals import metrics

    sessions = Sessions(["runs/evaluate.gin"], list(flags.gin_file), flags.bindings)
    sessions.build(metrics.MetricInputs)
    print(metrics.listing(), flush=True)


def _compare(flags: argparse.Namespace, paths: list[str]) -> None:
    """Print results of earlier evaluations side by side."""
    from vidgen.evals.report import page
    from vidgen.evals.report import results as report

    if len(paths) != len(flags.inputs):
        raise ValueError("results (.json) and clips cannot be given together.")
    results = [report.load(Path(path)) for path in paths]
    if flags.html:
        page.write_page(Path(flags.html), results)
    print(report.table(results), flush=True)


def _of_files(flags: argparse.Namespace) -> Any:
    """Return the evaluation of one or two sets of clips."""
    from vidgen.config.gin_sessions import Sessions
    from vidgen.evals import stored_clips
    from vidgen.evals.evaluate import Evaluate
    from vidgen.evals.metrics import EvalData, MetricInputs
    from vidgen.evals.protocols import Protocol

    size = None if flags.size is None else generate_flags.read_size(flags.size)
    window = stored_clips.Window(frames=flags.frames, stride=flags.stride, fps=flags.fps, size=size)
    generated, *rest = [stored_clips.open_clips(path, window, flags.clips) for path in flags.inputs]
    real = rest[0] if rest else None
    if real is not None and real.shape.thwc != generated.shape.thwc:
        raise ValueError(
            f"{generated.name} has clips of {generated.shape}, {real.name} of {real.shape} (frames "
            "x height x width); give --size=HEIGHTxWIDTH and --frames=N to make them one."
        )
    paired = real is not None and len(generated) == len(real) and generated.names == real.names
    captions = all(generated.read(number)[1] for number in (0, len(generated) - 1))
    sessions = Sessions(["runs/evaluate.gin"], list(flags.gin_file), flags.bindings)
    inputs = sessions.build(MetricInputs, **_weights(flags))
    sessions.check_bindings()
    data = EvalData(
        generated=generated, real=real, paired=paired, captioned=captions, inputs=inputs
    )
    protocol = Protocol(name="files", clips=len(generated if real is None else real))
    settings = {"stride": flags.stride, "fps read": flags.fps or "own"}
    fields = _reports(flags) | {"title": generated.name, "settings": settings}
    return Evaluate(data=data, protocol=protocol, **fields)


def _of_model(flags: argparse.Namespace) -> Any:
    """Return the evaluation of a model."""
    from vidgen.config.gin_sessions import Sessions
    from vidgen.evals import setup
    from vidgen.evals.evaluate import Evaluate
    from vidgen.evals.metrics import MetricInputs
    from vidgen.evals.protocols import Protocol
    from vidgen.inference import stages
    from vidgen.inference.generate import Generate
    from vidgen.inference.sampling_settings import Sampling
    from vidgen.model import SampledModel

    later = [*protocol_files(flags.protocol), *flags.gin_file]
    folders = stages.find(flags.model, None, flags.until)
    sessions = Sessions(["runs/evaluate.gin"], later, flags.bindings)
    try:
        model = stages.build_trained(sessions, setup.EvalModel, folders[-1])
    except (ValueError, OSError) as error:
        if flags.protocol is None:
            raise
        supply = sessions.build(Protocol).supply
        reason = str(error).rstrip(".")
        raise ValueError(f"{reason}; --protocol={flags.protocol} takes {supply}.") from error
    protocol = _pinned(flags, model.protocol)
    model = dataclasses.replace(model, protocol=protocol, stages=len(folders))
    trained, run = [], None
    fields = generate_flags.sampling_settings(flags)
    sampling = fields.get("sampling", Sampling())
    if isinstance(model.model, SampledModel):
        trained = [stages.build_trained(sessions, stages.Stage, folder) for folder in folders]
        fields |= {"seed": protocol.seed, "prompts": ("?",)}
        if model.task == "generate":
            fields |= {} if model.frames is None else {"frames": model.frames}
            run = sessions.build(Generate, stages=trained, **fields)
    inputs = sessions.build(MetricInputs, **_weights(flags))
    sessions.check_bindings()
    step = fields.get("checkpoint_step")
    task = setup.choose_task(model, trained, run, str(folders[-1]), sampling, step)
    reports = _reports(flags)
    title = flags.model.rstrip("/")
    data = setup.model_data(model, task, inputs, title, reports["folder"])
    curves = folders[-1] / "metrics.jsonl"
    reports |= {"curves": str(curves)} if curves.exists() else {}
    return Evaluate(data=data, protocol=protocol, title=title, **reports)


def _stories(flags: argparse.Namespace) -> None:
    """Make the videos of StoryBench, and compare them with the true ones, if these are here."""
    import numpy as np

    from vidgen.config.gin_sessions import Sessions
    from vidgen.inference import stages
    from vidgen.story import storybench_task_files
    from vidgen.story.generate_story import GenerateStory
    from vidgen.story.generate_storybench import StoryBenchmark

    if not flags.stories or not flags.model:
        raise ValueError("--protocol=storybench takes a --model and --stories=TASKS.json.")
    tasks = Path(flags.stories).expanduser()
    if not tasks.is_file():
        raise FileNotFoundError(f"--stories: there is no {flags.stories}.")
    folder = Path(flags.output or "storybench")
    if folder.is_file():
        raise ValueError(f"--output {folder} is a file; films of StoryBench take a folder.")
    sessions = Sessions(["runs/generate.gin"], list(flags.gin_file), flags.bindings)
    trained = [
        stages.build_trained(sessions, stages.Stage, path) for path in stages.find(flags.model)
    ]
    fields = generate_flags.sampling_settings(flags)
    fields.pop("batch_size", None)  # a film is made one segment at a time
    fields |= {"stage": stages.single(trained), "output": str(folder / "films" / "film.npy")}
    fields |= {} if flags.seed is None else {"seed": flags.seed}
    fields |= {} if flags.given is None else {"context_frames": flags.given}
    story = storybench_task_files.parse(tasks.read_text(encoding="utf-8"), "0", source=str(tasks))
    generate = sessions.build(GenerateStory, story=story, **fields)
    sessions.check_bindings()
    run = StoryBenchmark(
        generate=generate,
        tasks=tasks,
        output=folder,
        samples=flags.samples or 1,
        limit=flags.clips,
    )
    if flags.dry_run:
        return
    generated, truth = run()
    print(generated, flush=True)
    if truth is None or run.samples > 1:
        return
    frames = min(len(np.load(path)["video"]) for path in [*generated.iterdir(), *truth.iterdir()])
    other = {"inputs": [str(generated), str(truth)], "output": None, "clips": None}
    other |= {"frames": flags.frames or frames}
    _of_files(argparse.Namespace(**vars(flags) | other))()


def _pinned(flags: argparse.Namespace, protocol: Any) -> Any:
    """Return the protocol with what the flags change of it."""
    names = ("clips", "samples", "given", "seed")
    changes = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    for name, default in (("frames", None), ("stride", 1), ("fps", None), ("size", None)):
        if getattr(flags, name) != default:
            raise ValueError(f"--{name} is for files; a model says itself what its clips are.")
    return dataclasses.replace(protocol, **changes)


def _weights(flags: argparse.Namespace) -> dict[str, Any]:
    given = {"inception": flags.inception, "clip": flags.clip}
    fields: dict[str, Any] = {name: path for name, path in given.items() if path is not None}
    for name, path in fields.items():
        if not os.path.exists(path):
            raise FileNotFoundError(f"--{name}: there is no {path}.")
    size = flags.batch_size
    if size is None:
        return fields
    if not size.isdecimal() or not int(size):
        raise ValueError(f"--batch_size={size}: give one whole number, 1 or more.")
    return fields | {"batch_size": int(size)}


def _reports(flags: argparse.Namespace) -> dict[str, Any]:
    """Return where results go, and where clips and features are kept."""
    return {
        "folder": Path(flags.cache or paths.cache_folder("evaluations")).expanduser(),
        "metrics": tuple(filter(None, (flags.metrics or "").split(","))),
        "output": flags.output,
        "page": flags.html,
        "as_json": flags.json,
    }


def protocols() -> list[str]:
    """List the names that --protocol takes, sorted."""
    folders = (root / "evaluations" for root in gin_files.config_roots())
    return sorted({path.stem for folder in folders for path in folder.glob("*.gin")})


def protocol_files(name: str | None) -> list[str]:
    """Look up the configuration of a protocol.

    Args:
      name: of the protocol, as --protocol takes it; None: there is none.

    Returns:
      Its file in a list; an empty list for None.

    Raises:
      ValueError: there is no such protocol; the message lists those that there are.
    """
    if name is None:
        return []
    if name not in protocols():
        raise ValueError(f"--protocol={name}: choose one of {', '.join(protocols())}.")
    return [f"evaluations/{name}.gin"]
