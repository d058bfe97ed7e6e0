"""`vidgen web`: serve the page until SIGINT or SIGTERM.

Nothing leaves the machine: no fonts, no analytics, no check for new versions, no tunnel. The page
is bound to this machine unless --host says otherwise; whoever reaches it can then use the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator

from vidgen.web import models
from vidgen.web.jobs import Build, Worker

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `vidgen web` serves, and where.

    Attributes:
      model: makes clips, and makes uploaded ones larger; None: see `models.offers`.
      story_model: tells stories; None: likewise.
      host: address to bind.
      port: of the page; 0 takes a free one.
      upload_mb: the largest file that can be uploaded, in megabytes of 2²⁰ bytes.
      more: flags of every command.
    """

    model: str | None = None
    story_model: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    upload_mb: int = 64  # [guess] a minute of a phone's video; a stage reads a few seconds of it
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port is {self.port}; it must be in 0 ... {2**16 - 1}.")
        if self.upload_mb < 1:
            raise ValueError(f"--upload_mb is {self.upload_mb}; it must be 1 or more.")


def serve(settings: Settings, build: Build, explain: Callable[[Exception], str]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
      settings: what to serve, and where.
      build: builds a run; see `jobs.Worker`.
      explain: says in one sentence what went wrong; see `jobs.Worker`.

    Raises:
      ValueError: gradio is not installed, or the port is taken.
      FileNotFoundError: there is no such model.
    """
    stopped = threading.Event()
    with serving(settings, build, explain) as address:
        before = {s: signal.signal(s, lambda *_: stopped.set()) for s in _SIGNALS}
        log.info("the page is at %s; stop it with Ctrl-C", address)
        try:
            stopped.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        log.info("stopping after the step that runs")


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def serving(settings: Settings, build: Build, explain: Callable[[Exception], str]) -> Iterator[str]:
    """Serve the page in the block.

    Args:
      settings: what to serve, and where.
      build: builds a run; see `jobs.Worker`.
      explain: says in one sentence what went wrong; see `jobs.Worker`.

    Yields:
      The address of the page.

    Raises:
      ValueError: gradio is not installed, or the port is taken.
      FileNotFoundError: there is no such model.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('the page needs gradio: pip install -e ".[web]" (or vidgen[web]).')
    offers = models.offers(settings.model, settings.story_model)
    address = settings.host.strip("[]")
    port = _free_port(address, settings.port)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vidgen-uploads-"))
        direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost", address]
        stack.enter_context(
            _environment(
                GRADIO_TEMP_DIR=folder,
                GRADIO_ANALYTICS_ENABLED="False",
                no_proxy=",".join(filter(None, direct)),  # gradio asks its own server at the start
            )
        )
        from vidgen.web import page

        worker = Worker(build, explain)
        stack.callback(worker.close)
        blocks = page.Page(worker, offers, settings.more).blocks
        stack.callback(blocks.close, verbose=False)
        _, url, _ = blocks.launch(
            server_name=f"[{address}]" if ":" in address else address,
            server_port=port,
            prevent_thread_lock=True,
            inline=False,
            share=False,
            quiet=True,
            footer_links=[],
            run_history=False,
            max_file_size=settings.upload_mb * 2**20,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            theme=page.THEME,
            css_paths=[page.CSS],
        )
        yield url


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
      ValueError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"cannot serve on {host}:{port} ({reason}); choose another --port, such as 0 for a "
            "free one, or another --host."
        ) from error


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables of the environment in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
