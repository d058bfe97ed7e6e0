"""Results of `vidgen evaluate` as one HTML page: numbers, plots, and the clips themselves.

page.html is the template. The page is a single file that asks for nothing else: no script, no font,
no picture from elsewhere (a content security policy in it says so to the browser). Clips are the
bytes of their files, as data URIs. The same results give the same bytes.

What a result holds is described in results.py.
"""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vidgen import paths
from vidgen.evals.report import facts, plots
from vidgen.evals.report.facts import Result

_KINDS = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".png": "image/png",
}
_ROOM = 8.5  # rem beside each other for a clip

Figure = tuple[int | None, str, str]  # index of the result (None: real), media type, data URI


def page(results: Sequence[Result]) -> str:
    """Make the page of one result, or of several side by side.

    Args:
      results: as results.py describes them, with `videos` and `curves` where there are such.

    Returns:
      HTML, all in one.

    Raises:
      ValueError: there is no result; a clip is of a kind that browsers do not play; matplotlib is
        missing.
      OSError: a clip or a log cannot be read.
    """
    if not results:
        raise ValueError("a page needs a result of vidgen evaluate; none was given.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    cards = _cards(results)
    most = max((len(figures) for _, figures in cards), default=0)
    settings = _settings(results)
    return environment.get_template("page.html").render(
        plots=plots,
        results=results,
        all_keys=lambda columns: dict.fromkeys(key for column in columns for key in column),
        title=" and ".join(dict.fromkeys(result["title"] for result in results)),
        real_sets=_distinct(r["real"]["what"] for r in results if r.get("real") is not None),
        remarks=facts.remarks(results),
        rows=[_row(results, name) for name in facts.metric_names(results)],
        metric_svgs=plots.metric_svgs(results),
        loss_svgs=plots.loss_svgs(results),
        cards=cards,
        room=f"{min(most, 3) * _ROOM:g}",
        settings=settings[:1] if all(column == settings[0] for column in settings) else settings,
        apart=facts.different_settings(results),
        networks=facts.networks(results),
        network_settings=_network_settings,
        versions=" and ".join(_distinct(result.get("vidgen", "?") for result in results)),
    )


def write_page(path: paths.Path, results: Sequence[Result]) -> None:
    """Write the page, whole or not at all; its folder is made too.

    Args:
      path: the path of the HTML file.
      results: as for `page`.

    Raises:
      ValueError: as `page`.
      OSError: as `page`, or the page cannot be written.
    """
    paths.write(path, page(results).encode("utf-8"))


def _distinct(texts: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(str, texts)))


def _row(results: Sequence[Result], name: str) -> dict[str, Any]:
    """Return one row of the table: a metric, with (value, number of clips) for each result."""
    metric = facts.metric_of(results, name)
    cells = []
    for result in results:
        entry = result["metrics"].get(name)
        count, _, real = facts.count_text(entry).partition(" / ")
        count = f"{count} clips, {real} real" if real else f"{count} clips" if count else ""
        cells.append((facts.value_text(entry), count))
    return {
        "name": name,
        "what": facts.description(metric),
        "cells": cells,
        "best": facts.best(results, name),
        "better": metric.get("better") or "-",
    }


def _cards(results: Sequence[Result]) -> list[tuple[str, list[Figure]]]:
    """Return prompts in the order of their first appearance, with the clips of each.

    A prompt that a result shows more than once has a card for each time; a real clip that results
    share is shown once.
    """
    cards: dict[tuple[str, int], tuple[list[Figure], dict[Figure, None]]] = {}
    for i, result in enumerate(results):
        times: dict[str, int] = {}
        for video in result.get("videos") or ():
            prompt = video["prompt"]
            times[prompt] = times.get(prompt, 0) + 1
            generated, real = cards.setdefault((prompt, times[prompt]), ([], {}))
            generated.append((i, *_data(video["made"])))
            if video.get("real"):
                real[None, *_data(video["real"])] = None
    return [(prompt, [*generated, *real]) for (prompt, _), (generated, real) in cards.items()]


def _data(path: str) -> tuple[str, str]:
    """Return the media type of a clip's file, and its bytes as a URI."""
    kind = _KINDS.get(os.path.splitext(str(path))[1].lower())
    if kind is None:
        raise ValueError(
            f"{path}: browsers do not play such a file; give the page clips that end in "
            f"{', '.join(_KINDS)}."
        )
    try:
        data = paths.read(path)
    except OSError as error:
        number = error.errno or errno.EIO
        reason = f"the page is to show this clip, which cannot be read ({error.strerror or error})"
        raise type(error)(number, reason, str(path)) from error
    return kind, f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _settings(results: Sequence[Result]) -> list[dict[str, str]]:
    """Return all settings of each result, and what its sets of clips are."""
    return [
        facts.settings(result["protocol"])
        | facts.settings(result["made"], "made.")
        | facts.settings(result.get("real") or {}, "real.")
        for result in results
    ]


def _network_settings(network: Mapping[str, Any]) -> dict[str, str]:
    return facts.settings({key: value for key, value in network.items() if key != "name"})
