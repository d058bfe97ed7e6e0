"""`vidgen web`: its flags, and how the page builds what `vidgen generate` would run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vidgen.assets import zoo
from vidgen.cli.errors import sentence
from vidgen.cli.generate_flags import COUNT, FILE, Row

if TYPE_CHECKING:
    from vidgen.inference.preview import Look

FLAGS: tuple[Row, ...] = (
    ("--model", FILE | {"metavar": "MODEL"}, "makes clips, and uploaded ones larger; default: "
     f"{zoo.DEFAULT}"),
    ("--story_model", FILE | {"metavar": "MODEL"}, f"tells stories; default: {zoo.STORIES}"),
    ("--host", {"default": "127.0.0.1", "metavar": "ADDRESS"}, "address to serve on; default: "
     "127.0.0.1, which only this machine reaches. 0.0.0.0 lets whoever reaches it use it"),
    ("--port", COUNT | {"default": 7860}, "port to serve on, 0 for a free one; default: 7860"),
    ("--upload_mb", COUNT | {"default": 64}, "the largest file that can be uploaded, in megabytes; "
     "default: 64"),
)  # fmt: skip

Parse = Callable[[Sequence[str]], argparse.Namespace]


def run(flags: argparse.Namespace, parse: Parse) -> None:
    """Serve the page until SIGINT (Ctrl-C) or SIGTERM.

    Args:
      flags: of the command, and `bindings`.
      parse: reads the words of `vidgen generate`.

    Raises:
      ValueError: gradio is not installed, a flag is wrong, or the port is taken.
      FileNotFoundError: there is no such model.
    """
    from vidgen.web import server

    if flags.dry_run:
        raise ValueError("vidgen web has no --dry_run: leave it out.")
    more = [f"--gin_file={file}" for file in flags.gin_file]
    more += [f"--gin.{binding}" for binding in flags.bindings]
    if flags.gin_search_paths:
        more.append(f"--gin_search_paths={','.join(flags.gin_search_paths)}")
    settings = server.Settings(
        model=flags.model,
        story_model=flags.story_model,
        host=flags.host,
        port=flags.port,
        upload_mb=flags.upload_mb,
        more=tuple(more),
    )
    server.serve(settings, builder(parse), lambda error: sentence(error)[0])


def builder(parse: Parse) -> Callable[[Sequence[str], Look], Callable[[], Any]]:
    """Return the function by which the page builds a run.

    Args:
      parse: reads the words of `vidgen generate`.

    Returns:
      A function of those words and of a callback that sees the sampling steps; it returns the run,
      and raises a ValueError or a FileNotFoundError as `generate_command.build` does.
    """

    def build(words: Sequence[str], look: Look) -> Callable[[], Any]:
        from vidgen.cli import generate_command

        try:
            flags = parse(words)
        except SystemExit as error:  # the parser has said on stderr what it is
            raise ValueError("a setting cannot be read; the terminal says which.") from error
        flags.on_step = look
        return generate_command.build(flags)[0]

    return build
