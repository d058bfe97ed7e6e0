"""What tables and pages say of results: numbers as text, the better one, what cannot be compared.

A value with a standard error is rounded to two digits of that error, one without to four digits.
Results are comparable if they come from the same protocol, the same real clips and the same
networks. Sampling and seed may differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # described in results.py
Metric = Mapping[str, Any]
OWN = ("sampling", "seed")  # parts of a protocol that may differ between comparable results
_DIGITS = 6  # after the point, at most


def metric_names(results: Sequence[Result]) -> list[str]:
    """List the names of all metrics of some results.

    Args:
      results: as results.py describes them.

    Returns:
      Names, in the order in which they first appear.
    """
    return list(dict.fromkeys(name for result in results for name in result["metrics"]))


def metric_of(results: Sequence[Result], name: str) -> Metric:
    """Return the first metric of a name, for what results agree on: what it is, its unit.

    Args:
      results: one of them must have it.
      name: the name of the metric.

    Returns:
      The entry of the first result that has it.
    """
    return next(result["metrics"][name] for result in results if name in result["metrics"])


def description(metric: Metric) -> str:
    """Describe a metric in a phrase.

    Args:
      metric: an entry of a result.

    Returns:
      What it is, with the name of its network.
    """
    network = metric.get("network")
    return f"{metric['what']} ({network['name']})" if network else metric["what"]


def value_text(metric: Metric | None) -> str:
    """Write a value with its error and its unit.

    Args:
      metric: an entry of a result; None where the result has none.

    Returns:
      "812 ± 20 dB", "812.3" or "inf"; "-" where there is no value.
    """
    if metric is None or metric["value"] is None:
        return "-"
    value, error = float(metric["value"]), metric.get("stderr")
    text = _rounded(value)
    if math.isfinite(value) and error is not None and math.isfinite(error):
        text = _with_error(value, float(error))
    unit = metric.get("unit") or ""
    return f"{text} {unit}".rstrip()


def _rounded(value: float) -> str:
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{value:g}"
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}" if size else "0"


def _with_error(value: float, error: float) -> str:
    if not 10.0**-_DIGITS <= error < 1e6:
        return f"{_rounded(value)} ± {error:.2g}"
    digits = min(_DIGITS, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def count_text(metric: Metric | None) -> str:
    """Write how many clips a value is of.

    Args:
      metric: an entry of a result; None where the result has none.

    Returns:
      "64", or "64 / 256" with the number of real clips; "" where there is no metric.
    """
    if metric is None or metric.get("n") is None:
        return ""
    real = metric.get("n_real")
    return f"{metric['n']}" if real is None else f"{metric['n']} / {real}"


def plain(value: object) -> str:
    """Write a setting as text.

    Args:
      value: plain data.

    Returns:
      Yes and no for booleans, lists with commas, floats in six digits.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return str(value)


def settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten settings of any depth to texts.

    Args:
      tree: settings by name, some of which hold settings.
      prefix: what all names begin with.

    Returns:
      Texts by names like "sampling.steps".
    """
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = plain(value)
    return flat


def networks(results: Sequence[Result]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Collect the feature networks of some results, each once.

    Args:
      results: as results.py describes them.

    Returns:
      (names of the metrics that use it, the network) pairs.
    """
    users: list[tuple[list[str], Mapping[str, Any]]] = []
    for name in metric_names(results):
        for result in results:
            network = result["metrics"].get(name, {}).get("network")
            if network is None:
                continue
            names = next((names for names, known in users if known == network), None)
            if names is None:
                users.append(([name], network))
            elif name not in names:
                names.append(name)
    return users


def different_settings(results: Sequence[Result]) -> list[str]:
    """Find the settings that should agree between results, and do not.

    Args:
      results: as results.py describes them.

    Returns:
      Names as `settings` gives them; sampling and seed are left out.
    """
    protocols = [settings(result["protocol"]) for result in results]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    return [
        name
        for name in names
        if name.split(".")[0] not in OWN and len({p.get(name) for p in protocols}) > 1
    ]


def best(results: Sequence[Result], name: str) -> int | None:
    """Find the better result by one metric, if it is better by more than the error.

    That is the standard error of the difference, where it is known.

    Args:
      results: as results.py describes them.
      name: the name of the metric.

    Returns:
      Its index; None: there are fewer than two values, no direction, results that are not
      comparable, or means over different clips.
    """
    if different_settings(results) or _real_differs(results) or _network_differs(results, name):
        return None
    metrics = [(i, r["metrics"][name]) for i, r in enumerate(results) if name in r["metrics"]]
    metrics = [(i, m) for i, m in metrics if m["value"] is not None and not math.isnan(m["value"])]
    ways = {metric.get("better") for _, metric in metrics}
    left_out = {m.get("identical") or 0 for _, m in metrics if math.isfinite(m["value"])}
    if len(metrics) < 2 or len(left_out) > 1 or ways not in ({"lower"}, {"higher"}):
        return None
    metrics.sort(key=lambda pair: pair[1]["value"], reverse=ways == {"higher"})
    (first, a), (_, b) = metrics[:2]
    error = math.hypot(*(m.get("stderr") or 0.0 for m in (a, b)))
    return first if abs(a["value"] - b["value"]) > error else None


def remarks(results: Sequence[Result]) -> list[str]:
    """Write sentences for the reader: what cannot be compared, then the metrics' warnings.

    Args:
      results: as results.py describes them.

    Returns:
      The sentences; none where all is well.
    """
    sentences = []
    names = different_settings(results)
    if names:
        sentences.append(f"the protocols differ in {', '.join(names)}; do not compare the values.")
    if _real_differs(results):
        sentences.append("the real clips are not the same; do not compare distances from them.")
    for name in metric_names(results):
        if _network_differs(results, name):
            sentences.append(f"{name}: the networks are not the same; do not compare the values.")
        counts = {count_text(r["metrics"][name]) for r in results if name in r["metrics"]}
        if len(counts) > 1:
            sentences.append(f"{name}: measured on different numbers of clips.")
    return sentences + _warnings(results)


def _warnings(results: Sequence[Result]) -> list[str]:
    """Collect the metrics' warnings; one that several results share is written once."""
    owners: dict[str, list[str]] = {}
    for name in metric_names(results):
        for result in results:
            warning = result["metrics"].get(name, {}).get("warning")
            if warning:
                owners.setdefault(f"{name}: {warning}", []).append(result["title"])
    return [
        text if len(titles) == len(results) else f"{' and '.join(titles)}, {text}"
        for text, titles in owners.items()
    ]


def _real_differs(results: Sequence[Result]) -> bool:
    prints = {(result.get("real") or {}).get("fingerprint") for result in results}
    return len(prints - {None}) > 1


def _network_differs(results: Sequence[Result], name: str) -> bool:
    networks = [r["metrics"][name].get("network") for r in results if name in r["metrics"]]
    return any(network != networks[0] for network in networks)
