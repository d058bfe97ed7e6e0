"""Results of `vidgen evaluate`: a table for the terminal, and JSON that reads back unchanged.

A result is a plain dictionary:

    vidgen    the version that measured
    title     what was judged
    protocol  settings of the measurement, flat or nested: name, frames, height, width, fps, stride,
              clips, seed, range of pixels, resize, sampling, ...; all that is there is shown
    made      {"what": words, "n": clips, "fingerprint": hex digits of the content}
    real      likewise, or None where nothing was compared with real clips
    metrics   by name: {"value", "stderr" or None, "n": clips, "n_real" or None, "unit",
              "better": "lower", "higher" or None, "what": words, "network" or None,
              "warning": a sentence or None}; psnr also "identical": clips that equal the truth,
              which have no finite value and are not in the mean
    videos    optional: [{"prompt", "made": a file, "real": a file or None}, ...]
    curves    optional: the metrics.jsonl of the training run, or None

A network is {"name", "layer", "file", "sha256", "size", "resize", "antialias", "range"}: what the
features are, and how clips became its input. Two distances mean the same only if all of it agrees.

JSON has no word for what is not finite. It is written as null, with a note in "not_finite": the
place of each (a JSON pointer, RFC 6901) and "inf", "-inf" or "nan"; `load` restores them.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidgen import paths
from vidgen.evals.report import facts
from vidgen.evals.report.facts import Result

WIDTH = 96  # of the table, in characters
_TITLE, _WHAT = 22, 40  # characters: of a title, at most; of a column of descriptions, at least
_HASH = 12  # hex digits shown of a hash
_HARD = "\xa0"  # a space at which no line breaks
_VALUE = (int, float, type(None))


# ---- table ---------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """Write metrics of results side by side, then protocol, networks and warnings.

    Args:
      results: one or more.

    Returns:
      Text of at most 96 columns where titles and values leave room.
    """
    names = facts.metric_names(results)
    counts = "n / real" if any(_counts(results, name).count("/") for name in names) else "n"
    head = ["metric", *(_short(result["title"]) for result in results), counts, "better", "what"]
    rows = [_row(results, name) for name in names]
    marked = any(cell.endswith("*") for row in rows for cell in row[1:-3])
    if marked:  # titles stand over the values, not over the marks
        head[1:-3] = [f"{title}  " for title in head[1:-3]]
    lines = _layout([head, *rows])
    if marked:
        lines.append(
            "* the better one, by more than the standard error of the difference where it is known"
        )
    lines += ["", *_described(results)]
    if remarks := facts.remarks(results):
        lines += ["", *(line for text in remarks for line in _wrapped(f"warning: {text}", "  "))]
    return "\n".join(lines)


def _row(results: Sequence[Result], name: str) -> list[str]:
    """Return the cells of one metric, padded so that digits of marked and unmarked values align."""
    best = facts.best(results, name)
    marks = ["" if best is None else " *" if i == best else "  " for i in range(len(results))]
    values = [facts.value_text(result["metrics"].get(name)) for result in results]
    cells = [value + mark for value, mark in zip(values, marks, strict=True)]
    metric = facts.metric_of(results, name)
    counts, better = _counts(results, name), metric.get("better") or "-"
    return [name, *cells, counts, better, facts.description(metric)]


def _counts(results: Sequence[Result], name: str) -> str:
    texts = (facts.count_text(result["metrics"].get(name)) for result in results)
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _layout(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align lines under a rule; descriptions wrap, or stand below where there is no room."""
    *_, last = zip(*rows, strict=True)
    left = {0, len(rows[0]) - 2}
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    room = WIDTH - sum(widths) - 2 * len(widths)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        start = "  ".join(cells)
        wrapped = textwrap.wrap(row[-1], room) if room >= _WHAT else []
        lines.append("  ".join([start, *wrapped[:1]]).rstrip())
        lines += [" " * (len(start) + 2) + part for part in wrapped[1:]]
    lines.insert(1, "-" * max(map(len, lines)))
    if room < _WHAT:
        pairs = zip(rows[1:], last[1:], strict=True)
        below = [line for row, what in pairs for line in _wrapped(f"{row[0]}: {what}", "  ")]
        lines += ["", *below]
    return lines


def _described(results: Sequence[Result]) -> list[str]:
    """Say what was measured, how, and through which networks."""
    texts = [f"{result['title']}: {_clips(result['made'])}" for result in results]
    real = dict.fromkeys(_clips(r["real"]) for r in results if r.get("real") is not None)
    texts += [f"real: {text}" for text in real]
    protocols = [facts.settings(result["protocol"]) for result in results]
    shared = dict(set.intersection(*(set(protocol.items()) for protocol in protocols)))
    texts.append(f"protocol: {_listed({k: v for k, v in protocols[0].items() if k in shared})}")
    for result, protocol in zip(results, protocols, strict=True):
        settings = {name: value for name, value in protocol.items() if name not in shared}
        texts += [f"protocol of {result['title']}: {_listed(settings)}"] if settings else []
    for names, network in facts.networks(results):
        texts.append(f"network of {', '.join(names)}: {_network_text(network)}")
    return [line for text in texts for line in _wrapped(text, "  ")]


def _network_text(network: Mapping[str, Any]) -> str:
    """Write the name and all settings of a network, with the first digits of its hash."""
    rest = {key: value for key, value in network.items() if key != "name"}
    if isinstance(rest.get("sha256"), str):
        rest["sha256"] = rest["sha256"][:_HASH]
    return "; ".join(filter(None, [str(network.get("name", "")), _listed(facts.settings(rest))]))


def _clips(clips: Mapping[str, Any]) -> str:
    mark = str(clips.get("fingerprint") or "")[:_HASH]
    return f"{clips['what']}, fingerprint {mark}" if mark else str(clips["what"])


def _listed(settings: Mapping[str, str]) -> str:
    """Write names and values; lines break only between two of them."""
    pairs = (f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return "; ".join(pair.replace(" ", _HARD) for pair in pairs)


def _short(title: str) -> str:
    """Return the end of a long title: of paths, that is what differs."""
    return title if len(title) <= _TITLE else "..." + title[3 - _TITLE :]


def _wrapped(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace(_HARD, " ") for line in lines]


# ---- JSON ----------------------------------------------------------------------------------------


def dumps(result: Result) -> str:
    """Write a result as strict JSON; what is not finite is null, and noted in "not_finite".

    Args:
      result: numbers, texts, lists and mappings.

    Returns:
      JSON that `load` reads back unchanged.

    Raises:
      ValueError: something in it is no number, text, list or mapping.
    """
    notes: dict[str, str] = {}
    tree = _strict({k: v for k, v in result.items() if k != "not_finite"}, "", notes)
    tree |= {"not_finite": notes} if notes else {}
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(x: Any, place: str, notes: dict[str, str]) -> Any:
    """Return `x` out of plain types; add places of what is not finite to `notes`."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        notes[place] = f"{x:g}"
        return None
    if x is None or isinstance(x, (str, bool, int, float)):
        return x
    if isinstance(x, os.PathLike):
        return os.fspath(x)
    if isinstance(x, Mapping):
        return {str(k): _strict(v, f"{place}/{_escaped(str(k))}", notes) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_strict(v, f"{place}/{i}", notes) for i, v in enumerate(x)]
    raise ValueError(
        f"a result holds a {type(x).__name__} at {place or '/'}; give numbers, texts, lists or "
        "dictionaries."
    )


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def load(path: paths.Path) -> dict[str, Any]:
    """Read the result in a file that `dumps` wrote.

    Args:
      path: the path of the file, here or in an object store.

    Returns:
      The result.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no such file.
    """
    try:
        tree = json.loads(paths.read(path).decode("utf-8"))
    except ValueError as error:
        raise _wrong(path, "it is not JSON") from error
    if not isinstance(tree, dict):
        raise _wrong(path, "it holds no object")
    kinds = {"title": str, "protocol": dict, "made": dict, "metrics": dict}
    for name, kind in kinds.items():
        if not isinstance(tree.get(name), kind):
            raise _wrong(path, f"it has no {name!r}")
    for name, metric in tree["metrics"].items():
        if not (isinstance(metric, dict) and isinstance(metric.get("value", ""), _VALUE)):
            raise _wrong(path, f"its metric {name!r} has no value")
    try:
        for place, word in tree.pop("not_finite", {}).items():
            _put(tree, place, float(word))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _wrong(path, 'its notes in "not_finite" do not fit it') from error
    return tree


def _put(tree: Any, place: str, value: float) -> None:
    """Set the number at a JSON pointer, where a null is now."""
    *outer, last = [key.replace("~1", "/").replace("~0", "~") for key in place.split("/")[1:]]
    for key in outer:
        tree = tree[int(key) if isinstance(tree, list) else key]
    tree[int(last) if isinstance(tree, list) else last] = value


def _wrong(path: paths.Path, reason: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)}: expected a result that vidgen evaluate wrote as JSON, but {reason}."
    )
