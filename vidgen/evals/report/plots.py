"""Plots of results as SVG inside a page: metrics with error bars, and loss curves.

Lines and letters have the color of the surrounding text, on no background, so that they read on
light and on dark. The same numbers give the same bytes: there is no date, and shapes are named by
what they show.

Needs matplotlib (extra `eval`), which is imported when something is drawn.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vidgen import paths
from vidgen.evals.report import facts
from vidgen.evals.report.facts import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# [guess] Blue, orange, green, ...: readable on white and on black, in any order of two.
COLORS = ("#3b82c4", "#e0792b", "#35a06b", "#a566c7", "#c9525f", "#8a7f2d")
LOSSES = {
    "loss": "all",
    "loss_noisy": "log-SNR < -2",
    "loss_middle": "between",
    "loss_clean": "log-SNR > 2",
    "eval_loss": "held out",
    "held_out_loss": "held out",
}
_HELD_OUT = ("eval_loss", "held_out_loss")
_INK = "#123457"  # stands for the color of the text until the picture is done
_POINTS = 400  # of a curve, at most: about the pixels that it has

Rows = Sequence[Mapping[str, Any]]
Number = float | int


def color_of(index: int) -> str:
    """Return the color of a result, the same in all plots of a page.

    Args:
      index: the number of the result; after six, colors come again.

    Returns:
      A color for matplotlib and CSS.
    """
    return COLORS[index % len(COLORS)]


def rows(path: paths.Path) -> list[dict[str, Any]]:
    """Read the objects of a metrics.jsonl; an incomplete last line is left out.

    Args:
      path: the path of the file.

    Returns:
      One dict for each line.

    Raises:
      OSError: the file cannot be read.
      ValueError: a line is no object with a step.
    """
    lines = paths.read(path).decode("utf-8", "replace").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
            if number == len(lines):
                break
        if not isinstance(row, dict) or not isinstance(row.get("step"), (int, float)):
            raise ValueError(
                f"{path}: expected the metrics.jsonl of a training run, one object with a step in "
                f"each line; line {number} is none."
            )
        objects.append(row)
    return objects


def draw_losses(axes: Axes, metrics: Rows, names: Mapping[str, str] = LOSSES) -> None:
    """Draw losses over steps, held-out ones with dots; the axis is logarithmic if all are positive.

    Args:
      axes: axes of matplotlib, to draw in.
      metrics: the rows of a log.
      names: what to draw, and its label; names that are not in the log are left out.
    """
    from matplotlib import ticker

    for name, label in names.items():
        points = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
        if points:
            style = "o-" if name in _HELD_OUT else "-"
            steps, values = zip(*_thinned(points), strict=True)
            axes.plot(steps, values, style, label=label, linewidth=1, markersize=3)
    lines = axes.get_lines()
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if not lines:
        return
    axes.legend()
    if min(float(np.min(line.get_ydata())) for line in lines) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _thinned(points: Sequence[tuple[Number, Number]]) -> list[tuple[Number, Number]]:
    """Average neighbors where there are more points than can be seen."""
    size = -(-len(points) // _POINTS)
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [
        (sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group))
        for group in groups
    ]


def loss_svgs(results: Sequence[Result]) -> list[str]:
    """Draw the losses of each result that names its training's log.

    Args:
      results: as results.py describes them.

    Returns:
      SVG pictures, to stand in a page.

    Raises:
      ValueError: matplotlib is not installed, or a log is none.
      OSError: a log cannot be read.
    """
    svgs = []
    for i, result in enumerate(results):
        if result.get("curves"):
            with _style(f"loss {i}"):
                figure = _figure(4.6, 2.9)
                axes = figure.subplots()
                draw_losses(axes, rows(result["curves"]))
                axes.set(title=result["title"], ylabel="loss")
                svgs.append(_svg(figure, f"losses of {result['title']} over steps of training"))
    return svgs


def metric_svgs(results: Sequence[Result]) -> list[str]:
    """Draw each metric, with a bar and its standard error for each result.

    Args:
      results: as results.py describes them.

    Returns:
      SVG pictures, to stand in a page, in the order of `metric_names`.

    Raises:
      ValueError: matplotlib is not installed.
    """
    svgs = []
    for i, name in enumerate(facts.metric_names(results)):
        values = [facts.value_text(result["metrics"].get(name)) for result in results]
        with _style(f"metric {i}"):
            figure = _figure(2.95, 0.75 + 0.34 * len(results))
            _draw_metric(figure.subplots(), results, name)
            svgs.append(_svg(figure, f"{name}: {', '.join(values)}"))
    return svgs


def _draw_metric(axes: Axes, results: Sequence[Result], name: str) -> None:
    """Draw bars from zero, the first result on top; a value that is not finite is a word."""
    from matplotlib import ticker

    ends = [0.0]
    for i, result in enumerate(results):
        metric = result["metrics"].get(name)
        value = None if metric is None else metric["value"]
        if metric is None or value is None or not math.isfinite(value):
            axes.annotate(f" {facts.value_text(metric)}", (0, i), va="center", fontsize=8)
            continue
        error = metric.get("stderr") or 0.0
        error = error if math.isfinite(error) else 0.0
        axes.barh(i, value, height=0.62, color=color_of(i))
        if error:
            axes.errorbar(value, i, xerr=error, color=_INK, capsize=3, linewidth=1)
        ends += [value - error, value + error]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low or 1.0)
    axes.set_xlim(low - margin * (low < 0), high + margin)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4) if ends[1:] else ticker.NullLocator())
    metric = facts.metric_of(results, name)
    words = [name, f"({metric['unit']})" if metric.get("unit") else ""]
    better = metric.get("better")
    axes.set_title(" ".join(filter(None, words)) + (f", {better} is better" if better else ""))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axvline(0, color=_INK, linewidth=0.8)


# ---- SVG -----------------------------------------------------------------------------------------


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            f'the plots of a report need matplotlib: pip install "vidgen[eval]" ({error}).'
        ) from error
    return matplotlib


@contextlib.contextmanager
def _style(salt: str) -> Iterator[None]:
    """Apply the settings of one plot; `salt` keeps the names inside two plots apart."""
    matplotlib = _matplotlib()
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor")
    ink += ("xtick.color", "ytick.color", "legend.labelcolor")
    ours = {"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False}
    ours |= {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False}
    ours |= {"axes.spines.top": False, "axes.spines.right": False}
    ours |= {"axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLORS)}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user likes, the page is the same
        matplotlib.rcParams.update(ours | dict.fromkeys(ink, _INK))
        yield


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, label: str) -> str:
    """Return the <svg> of a figure, without what only a file of its own needs."""
    buffer = io.BytesIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn by the browser, which has others.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata=none)
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    # Names of groups, of which nothing makes use, would come twice in a page of two pictures.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = text.replace("xlink:href", "href").replace(_INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1).strip()
