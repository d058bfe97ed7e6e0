"""Results of `vidgen evaluate` as one page: numbers, plots, and the clips themselves.

The page is a single file of HTML5 that asks for nothing else: no script, no font, no picture from
elsewhere (a content security policy in it says so to the browser). Clips are the bytes of their
files, as data URIs. It is light or dark as the reader's system is, and the same results give the
same bytes.

What a result holds is described in report.py.
"""

from __future__ import annotations

import base64
import errno
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vidgen import paths
from vidgen.evals.report import facts, plots
from vidgen.evals.report.facts import Result
from vidgen.evals.report.style import CSS

_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
_IMAGES = {".gif": "image/gif", ".webp": "image/webp", ".png": "image/png"}
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_ROOM = 8.5  # rem beside each other for a clip

_escape = html.escape


def page(results: Sequence[Result]) -> str:
    """The page of one result, or of several side by side.

    Raises:
      ValueError: there is no result; a clip is of a kind that browsers do not play; matplotlib is
        missing.
      OSError: a clip or a log cannot be read.
    """
    if not results:
        raise ValueError("a page needs a result of vidgen evaluate; none was given.")
    title = " and ".join(dict.fromkeys(result["title"] for result in results))
    parts = [
        _head(title, results),
        _warnings(results),
        _summary(results),
        _plots("Metrics", plots.metric_svgs(results)),
        _plots("Training", plots.loss_svgs(results)),
        _clips(results),
        _details(results),
        f"<footer>Written by vidgen {_escape(_versions(results))}.</footer>",
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def write_page(path: paths.Path, results: Sequence[Result]) -> None:
    """Writes the page, whole or not at all; its folder is made too.

    Raises:
      ValueError: as `page`.
      OSError: as `page`, or the page cannot be written.
    """
    paths.write(path, page(results).encode("utf-8"))


# ---- numbers -------------------------------------------------------------------------------------


def _head(title: str, results: Sequence[Result]) -> str:
    """Title, what was made, and how it was measured, in a few words."""
    lines = [f"{_name(results, i)}: {_made(r['made'])}" for i, r in enumerate(results)]
    if len(results) == 1:
        lines = [_made(results[0]["made"])]
    real = dict.fromkeys(_made(r["real"]) for r in results if r.get("real") is not None)
    lines += [f"Compared with {text}" for text in real]
    told = "".join(f'<p class="soft">{line}</p>\n' for line in lines)
    return f"<header>\n<h1>{_escape(title)}</h1>\n{told}</header>"


def _made(clips: Mapping[str, Any]) -> str:
    return _escape(str(clips["what"]))


def _name(results: Sequence[Result], index: int) -> str:
    """The title of a result behind a dot of its color."""
    dot = f'<span class="dot" style="background:{plots.color_of(index)}"></span>'
    return f"{dot}&NoBreak;{_escape(results[index]['title'])}"


def _warnings(results: Sequence[Result]) -> str:
    said = facts.remarks(results)
    items = "".join(f"<li>{_escape(text)}</li>\n" for text in said)
    return f'<ul class="warnings" role="note">\n{items}</ul>' if said else ""


def _summary(results: Sequence[Result]) -> str:
    """A row for each metric, a column for each result, the better value marked."""
    names = facts.metric_names(results)
    heads = "".join(f"<th>{_name(results, i)}</th>" for i in range(len(results)))
    rows = "\n".join(_metric_row(results, name) for name in names)
    marked = any(facts.best(results, name) is not None for name in names)
    legend = (
        '<p><small><span class="best">✓</span> the better one, by more than the standard error of '
        "the difference where it is known</small></p>"
    )
    return (
        '<h2>Results</h2>\n<div class="wide"><table class="results">\n'
        f"<thead><tr><th>metric</th>{heads}<th>better</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        f"{legend if marked else ''}"
    ).rstrip()


def _metric_row(results: Sequence[Result], name: str) -> str:
    metric = facts.metric_of(results, name)
    best = facts.best(results, name)
    cells = []
    for i, result in enumerate(results):
        found = result["metrics"].get(name)
        value = _escape(facts.value_text(found))
        value = f'<span class="best">{value} ✓</span>' if i == best else value
        made, _, real = facts.count_text(found).partition(" / ")
        count = f"{made} clips, {real} real" if real else f"{made} clips" if made else ""
        cells.append(f'<td class="value">{value}<small>{count}</small></td>')
    what = _escape(metric["what"])
    network = metric.get("network")
    inside = "" if network is None else f" ({_escape(str(network['name']))})"
    return (
        f"<tr><th>{_escape(name)}<small>{what}{inside}</small></th>{''.join(cells)}"
        f"<td>{_escape(metric.get('better') or '-')}</td></tr>"
    )


def _plots(title: str, drawn: Sequence[str]) -> str:
    inner = "\n".join(drawn)
    return f'<h2>{title}</h2>\n<div class="plots">\n{inner}\n</div>' if drawn else ""


# ---- clips ---------------------------------------------------------------------------------------


def _clips(results: Sequence[Result]) -> str:
    """A card for each prompt: what each model made of it, beside the real clip."""
    cards = _by_prompt(results)
    if not cards:
        return ""
    most = max(len(figures) for _, figures in cards)
    inner = "\n".join(
        f'<div class="clip"><div class="row">{"".join(figures)}</div><p>{_escape(prompt)}</p></div>'
        for prompt, figures in cards
    )
    room = f"--room:{min(most, 3) * _ROOM:g}rem"
    return f'<h2>Clips</h2>\n<div class="clips" style="{room}">\n{inner}\n</div>'


def _by_prompt(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Prompts in the order of their first appearance, with figures of the clips of each.

    A prompt that a result shows more than once has a card for each time; a real clip that results
    share is shown once.
    """
    cards: dict[tuple[str, int], tuple[list[str], dict[str, None]]] = {}
    for i, result in enumerate(results):
        seen: dict[str, int] = {}
        for video in result.get("videos") or ():
            prompt = video["prompt"]
            seen[prompt] = seen.get(prompt, 0) + 1
            made, real = cards.setdefault((prompt, seen[prompt]), ([], {}))
            made.append(_figure(video["made"], prompt, _name(results, i)))
            if video.get("real"):
                real[_figure(video["real"], prompt, "real")] = None
    return [(prompt, [*made, *real]) for (prompt, _), (made, real) in cards.items()]


def _figure(path: str, prompt: str, caption: str) -> str:
    """A clip that plays by itself, over and over, and without a sound."""
    label = _escape(prompt, quote=True)
    kind, data = _data(path)
    if kind in _VIDEOS.values():
        clip = f'<video autoplay loop muted playsinline aria-label="{label}" src="{data}"></video>'
    else:
        clip = f'<img alt="{label}" src="{data}">'
    return f"<figure>{clip}<figcaption>{caption}</figcaption></figure>"


def _data(path: str) -> tuple[str, str]:
    """The kind of a clip's file, and its bytes as a URI."""
    kinds = _VIDEOS | _IMAGES
    kind = kinds.get(os.path.splitext(str(path))[1].lower())
    if kind is None:
        raise ValueError(
            f"{path}: browsers do not play such a file; give the page clips that end in "
            f"{', '.join(kinds)}."
        )
    try:
        data = paths.read(path)
    except OSError as error:
        number = error.errno or errno.EIO
        reason = f"the page is to show this clip, which cannot be read ({error.strerror or error})"
        raise type(error)(number, reason, str(path)) from error
    return kind, f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# ---- protocol ------------------------------------------------------------------------------------


def _details(results: Sequence[Result]) -> str:
    """All settings, and the networks with their hashes, for whoever repeats the measurement."""
    protocols = [facts.settings(result["protocol"]) for result in results]
    made = [_identity(result["made"], "made") for result in results]
    real = [_identity(result.get("real") or {}, "real") for result in results]
    rows = [p | m | r for p, m, r in zip(protocols, made, real, strict=True)]
    apart = facts.different_settings(results)
    parts = [_settings_table(results, rows, apart)]
    for names, network in facts.networks(results):
        rest = facts.settings({k: v for k, v in network.items() if k != "name"})
        title = f"{network['name']}, for {', '.join(names)}"
        parts.append(f"<h3>{_escape(title)}</h3>\n{_settings_table((), [rest], ())}")
    inner = "\n".join(parts)
    return f"<details>\n<summary>Protocol and networks</summary>\n{inner}\n</details>"


def _identity(clips: Mapping[str, Any], which: str) -> dict[str, str]:
    """What a set of clips is, as settings."""
    return facts.settings({f"{which}.{name}": value for name, value in clips.items()})


def _settings_table(
    results: Sequence[Result], columns: Sequence[Mapping[str, str]], apart: Iterable[str]
) -> str:
    """A row for each name; results that agree on everything share a column."""
    if all(column == columns[0] for column in columns):
        columns = columns[:1]
    names = dict.fromkeys(name for column in columns for name in column)
    head = ""
    if len(columns) > 1:
        cells = "".join(f"<th>{_name(results, i)}</th>" for i in range(len(results)))
        head = f"<thead><tr><th></th>{cells}</tr></thead>\n"
    rows = []
    for name in names:
        mark = ' class="apart"' if name in apart else ""
        cells = "".join(f"<td><code>{_escape(c.get(name, '-'))}</code></td>" for c in columns)
        rows.append(f"<tr{mark}><th>{_escape(name.replace('_', ' '))}</th>{cells}</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _versions(results: Sequence[Result]) -> str:
    return " and ".join(dict.fromkeys(str(result.get("vidgen", "?")) for result in results))
