"""What tables and pages say of results: numbers as text, which is better, what cannot be compared.

A value with a standard error is rounded to two digits of that error, one without to four digits.
Results are comparable where they come from the same protocol, the same real clips and the same
networks. How a model was sampled, and from which seed, is its own affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # described in report.py
Metric = Mapping[str, Any]
OWN = ("sampling", "seed")  # parts of a protocol that may differ between comparable results
_DIGITS = 6  # after the point, at most


def metric_names(results: Sequence[Result]) -> list[str]:
    """Names of all metrics, in the order in which they first appear."""
    return list(dict.fromkeys(name for result in results for name in result["metrics"]))


def metric_of(results: Sequence[Result], name: str) -> Metric:
    """The first metric of that name, which tells what it is."""
    return next(result["metrics"][name] for result in results if name in result["metrics"])


def value_text(metric: Metric | None) -> str:
    """ "812 ± 20 dB", "812.3", "inf"; "-" where there is no value."""
    value = None if metric is None else metric["value"]
    if metric is None or value is None:
        return "-"
    error = metric.get("stderr")
    text = _rounded(float(value))
    if math.isfinite(value) and error is not None and math.isfinite(error):
        text = _with_error(float(value), float(error))
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
    """ "64", or "64 / 256" with the number of real clips; empty where there is no metric."""
    if metric is None or metric.get("n") is None:
        return ""
    real = metric.get("n_real")
    return f"{metric['n']}" if real is None else f"{metric['n']} / {real}"


def plain(value: Any) -> str:
    """A setting as text: yes and no, lists with commas, short numbers."""
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
    """Settings of any depth as texts, by names like "sampling.steps"."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = plain(value)
    return found


def networks(results: Sequence[Result]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Each feature network once, with the names of the metrics that look through it."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for name in metric_names(results):
        for result in results:
            network = result["metrics"].get(name, {}).get("network")
            if network is None:
                continue
            names = next((names for names, known in found if known == network), None)
            if names is None:
                found.append(([name], network))
            elif name not in names:
                names.append(name)
    return found


def different_settings(results: Sequence[Result]) -> list[str]:
    """Names of the settings that should agree between results, and do not."""
    protocols = [settings(result["protocol"]) for result in results]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    return [
        name
        for name in names
        if name.split(".")[0] not in OWN and len({p.get(name) for p in protocols}) > 1
    ]


def best(results: Sequence[Result], name: str) -> int | None:
    """The index of the better result by one metric, the difference larger than its standard error.

    None where there is no such result: fewer than two values, no direction, results that are not
    comparable, or means over different clips.
    """
    if different_settings(results) or _real_differs(results) or _network_differs(results, name):
        return None
    found = [(i, r["metrics"][name]) for i, r in enumerate(results) if name in r["metrics"]]
    found = [(i, m) for i, m in found if m["value"] is not None and not math.isnan(m["value"])]
    ways = {metric.get("better") for _, metric in found}
    left_out = {m.get("identical") or 0 for _, m in found if math.isfinite(m["value"])}
    if len(found) < 2 or len(left_out) > 1 or ways not in ({"lower"}, {"higher"}):
        return None
    found.sort(key=lambda pair: pair[1]["value"], reverse=ways == {"higher"})
    (first, a), (_, b) = found[:2]
    error = math.hypot(*(m.get("stderr") or 0.0 for m in (a, b)))
    return first if abs(a["value"] - b["value"]) > error else None


def remarks(results: Sequence[Result]) -> list[str]:
    """Sentences for a reader: what cannot be compared, then the warnings of the metrics."""
    said = []
    names = different_settings(results)
    if names:
        said.append(f"the protocols differ in {', '.join(names)}; do not compare the values.")
    if _real_differs(results):
        said.append("the real clips are not the same; do not compare distances from them.")
    for name in metric_names(results):
        if _network_differs(results, name):
            said.append(f"{name}: the networks are not the same; do not compare the values.")
        counts = {count_text(r["metrics"][name]) for r in results if name in r["metrics"]}
        if len(counts) > 1:
            said.append(f"{name}: measured on different numbers of clips.")
    return said + _warnings(results)


def _warnings(results: Sequence[Result]) -> list[str]:
    """Those of the metrics; what is said of several results is said once."""
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
    found = [r["metrics"][name].get("network") for r in results if name in r["metrics"]]
    return any(network != found[0] for network in found)
