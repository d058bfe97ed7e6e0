"""Progress of long work on stderr: a bar on a terminal, and nothing that moves elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(
    total: int | None = None,
    *,
    desc: str = "",
    unit: str = "it",
    initial: int = 0,
    bar_format: str | None = None,
    active: bool = True,
) -> tqdm:
    """Make a tqdm bar, which is hidden where stderr is no terminal.

    Args:
      total: number of units until the work is done; None where it is not known.
      desc: the text in front of the bar.
      unit: what is counted, with a leading space where one is wanted ("12 clips").
      initial: units that were done before.
      bar_format: tqdm's template of the line; None is its own.
      active: False hides the bar on a terminal too, as on all processes but the first.

    Returns:
      The bar; the caller updates and closes it.
    """
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        bar_format=bar_format,
        disable=None if active else True,
    )


def say(text: str) -> None:
    """Print a line on stderr, above the bar where there is one.

    Args:
      text: the line, without its end.
    """
    tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Write a time for people: 3725 seconds are "1h 02m", 61 are "1m 01s", 3 are "3s".

    Args:
      seconds: >= 0, rounded to whole ones.

    Returns:
      The text, with at most two units.
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def engineering(value: float) -> str:
    """Write a number with an SI prefix, to be followed by a unit: 2.1e10 is "21.0 G".

    Args:
      value: any number; below 1000 it has no prefix.

    Returns:
      One decimal, a space, and the prefix: nothing, k, M, G, T, P or E.
    """
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.1f} {prefix}"
        value /= 1000
    return f"{value:.1f} E"
