"""Loss curves of a training run and metrics of evaluations, as SVG inside a notebook.

Needs matplotlib (extra `notebook`), which is imported when something is drawn.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from vidgen import paths
from vidgen.display import shown
from vidgen.evals.report import plots as report_plots
from vidgen.evals.report.facts import Result


def curves(path: paths.Path, title: str = "training") -> shown.Html:
    """Plot the losses in a metrics.jsonl over steps of training.

    Args:
      path: the file that training writes into MODEL_DIR.
      title: above the plot.

    Returns:
      SVG in a piece of a page, for the value of a notebook's cell.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no such file, or matplotlib is missing.
    """
    run: Any = {"title": title, "curves": path}
    return shown.Html("".join(report_plots.loss_svgs([run])))


def metrics(results: Sequence[Result]) -> shown.Html:
    """Plot each metric of one or more results of `vidgen evaluate`, with error bars.

    Args:
      results: as `vidgen.evaluate` returns them, or read from --output; "title" is their name.

    Returns:
      SVG in a piece of a page, one plot a metric.

    Raises:
      ValueError: matplotlib is missing.
    """
    names = (
        f'<span style="color:{report_plots.color_of(i)}">&#9632;</span> {html.escape(r["title"])}'
        for i, r in enumerate(results)
    )
    plots = "".join(f"<div>{svg}</div>" for svg in report_plots.metric_svgs(results))
    return shown.Html(
        f'<p>{" &nbsp; ".join(names)}</p><div style="display:flex;flex-wrap:wrap">{plots}</div>'
    )
