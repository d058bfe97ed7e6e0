"""What `vidgen generate` runs: its flags to a run that is built and not yet called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from vidgen.cli import generate_flags
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import generate, stages, upscale_stages
from vidgen.inference.stages import Stage
from vidgen.story import generate_story, long_video, upscale


def build(flags: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, str]]:
    """Build the run of `vidgen generate`; wrong input stops here, and nothing is written.

    Args:
      flags: of the command, and `bindings`; `on_step`, if it is there, sees the sampling steps.

    Returns:
      The run, and the configurations that it used, by what each is of.

    Raises:
      ValueError: a flag, a file or a setting is wrong.
      FileNotFoundError: there is no such model.
    """
    is_story = flags.story is not None or flags.long
    fields = (generate_flags.story_settings if is_story else generate_flags.settings)(flags)
    model, cascade = generate_flags.models(flags)
    folders = stages.find(model, flags.first_stage, flags.until)
    later = upscale_stages.find(flags.upscale, model, cascade)
    folders = folders[:1] if later else folders
    # Every stage has a configuration of its own, and all of them bind the same names.
    sessions = Sessions(["runs/generate.gin"], flags.gin_file, flags.bindings)
    trained = [stages.build_trained(sessions, stages.Stage, folder) for folder in folders]
    raising = [stages.build_trained(sessions, stages.Stage, folder) for folder in later]
    stages.check_names(trained, flags.first_stage, flags.until)
    upscale_stages.check_names(raising, later, flags.upscale)
    if is_story:
        run = story_run(flags, sessions, trained, raising, fields)
    else:
        run = sessions.build(generate.Generate, stages=trained, **fields)
    sessions.check_bindings()
    titles = [*map(str, (*folders, *later)), "the run", "the upscaling"][: len(sessions.configs)]
    return run, dict(zip(titles, sessions.configs, strict=True))


def story_run(
    flags: argparse.Namespace,
    sessions: Sessions,
    trained: Sequence[Stage],
    raising: Sequence[Stage],
    fields: dict[str, Any],
) -> generate_story.GenerateStory | upscale.Upscale:
    """Build the run that makes a --story or a --long video.

    Args:
      flags: of the command.
      sessions: build the run with the configurations of the stages.
      trained: the stages of --model, of which the first makes the story.
      raising: those of --upscale; where there are none, the others of `trained` up-sample.
      fields: as `generate_flags.story_settings` returns them.

    Returns:
      The run of the story, or of the stages that up-sample it.

    Raises:
      ValueError: a flag or a story does not fit the stages.
    """
    teller, others = long_video.split(trained)
    raising = raising or others
    if flags.keep_stages and not raising:
        raise ValueError("--keep_stages is not for a story that one stage alone makes.")
    if flags.long:
        prompt = generate_flags.long_prompt(flags)
        fields = fields | {"story": long_video.story(prompt, flags.frames, trained)}
    if flags.fps is not None:
        teller = long_video.at_rate([teller, *raising], flags.fps)
    run = sessions.build(generate_story.GenerateStory, stage=teller, **fields)
    if not raising:
        return run
    options = {"stages": raising, "keep_stages": flags.keep_stages}
    return sessions.build(upscale.Upscale, generate=run, **options)
