"""The flags of `vidgen generate`, and what they mean to the run.

Nothing heavy is imported until the flags are known to be right.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.assets import zoo

EXAMPLES = """examples:
  vidgen generate "a tiger moving right on a green background" -o tiger.mp4
  vidgen generate "a tiger moving right on a green background" --until=ssr1 --guidance=2 --seed=5
  vidgen generate "a tiger moving right on a green background" --model=imagen_teachers \\
      --until=tsr1 --guidance=3,base=6:1 --steps=64,base=128 -o tiger.gif
  vidgen generate "a tiger moving right on a green background" --model=runs/a -o tiger.mp4
  vidgen generate "a tiger moving right" --model=runs/cascade --until=ssr1 --keep_stages
  vidgen generate --prompts_file=prompts.txt --model=runs/cascade -o clips.webm \\
      --num_samples=4 --steps=base=256,tsr1=64 --guidance=3,base=15:1
  vidgen generate --model=runs/cascade --from=ssr1 --init=holiday.mp4 --init_size=own
  vidgen generate "the tiger moves on" --model=runs/cascade --first=tiger.mp4
  vidgen generate --story="a tiger moving right. then a tiger growing" -o film.mp4
  vidgen generate --story=story.yaml --model=runs/phenaki -o film.mp4 \\
      --upscale=ssr1,ssr2 --upscale_model=runs/cascade

--model is the folder of one stage, or of a cascade with a folder a stage: base, tsr1, ssr1, ssr2,
tsr2, tsr3, ssr3; or of Phenaki: maskgit, and its tokenizer. PER-STAGE values are one for all stages
(64), some by name (base=256,tsr1=64), or both (64,base=256). The suffix of --output chooses the
format: .mp4, .webm, .gif (at most 50 frames a second), .webp (90), .png (a sheet of frames) or
.npy. Several clips are numbered: clips-000.webm, clips-001.webm, ... A file of that name is
replaced. The same seed, prompt, models and settings give the same clip, alone or among others, and
whether its stages run at once or one after the other with --until and --from.

Distilled students, such as imagen_demo, the default, take the guidance and the steps that they
learned: 0 to 2, and 8 steps of stochastic or 4 of ddim. Its teachers, imagen_teachers, take any."""

_EACH = "PER-STAGE"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that lists the samplers there are, which are imported only where it is shown."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or "{samplers}" not in text:
            return text
        from vidgen.diffusion.samplers import SAMPLERS

        return text.replace("{samplers}", ", ".join(SAMPLERS))


as_path = os.path.expanduser  # no shell knows the "~" of --model=~/runs/a


def add(parser: argparse.ArgumentParser) -> None:
    """All flags but those of the configuration."""
    add = parser.add_argument
    add(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="what to show, one quoted sentence each; "
        '"" is video without text, as clips without a caption taught it',
    )
    add("--prompts_file", type=as_path, metavar="FILE", help="more prompts, one a line")
    add(
        "--model",
        type=as_path,
        metavar="MODEL",
        help="a folder that vidgen train wrote, or a model that comes with vidgen: "
        f"{', '.join(zoo.names())}; default: {zoo.DEFAULT}, {zoo.STORIES} for a --story",
    )
    add("-o", "--output", type=as_path, metavar="FILE", help="default: out.mp4")
    add("--seed", type=int, metavar="N", help="of all noise; default: a story's own, or 0")
    add("--num_samples", type=int, metavar="N", help="clips for each prompt; default: 1")
    add("--frames", type=int, metavar="N", help="frames of the clip that comes out")
    add("--size", metavar="HxW", help="its height and width, such as 96x160")
    add("--batch_size", metavar=_EACH, help="clips made at a time; default: 8")
    add("--step", metavar=_EACH, help="checkpoint to use; default: the last")
    _add_stages(parser.add_argument_group("stages of a cascade"))
    group = parser.add_argument_group("sampling")
    add_sampling(group)
    _add_known(parser.add_argument_group("content that stays as it is"))
    _add_story(parser.add_argument_group("a story, of any length"))


def _add_stages(group: Any) -> None:
    add = group.add_argument
    add("--until", metavar="STAGE", help="the last stage to run")
    add("--from", dest="first_stage", metavar="STAGE", help="the first, which needs --init")
    add(
        "--init",
        type=as_path,
        metavar="FILE",
        help="a video, picture or .npy that the first stage starts from",
    )
    add(
        "--init_size",
        default="model",
        metavar="SIZE",
        help="model: the size and length that the stage was trained for (default); own: the file's",
    )
    add("--init_start", type=float, default=0.0, metavar="SECONDS", help="skip so much of it")
    add(
        "--keep_stages",
        action="store_true",
        help="write the video of every stage: out.base.mp4, out.tsr1.mp4, ...",
    )


def add_sampling(group: Any) -> None:
    """How the stages sample."""
    add = group.add_argument
    add("--steps", metavar=_EACH, help="sampling steps; a student takes its own alone")
    add("--sampler", metavar=_EACH, help="{samplers}, or one that a --gin_file brings")
    add("--gamma", metavar=_EACH, help="noise of the ancestral sampler, 0 to 1")
    add(
        "--guidance",
        metavar=_EACH,
        help="how strongly to follow the prompt: (1 + W) * with - W * without; 0 is unguided, "
        "HIGH:LOW alternates between two weights",
    )
    add("--temperature", metavar=_EACH, help="of Phenaki: randomness in which tokens are kept")
    add("--threshold", metavar=_EACH, help="none, static or dynamic")


def _add_known(group: Any) -> None:
    add = group.add_argument
    add(
        "--first",
        type=as_path,
        metavar="FILE",
        help="a picture to begin with, or a video to continue",
    )
    add("--last", type=as_path, metavar="FILE", help="a picture or a video to end with")
    add(
        "--overlap",
        type=float,
        metavar="SECONDS",
        help="how much of --first and --last, if videos, is shown; default: a quarter of the clip",
    )
    add("--inpaint", type=as_path, metavar="FILE", help="a video of which a part is made anew")
    add("--mask", type=as_path, metavar="FILE", help="a picture or video that is white there")
    add(
        "--reconstruction",
        metavar=_EACH,
        help="how strongly the rest is drawn to agree with it, such as 5; a step then takes about "
        "twice as long; default: the models' own, mostly 0",
    )


def _add_story(group: Any) -> None:
    add = group.add_argument
    add(
        "--story",
        type=as_path,
        metavar="STORY",
        help="a .yaml file of scenes (prompt, frames or seconds, seed, guidance, steps, "
        'transition), StoryBench\'s .json, or "scene one. then scene two."; --frames, --seed, '
        "--steps and --guidance win over what it says",
    )
    add(
        "--context",
        type=int,
        metavar="N",
        help="last frames of the film that the next part goes on from; default: 5",
    )
    add("--restart", action="store_true", help="throw away an unfinished film of that name")
    add(
        "--upscale",
        metavar="STAGES",
        help="stages of a cascade that the film goes through, such as ssr1,ssr2",
    )
    add(
        "--upscale_model",
        type=as_path,
        metavar="DIR",
        help=f"the cascade that they are in; default: --model, {zoo.DEFAULT} where that is missing",
    )


def models(flags: argparse.Namespace) -> tuple[str, str | None]:
    """The model that makes the video, and the one whose stages up-sample a film."""
    if flags.model is not None:
        return flags.model, flags.upscale_model
    if flags.story is None:
        return zoo.DEFAULT, None
    return zoo.STORIES, flags.upscale_model or zoo.DEFAULT


# What a film has no use for, and what the flag is worth when it is not given.
_NOT_OF_STORIES = {
    "prompts": [], "prompts_file": None, "num_samples": None, "size": None, "batch_size": None,
    "until": None, "first_stage": None, "init": None, "keep_stages": False, "last": None,
    "overlap": None, "inpaint": None, "mask": None,
}  # fmt: skip

_OF_STORIES = {"context": None, "restart": False, "upscale": None, "upscale_model": None}


def story_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """The fields of `runs.tell.GenerateStory` that the flags give.

    Raises:
      ValueError: a flag that cannot be read or that is not for stories, or a wrong story.
    """
    from vidgen.story import parse
    from vidgen.story.script import FirstFrames

    if flags.upscale_model is not None and flags.upscale is None:
        raise ValueError(
            "--upscale_model says where the stages of --upscale are, which is missing."
        )
    for name, default in _NOT_OF_STORIES.items():
        if getattr(flags, name) != default and not (name == "keep_stages" and flags.upscale):
            flag = {"prompts": "PROMPT", "first_stage": "--from"}.get(name, f"--{name}")
            raise ValueError(f"{flag} is not for a film; the --story says what is shown.")
    optional = {
        "output": flags.output,
        "seed": flags.seed,
        "restart": flags.restart or None,
        "context_frames": flags.context,
        "first": None if flags.first is None else FirstFrames(path=flags.first),
    }
    story = parse.load(flags.story, frames=flags.frames)
    return how_to_sample(flags) | _given(optional) | {"story": story}


def settings(flags: argparse.Namespace) -> dict[str, Any]:
    """The fields of `runs.generate.Generate` that the flags give.

    Raises:
      ValueError: a flag that cannot be read, or a file that cannot be used.
    """
    from vidgen.inference.conditioning_inputs import Init, KnownFiles

    for name, default in _OF_STORIES.items():
        if getattr(flags, name) != default:
            raise ValueError(
                f"--{name} is for films: give a --story too; one prompt is one as well."
            )
    names = ("first", "last", "inpaint", "mask", "overlap")
    known = KnownFiles(**{name: getattr(flags, name) for name in names})
    optional = {
        "frames": flags.frames,
        "size": None if flags.size is None else read_size(flags.size),
        "init": _init(flags, Init),
        "known": known or None,
        "output": flags.output,
        "seed": flags.seed,
        "num_samples": flags.num_samples,
        "keep_stages": flags.keep_stages or None,
    }
    given = how_to_sample(flags) | _given(optional)
    silent = "init" in given or "known" in given
    return given | {"prompts": read_prompts(flags.prompts, flags.prompts_file, required=not silent)}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are not None: what no flag says is left to the files."""
    return {name: value for name, value in values.items() if value is not None}


def how_to_sample(flags: argparse.Namespace) -> dict[str, Any]:
    """Batch size, checkpoint and sampling as fields of a run, where flags say them."""
    from vidgen.inference import per_stage
    from vidgen.inference.stages import Sampling

    readers = {"steps": per_stage.whole, "gamma": per_stage.number, "guidance": per_stage.weights}
    readers |= {"sampler": per_stage.word, "threshold": per_stage.word}
    readers |= {"batch_size": per_stage.whole, "step": per_stage.whole}
    readers |= {"reconstruction": per_stage.number, "temperature": per_stage.number}
    each: dict[str, Any] = {
        name: per_stage.parse(name, getattr(flags, name), read)
        for name, read in readers.items()
        if getattr(flags, name, None) is not None
    }
    fields = {"batch_size": each.pop("batch_size", None), "checkpoint_step": each.pop("step", None)}
    return _given(fields | {"sampling": Sampling(**each) if each else None})


def _init(flags: argparse.Namespace, make: Any) -> Any:
    if flags.init is None:
        for name in ("init_size", "init_start"):
            if getattr(flags, name) not in ("model", 0.0):
                raise ValueError(f"--{name} says how to read --init=FILE, which is missing.")
        return None
    return make(path=flags.init, size=flags.init_size, start=flags.init_start)


def read_size(text: str) -> tuple[int, int]:
    """ "96x160" as (96, 160).

    Raises:
      ValueError: it is no such thing.
    """
    found = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not found:
        raise ValueError(f"--size={text}: give HEIGHTxWIDTH, such as 96x160.")
    return int(found[1]), int(found[2])


def read_prompts(given: Sequence[str], file: str | None, required: bool = True) -> tuple[str, ...]:
    """The prompts given, then those of a file with one a line; blank lines do not count.

    Without any, and not `required`, one empty prompt: video without text.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no prompt or is no text, or there is no prompt at all.
    """
    prompts = [prompt.strip() for prompt in given]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--prompts_file {file} is no UTF-8 text ({error.reason}).") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"--prompts_file {file} holds no prompt; write one a line.")
        prompts += found
    if not prompts and required:
        raise ValueError('no prompt given: vidgen generate "what to show" ..., or --prompts_file.')
    return tuple(prompts) or ("",)
