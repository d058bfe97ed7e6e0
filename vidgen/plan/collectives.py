"""Bytes that a device receives from others in a compiled program, by kind of collective.

Read from the program's text (HLO), of which each computation is one device's. With g devices in a
group, and results of so many bytes,

    all-gather          result · (g - 1)/g
    reduce-scatter      result · (g - 1)
    all-reduce          result · 2(g - 1)/g        a reduce-scatter and an all-gather
    all-to-all          result · (g - 1)/g
    collective-permute  result

What a loop holds counts as often as it runs: as the compiler notes, or up to the constant that the
condition compares its counter with, which is how libtpu prints a scan; else once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\dm\d\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|condition|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BELOW = re.compile(r"ROOT .* compare\(.*, %?([\w.\-]+)\), direction=LT")


def received(text: str) -> dict[str, int]:
    """Bytes a device receives in one run of the program, by kind; kinds without any left out."""
    computations, entry = _computations(text)
    everyone = int(match[1]) if (match := re.search(r"num_partitions=(\d+)", text)) else 1
    totals: dict[str, float] = {}
    for line, times in _lines(computations, entry, 1):
        if match := _COLLECTIVE.search(line):
            kind = match[2]
            totals[kind] = totals.get(kind, 0.0) + times * _bytes(
                match[1], kind, bool(match[3]), _group(line) or everyone
            )
    return {kind: round(total) for kind, total in totals.items() if total}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first to run."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            found[match[1]] = lines = []
            entry = match[1] if line.startswith("ENTRY") else entry
        elif line.startswith("  "):
            lines.append(line)
    return found, entry


def _lines(computations: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Every line that runs, and how often."""
    for line in computations.get(name, ()):
        yield line, times
        trips = _trips(computations, line) if " while(" in line else 1
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for inner in called:
            yield from _lines(computations, inner, times * trips)


def _trips(computations: dict[str, list[str]], line: str) -> int:
    """How often a loop runs."""
    if known := _TRIPS.search(line):
        return int(known[1])
    named = _CONDITION.search(line)
    condition = "\n".join(computations.get(named[1], ())) if named else ""
    if not (below := _BELOW.search(condition)):
        return 1
    limit = re.search(rf"%?{re.escape(below[1])} = \S+ constant\((\d+)\)", condition)
    return int(limit[1]) if limit else 1


def _bytes(result: str, kind: str, starts: bool, group: int) -> float:
    arrays = [_size(match) for match in _ARRAY.finditer(result)]
    if starts and kind == "all-gather":  # its operands come before its results
        arrays = arrays[len(arrays) // 2 :]
    if starts and kind == "collective-permute":  # operand, result, two flags
        arrays = arrays[1:2]
    total, share = sum(arrays), (group - 1) / group
    return (
        total
        * {
            "all-gather": share,
            "reduce-scatter": group - 1.0,
            "all-reduce": 2 * share,
            "all-to-all": share,
            "collective-permute": 1.0,
        }[kind]
    )


def _size(array: re.Match[str]) -> int:
    """Bytes of an array written like "bf16[8,128]"."""
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(n) for n in array[3].split(",") if n) * bits // 8


def _group(line: str) -> int | None:
    """Devices of a group, as "replica_groups=[2,4]<=[8]" or "{{0,1},{2,3}}" says; None: all."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    return None
