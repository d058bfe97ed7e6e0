"""What is typed on the page, as the words of `vidgen generate`, and as the line that is shown.

The page runs these words and shows the same ones, so the line makes the same file again. They come
from whoever opens the page: a word is one value of one flag, whatever is in it, and names no file
but the one that was uploaded.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from vidgen.story import parse

MAX_TEXT = 1000  # [guess] characters of a prompt; text encoders read some 128 to 512 tokens
MAX_SCENES = 12  # [guess] what a page shows at once; a file of --story has any number
OUTPUT = "clip.mp4"
UPLOADS = (".mp4", ".webm", ".mov", ".mkv", ".gif", ".webp", ".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A `vidgen generate` without its `--output` and `--init`.

    Attributes:
      flags: "--name=value".
      prompt: behind them; None where a flag says what to show.
      upload: the file of --init, None: there is none.
    """

    flags: tuple[str, ...] = ()
    prompt: str | None = None
    upload: Path | None = None

    def words(self, output: str, upload: str | None = None) -> list[str]:
        """List what comes behind `vidgen generate`.

        Args:
          output: the file to write.
          upload: what --init names the uploaded file; None: the path where it lies.

        Returns:
          One word of the command each: the flags, then "--" and the prompt, if there is one.
        """
        words = [*self.flags]
        if self.upload is not None:
            words.append(f"--init={upload or self.upload}")
        words.append(f"--output={output}")
        return words if self.prompt is None else [*words, "--", self.prompt]

    def line(self) -> str:
        """Return the line that makes the same file, in a folder that holds the uploaded one."""
        upload = None if self.upload is None else self.upload.name
        words = self.words(OUTPUT, upload)
        if self.prompt is not None and not self.prompt.startswith("-"):
            words = [self.prompt, *words[:-2]]  # as a person would write it
        return " ".join(["vidgen", "generate", *map(_quoted, words)])


def clip(prompt: str, **flags: str | None) -> Command:
    """Read a prompt and the flags of a clip.

    Args:
      prompt: as it was typed.
      **flags: values by the name of the flag; one that is empty or None is left out.

    Returns:
      The command.

    Raises:
      ValueError: the prompt is empty, or a text is too long.
    """
    text = cleaned("the prompt", prompt)
    if not text:
        raise ValueError("The prompt is empty: say what to show.")
    return Command(flags=_flags(flags), prompt=text)


def story(scenes: Sequence[str], **flags: str | None) -> Command:
    """Read the prompts of the scenes and the flags of a story.

    Args:
      scenes: prompts as they were typed, in the order of the story; empty ones are left out.
      **flags: values by the name of the flag; one that is empty or None is left out.

    Returns:
      The command, whose --story holds all scenes in one line.

    Raises:
      ValueError: there is no scene, or the story in one line would be another one.
    """
    cleaned_scenes = [cleaned(f"scene {i + 1}", scene) for i, scene in enumerate(scenes)]
    prompts = [prompt for prompt in cleaned_scenes if prompt]
    if not prompts:
        raise ValueError("There is no scene: say what the first one shows.")
    text = ". then ".join(prompts)
    parsed = [scene.prompt for scene in parse.short(text).scenes]
    name = Path(text.partition("#")[0].strip())
    if name.suffix.lower() in parse.SUFFIXES:  # `--story` would read a file of that name
        raise ValueError(f"A scene cannot end in {name.suffix}: that names the file of a story.")
    for number, prompt in enumerate(prompts):
        if number >= len(parsed) or parsed[number] != prompt:
            raise ValueError(
                f"Scene {number + 1} ends in a period, or holds “. then”, which begins another "
                "scene: take it out, or make two scenes of it."
            )
    return Command(flags=(f"--story={text}", *_flags(flags)))


def upscaling(upload: str | None, prompt: str, **flags: str | None) -> Command:
    """Read an uploaded clip that stages make larger or smoother.

    Args:
      upload: path of the uploaded file; None: nothing was uploaded.
      prompt: what the clip shows, as it was typed; it may be empty.
      **flags: values by the name of the flag; one that is empty or None is left out.

    Returns:
      The command.

    Raises:
      ValueError: there is no clip, its kind is not known, or a text is too long.
    """
    if upload is None:
        raise ValueError("There is no clip: choose or drop a file first.")
    path = Path(upload)
    if path.suffix.lower() not in UPLOADS:
        kinds = ", ".join(UPLOADS)
        raise ValueError(f"{path.name} is no clip that can be read: choose one of {kinds}.")
    return Command(flags=_flags(flags), prompt=cleaned("the prompt", prompt) or None, upload=path)


def cleaned(what: str, text: str | None) -> str:
    """Bring a text to one line: what cannot be printed is a blank, and blanks in a row are one.

    Args:
      what: the text is, for the message.
      text: as it was typed; None is empty.

    Returns:
      The line, without blanks around it.

    Raises:
      ValueError: it is longer than `MAX_TEXT`.
    """
    printable = "".join(c if c.isprintable() else " " for c in text or "")
    line = " ".join(printable.split())
    if len(line) > MAX_TEXT:
        raise ValueError(f"{what.capitalize()} has {len(line)} characters, more than {MAX_TEXT}.")
    return line


def _flags(values: dict[str, str | None]) -> tuple[str, ...]:
    texts = {name: cleaned(f"--{name}", value) for name, value in values.items()}
    for name, text in texts.items():
        if text == "--":  # of which Python's parser makes nothing
            raise ValueError(f"--{name} is --; it must be a value.")
    return tuple(f"--{name}={text}" for name, text in texts.items() if text)


def _quoted(word: str) -> str:
    """Quote a word for a shell; of a flag, its value alone."""
    name, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{name}={shlex.quote(value)}"
    return shlex.quote(word)
