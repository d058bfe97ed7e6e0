"""What the page shows of a generation, as HTML that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import time

from vidgen.progress import duration
from vidgen.web.jobs import Job

HEADER = """<header class="vg-header"><h1>vidgen</h1>
<p>Videos from sentences, made on this machine.</p></header>"""
EMPTY = '<div class="vg-screen"><p>The video appears here.</p></div>'


def picture(job: Job) -> str:
    """Show the current prediction of a generation.

    Args:
      job: the generation.

    Returns:
      HTML that holds the picture; an empty screen before there is one.
    """
    if job.picture is None:
        return '<div class="vg-screen"></div>'
    data = base64.b64encode(job.picture).decode()
    source = f"data:image/webp;base64,{data}"
    return f'<div class="vg-screen"><img src="{source}" alt="the video so far"></div>'


def progress(job: Job, ahead: int) -> str:
    """Show how far a generation is, or why it is over.

    Args:
      job: the generation.
      ahead: how many come before it, >= 0.

    Returns:
      HTML: a bar while it waits or runs, then a message.
    """
    if job.state == "waiting":
        others = "1 generation" if ahead == 1 else f"{ahead} generations"
        return _bar(f"Waiting for {others} before this one", None)
    if job.state == "running":
        elapsed = duration(time.monotonic() - job.began)
        if job.is_stopping:
            return _bar(f"Stopping after this step · {elapsed}", None)
        if job.step is None:
            return _bar(f"Loading and compiling · {elapsed}", None)
        return _bar(f"{job.step.text} · {elapsed}", job.step.share)
    if job.state == "failed":
        return message(job.error or "", "error")
    if job.state == "stopped":
        return message("Stopped. Nothing was written.", "note")
    return message(f"Done in {duration(job.seconds)}.", "note")


def message(text: str, kind: str) -> str:
    """Show a sentence.

    Args:
      text: the sentence, which is escaped.
      kind: "error", which a screen reader says at once, or "note".

    Returns:
      HTML.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="vg-message vg-{kind}" role="{role}">{html.escape(text)}</p>'


def _bar(text: str, share: float | None) -> str:
    """Show a text above a bar; without a share it moves to and fro."""
    if share is None:
        state, style = "", 'class="vg-fill vg-moving"'
    else:
        percent = round(100 * share)
        state, style = f'aria-valuenow="{percent}"', f'class="vg-fill" style="width:{percent}%"'
    return (
        f'<div class="vg-progress"><p>{html.escape(text)}</p><div class="vg-bar" '
        f'role="progressbar" aria-valuemin="0" aria-valuemax="100" {state}>'
        f"<div {style}></div></div></div>"
    )
