"""Bytes that a device receives from others in a compiled program, by kind of collective.

JAX tells no such number, so it is read from the program's text (HLO), in which each computation is
one device's. With g devices in a group, and results of so many bytes,

    all-gather          result · (g - 1)/g
    reduce-scatter      result · (g - 1)
    all-reduce          result · 2(g - 1)/g        a reduce-scatter and an all-gather
    all-to-all          result · (g - 1)/g
    collective-permute  result

The body of a loop counts as often as it runs: as the compiler notes, or up to the constant that the
condition compares its counter with, which is how libtpu prints a scan; else once.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator

_KINDS = "all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\dm\d\w*)?)\[([\d,]*)\]")  # "bf16[8,128]"
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|condition|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BELOW = re.compile(r"ROOT .* compare\(.*, %?([\w.\-]+)\), direction=LT")


def received(text: str) -> dict[str, int]:
    """Return the bytes that a device receives in one run of a program, by kind of collective.

    Args:
      text: of the program, as `compiled.as_text()` gives it.

    Returns:
      Bytes by kind; kinds that the program lacks are left out.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computations[match[1]] = lines = []
            entry = match[1] if line.startswith("ENTRY") else entry
        elif line.startswith("  "):
            lines.append(line)
    partitions = re.search(r"num_partitions=(\d+)", text)
    everyone = int(partitions[1]) if partitions else 1
    totals: dict[str, float] = collections.defaultdict(float)
    for line, times in _lines(computations, entry, 1):
        if match := _COLLECTIVE.search(line):
            result, kind, starts = match.groups()
            size = _result_bytes(result, kind, bool(starts))
            totals[kind] += times * size * _share(kind, _group(line) or everyone)
    return {kind: round(total) for kind, total in totals.items() if total}


def _lines(computations: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Yield every line that a computation runs, and how often."""
    for line in computations.get(name, ()):
        yield line, times
        trips = _trips(computations, line) if " while(" in line else 1
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for inner in called:
            yield from _lines(computations, inner, times * trips)


def _trips(computations: dict[str, list[str]], line: str) -> int:
    """Return how often a loop runs."""
    if known := _TRIPS.search(line):
        return int(known[1])
    named = _CONDITION.search(line)
    condition = "\n".join(computations.get(named[1], ())) if named else ""
    if not (below := _BELOW.search(condition)):
        return 1
    limit = re.search(rf"%?{re.escape(below[1])} = \S+ constant\((\d+)\)", condition)
    return int(limit[1]) if limit else 1


def _result_bytes(result: str, kind: str, starts: bool) -> int:
    """Return the bytes of the arrays that a collective returns, or its asynchronous start."""
    arrays = [_array_bytes(match) for match in _ARRAY.finditer(result)]
    if starts and kind == "all-gather":  # its operands come before its results
        arrays = arrays[len(arrays) // 2 :]
    if starts and kind == "collective-permute":  # operand, result, two flags
        arrays = arrays[1:2]
    return sum(arrays)


def _array_bytes(array: re.Match[str]) -> int:
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(n) for n in array[3].split(",") if n) * bits // 8


def _share(kind: str, group: int) -> float:
    """Return the bytes that a device of a group receives, for each byte of the result."""
    factors = {"reduce-scatter": group - 1.0, "all-reduce": 2 * (group - 1) / group}
    return 1.0 if kind == "collective-permute" else factors.get(kind, (group - 1) / group)


def _group(line: str) -> int | None:
    """Return the devices of a group, from "replica_groups=[2,4]<=[8]" or "{{0,1},{2,3}}"."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    return None  # all
