"""The flags of `vidgen generate`, and what they mean to the run.

Nothing heavy is imported until the flags are known to be right.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.assets import zoo

if TYPE_CHECKING:
    from vidgen.inference.conditioning_inputs import Init
    from vidgen.inference.preview import Look


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that lists the samplers there are, which are imported only where it is shown."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or "{samplers}" not in text:
            return text
        from vidgen.diffusion.samplers import SAMPLERS

        return text.replace("{samplers}", ", ".join(SAMPLERS))


as_path = os.path.expanduser  # no shell knows the "~" of --model=~/runs/a

# The kinds of flags, as options of `add_argument`.
Row = tuple[str, dict[str, Any], str]
FILE = {"type": as_path, "metavar": "FILE"}
COUNT = {"type": int, "metavar": "N"}
EACH = {"metavar": "PER-STAGE"}
SECONDS = {"type": float, "metavar": "SECONDS"}
SWITCH = {"action": "store_true"}

_GENERAL: tuple[Row, ...] = (
    ("prompts", {"nargs": "*", "metavar": "PROMPT"}, 'what to show, one quoted sentence for each '
     'clip; "" generates without text, which is what clips without a caption trained'),
    ("--prompts_file", FILE, "read more prompts from this file, one a line"),
    ("--model", FILE | {"metavar": "MODEL"}, "a folder that vidgen train wrote, or a model that "
     f"comes with vidgen: {', '.join(zoo.names())}; default: {zoo.DEFAULT}, or {zoo.STORIES} for a "
     "--story"),
    ("-o --output", FILE, "file to write; default: out.mp4"),
    ("--preview", FILE, "draw the clips as they are after each step into this file, at most once a "
     "second; .png is a sheet of some frames"),
    ("--negative", {"metavar": "PROMPT"}, "what guidance leads away from, in place of no text"),
    ("--seed", COUNT, "seed of all noise; default: the story's own, or 0"),
    ("--num_samples", COUNT, "clips to make for each prompt; default: 1"),
    ("--frames", COUNT, "frames of the resulting clip"),
    ("--size", {"metavar": "HxW"}, "height and width of the resulting clip, such as 96x160"),
    ("--fps", {"type": float, "metavar": "FPS"}, "frames per second of the resulting clip, of a "
     "model that was trained on several rates"),
    ("--batch_size", EACH, "clips to make at a time; default: 8"),
    ("--step", EACH, "training step of the checkpoint to use; default: the last"),
)  # fmt: skip
_STAGES: tuple[Row, ...] = (
    ("--until", {"metavar": "STAGE"}, "the last stage to run"),
    ("--from", {"metavar": "STAGE", "dest": "first_stage"}, "the first stage to run; needs --init"),
    ("--init", FILE, "a video, picture or .npy file that the first stage starts from"),
    ("--init_size", {"metavar": "SIZE", "default": "model"}, "model: crop and resize it to what "
     "the stage was trained for (default); own: keep the file's size and length"),
    ("--init_start", SECONDS | {"default": 0.0}, "skip the beginning of the file"),
    ("--strength", {"type": float, "metavar": "S"}, "with --init, where the first stage starts "
     "from text: change that video or picture by the last part S of the steps, 0 to 1"),
    ("--keep_stages", SWITCH, "also write the video of every stage: out.base.mp4, "
     "out.tsr1.mp4, ..."),
)  # fmt: skip
SAMPLING: tuple[Row, ...] = (
    ("--steps", EACH, "sampling steps; a distilled student accepts only its own number"),
    ("--sampler", EACH, "{samplers}, or one that a --gin_file brings"),
    ("--gamma", EACH, "noise that the ancestral sampler adds, 0 to 1"),
    ("--guidance", EACH, "weight W of classifier-free guidance, (1 + W) * with text - W * without; "
     "0 is unguided, HIGH:LOW alternates between two weights"),
    ("--temperature", EACH, "for Phenaki: randomness in the choice of the tokens to keep"),
    ("--guidance_rescale", EACH, "bring the spread of guided predictions back to that without "
     "guidance: 0 not at all, 1 wholly; .7 is usual"),
    ("--guidance_interval", {"metavar": "LOW:HIGH"}, "guide only at noise levels σ/α in LOW:HIGH, "
     "and take half the time elsewhere; of Phenaki, shares of the steps still to be made, 1 to 0"),
    ("--guidance_parallel", EACH, "how much of guidance along the prediction is left, 0 to 1: 0 is "
     "projected guidance (APG), 1 the usual"),
    ("--guidance_norm", EACH, "the largest root mean square that guidance of weight 1 may change a "
     "prediction by (APG), such as .1"),
    ("--guidance_momentum", EACH, "how much of the guidance of earlier steps goes into the next, "
     "between -1 and 1 (APG: -.5); 0 is none"),
    ("--churn", EACH, "noise that the sampler heun adds, over all steps, such as 40"),
    ("--threshold", EACH, "thresholding of the predicted video: none, static or dynamic"),
)  # fmt: skip
_KNOWN: tuple[Row, ...] = (
    ("--first", FILE, "a picture to begin with, or a video to continue"),
    ("--last", FILE, "a picture or a video to end with"),
    ("--overlap", SECONDS, "how much of --first and --last, if they are videos, is shown; default: "
     "a quarter of the clip"),
    ("--inpaint", FILE, "a video of which a part is generated anew"),
    ("--mask", FILE, "a picture or video that is white where --inpaint is generated anew"),
    ("--reconstruction", EACH, "weight of reconstruction guidance, which makes the rest agree with "
     "the known part, such as 5; a step then takes about twice as long; default: the model's own, "
     "mostly 0"),
    ("--resample", EACH, "make every run of steps so many times, noised back in between, so that "
     "the rest comes to agree with the known part (RePaint); so many times slower; default: 1"),
    ("--resample_jump", EACH, "steps of such a run; default: 10"),
)  # fmt: skip
_STORY: tuple[Row, ...] = (
    ("--story", FILE | {"metavar": "STORY"}, "a .yaml file of scenes (prompt, frames or seconds, "
     "seed, guidance, steps, transition), StoryBench's .json, or \"scene one. then scene two.\"; "
     "--frames, --seed, --steps and --guidance override what it says"),
    ("--long", SWITCH, "make the video of the PROMPT, of any number of --frames, chunk by chunk, "
     "each going on from the frames before it, in the memory of one chunk"),
    ("--context", COUNT, "last frames of the video that the next part continues; default: 5, or "
     "what the base of a cascade has learned"),
    ("--restart", SWITCH, "discard an unfinished video of that name and start again"),
    ("--upscale", {"metavar": "STAGES"}, "super-resolution stages that the video passes through, "
     "such as ssr1,ssr2"),
    ("--upscale_model", FILE | {"metavar": "DIR"}, "the cascade that has these stages; default: "
     f"--model, or {zoo.DEFAULT} if there is no --model"),
)  # fmt: skip

# Flags that a story has no use for, and those that only a story has.
_NOT_OF_STORIES = (
    "prompts", "prompts_file", "num_samples", "size", "batch_size", "first_stage", "init",
    "strength", "last", "overlap", "inpaint", "mask",
)  # fmt: skip
_OF_STORIES = ("context", "restart", "upscale", "upscale_model")


def add_rows(group: argparse._ActionsContainer, rows: Iterable[Row]) -> None:
    """Add flags to a parser or to a group of one.

    Args:
      group: the parser or the group; it is changed.
      rows: of each flag its names, the options of `add_argument`, and its help.
    """
    for names, options, text in rows:
        group.add_argument(*names.split(), **options, help=text)


def add(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `vidgen generate` but those of the configuration.

    Args:
      parser: of the sub-command; it is changed.
    """
    add_rows(parser, _GENERAL)
    for title, rows in (
        ("stages of a cascade", _STAGES),
        ("sampling", SAMPLING),
        ("content that stays as it is", _KNOWN),
        ("a story, of any length", _STORY),
    ):
        add_rows(parser.add_argument_group(title), rows)


def models(flags: argparse.Namespace) -> tuple[str, str | None]:
    """Choose the models by --model, --story and --upscale_model.

    Args:
      flags: of the command.

    Returns:
      The model that generates the video, and the one whose stages up-sample a story; None where
      that is the first one.
    """
    if flags.model is not None:
        return flags.model, flags.upscale_model
    if flags.story is None:  # also where it is --long
        return zoo.DEFAULT, None
    return zoo.STORIES, flags.upscale_model or zoo.DEFAULT


def story_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Read the flags of a story, or of a video that is --long.

    Args:
      flags: of the command.

    Returns:
      Fields of `story.generate_story.GenerateStory`: those that flags set. Of --long there is no
      `story` yet, whose length depends on the stages.

    Raises:
      ValueError: a flag cannot be read or is not for stories, or the story is wrong.
      FileNotFoundError: there is no such file of --story or --prompts_file.
    """
    from vidgen.story import parse
    from vidgen.story.script import FirstFrames

    if flags.upscale_model is not None and flags.upscale is None:
        raise ValueError(
            "--upscale_model says where the stages of --upscale are, which is missing."
        )
    if flags.long:
        _check_long(flags)
    for name in _NOT_OF_STORIES:
        if _is_given(flags, name) and not (name.startswith("prompts") and flags.long):
            flag = {"prompts": "PROMPT", "first_stage": "--from"}.get(name, f"--{name}")
            if flags.long:
                raise ValueError(f"{flag} is not for --long, which makes one video of one prompt.")
            raise ValueError(f"{flag} is not for a story; the --story says what is shown.")
    optional = {name: getattr(flags, name) for name in ("output", "seed", "negative")} | {
        "on_step": _preview(flags),
        "restart": flags.restart or None,
        "context_frames": flags.context,
        "first": None if flags.first is None else FirstFrames(path=flags.first),
    }
    fields = sampling_settings(flags) | _without_none(optional)
    if flags.long:  # its length is known with the stages: see `long_prompt`
        return fields
    return fields | {"story": parse.load(flags.story, frames=flags.frames)}


def long_prompt(flags: argparse.Namespace) -> str:
    """Read the prompt of a video that is --long.

    Args:
      flags: of the command.

    Returns:
      The prompt.

    Raises:
      ValueError: there is none, or more than one.
      FileNotFoundError: there is no such --prompts_file.
    """
    prompts = read_prompts(flags.prompts, flags.prompts_file)
    if len(prompts) != 1:
        count = f"there are {len(prompts)} prompts"
        raise ValueError(f"--long makes one video, and {count}; give one, or a --story of scenes.")
    (prompt,) = prompts
    return prompt


def _check_long(flags: argparse.Namespace) -> None:
    for name in ("story", "upscale"):
        if getattr(flags, name) is not None:
            raise ValueError(
                f"--long and --{name} do not go together: a --story is as long as its scenes, and "
                "--long goes through the stages of --model up to --until."
            )
    long_prompt(flags)


def settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Read the flags of clips.

    Args:
      flags: of the command.

    Returns:
      Fields of `inference.generate.Generate`: those that flags set, and `prompts`.

    Raises:
      ValueError: a flag that cannot be read, or a file that cannot be used.
      FileNotFoundError: there is no such --prompts_file.
    """
    from vidgen.inference.conditioning_inputs import KnownFiles

    for name in _OF_STORIES:
        if _is_given(flags, name):
            raise ValueError(
                f"--{name} is for stories: give a --story too; one prompt is a story as well."
            )
    names = ("first", "last", "inpaint", "mask", "overlap")
    known = KnownFiles(**{name: getattr(flags, name) for name in names})
    same = ("frames", "fps", "negative", "strength", "output", "seed", "num_samples")
    optional = {name: getattr(flags, name) for name in same} | {
        "size": None if flags.size is None else read_size(flags.size),
        "init": _init(flags),
        "known": known or None,
        "on_step": _preview(flags),
        "keep_stages": flags.keep_stages or None,
    }
    fields = sampling_settings(flags) | _without_none(optional)
    required = "init" not in fields and "known" not in fields
    return fields | {"prompts": read_prompts(flags.prompts, flags.prompts_file, required=required)}


def _is_given(flags: argparse.Namespace, name: str) -> bool:
    value = getattr(flags, name)
    return value is not None and value is not False and value != []


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that are not None: what no flag says is left to the files."""
    return {name: value for name, value in values.items() if value is not None}


def sampling_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Read the flags that may differ from stage to stage.

    Args:
      flags: of the command; some of these flags may be missing.

    Returns:
      `batch_size`, `checkpoint_step` and `sampling` of a run, each only where a flag sets it.

    Raises:
      ValueError: a value cannot be read.
    """
    from vidgen.inference import per_stage, stage_folders
    from vidgen.inference.sampling_settings import Sampling

    whole = ("steps", "batch_size", "step", "resample", "resample_jump")
    number = ("gamma", "churn", "reconstruction", "temperature", "guidance_rescale")
    number += ("guidance_parallel", "guidance_norm", "guidance_momentum")
    readers: dict[str, Any] = dict.fromkeys(whole, per_stage.whole)
    readers |= dict.fromkeys(number, per_stage.number)
    readers |= dict.fromkeys(("sampler", "threshold"), per_stage.word)
    readers |= {"guidance": per_stage.weights, "guidance_interval": per_stage.interval}
    models = [getattr(flags, name, None) for name in ("model", "upscale_model")]
    further = functools.partial(stage_folders.of_models, [model for model in models if model])
    each: dict[str, Any] = {
        name: per_stage.parse(name, getattr(flags, name), read, further)
        for name, read in readers.items()
        if getattr(flags, name, None) is not None
    }
    fields = {"batch_size": each.pop("batch_size", None), "checkpoint_step": each.pop("step", None)}
    return _without_none(fields | {"sampling": Sampling(**each) if each else None})


def _preview(flags: argparse.Namespace) -> Look | None:
    """Return what draws --preview, or the callback of a call from Python, or both."""
    from vidgen.inference.preview import DrawPreview, each

    if flags.preview is not None and flags.preview == (flags.output or "out.mp4"):
        raise ValueError(f"--preview and --output are both {flags.preview}; name two files.")
    looks = (getattr(flags, "on_step", None), flags.preview and DrawPreview(flags.preview))
    return each(*filter(None, looks))


def _init(flags: argparse.Namespace) -> Init | None:
    from vidgen.inference.conditioning_inputs import Init

    if flags.init is not None:
        return Init(path=flags.init, size=flags.init_size, start=flags.init_start)
    for name in ("init_size", "init_start"):
        if getattr(flags, name) not in ("model", 0.0):
            raise ValueError(f"--{name} says how to read --init=FILE, which is missing.")
    return None


def read_size(text: str) -> tuple[int, int]:
    """Read the --size of a clip.

    Args:
      text: HEIGHTxWIDTH.

    Returns:
      (height, width) in pixels: "96x160" is (96, 160).

    Raises:
      ValueError: the text is not of that form.
    """
    match = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not match:
        raise ValueError(f"--size={text}: give HEIGHTxWIDTH, such as 96x160.")
    return int(match[1]), int(match[2])


def read_prompts(
    prompts: Sequence[str], file: str | None, required: bool = True
) -> tuple[str, ...]:
    """Read the prompts of the command, then those of a file.

    Args:
      prompts: of the command.
      file: has one prompt a line, in UTF-8; blank lines do not count. None: there is no file.
      required: whether having no prompt is an error; else it is one empty prompt, which generates
        without text.

    Returns:
      The prompts, at least one, without blanks around them.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no prompt or is no text, or there is no prompt at all.
    """
    prompts = [prompt.strip() for prompt in prompts]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--prompts_file {file} is no UTF-8 text ({error.reason}).") from error
        of_file = [line.strip() for line in lines if line.strip()]
        if not of_file:
            raise ValueError(f"--prompts_file {file} holds no prompt; write one a line.")
        prompts += of_file
    if not prompts and required:
        raise ValueError('no prompt given: vidgen generate "what to show" ..., or --prompts_file.')
    return tuple(prompts) or ("",)
