"""Bytes that a device receives from others in a compiled program, by kind of collective.

JAX tells no such number, so it is read from the program's text (`plan/hlo.py`). With g devices in a
group, s slices, and results of so many bytes,

    all-gather          result · (g - 1)/g
    reduce-scatter      result · (g - 1)
    all-reduce          result · 2(g - 1)/g        a reduce-scatter and an all-gather
    all-to-all          result · (g - 1)/g
    collective-permute  result
    between slices      result · 2(s - 1)/s of a sum over slices, else result

libtpu prints a reduce-scatter as an all-reduce and a slice of it, in a computation that is named
after both. Slices of TPUs talk over the network of their hosts: it prints that as transfers to and
from the host, apart from the collective within each slice.
"""

from __future__ import annotations

import collections
import math
import re

from vidgen.plan import hlo

BETWEEN_SLICES = "between slices"
_SCATTERED = "all-reduce-scatter"  # the name of a computation
_KINDS = "all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_BETWEEN = re.compile(r"= (.*?) recv\(.*xla_megascale_runtime")
_OPERATION = re.compile(r'_xla_megascale_transfer_type="ALL_REDUCE"')


def received(text: str | hlo.Program, slices: int = 1) -> dict[str, int]:
    """Return the bytes that a device receives in one run of a program, by kind of collective.

    Args:
      text: of the program, as `compiled.as_text()` gives it.
      slices: of the mesh, which a slower network connects.

    Returns:
      Bytes by kind; kinds that the program lacks are left out.
    """
    program = hlo.Program(text) if isinstance(text, str) else text
    totals: dict[str, float] = collections.defaultdict(float)
    for computation, line, times in program.all_lines():
        if match := _COLLECTIVE.search(line):
            result, kind, starts = match.groups()
            size, group = _result_bytes(result, kind, bool(starts)), _group(line)
            share = _share(kind, group or program.partitions)
            if kind == "all-reduce" and computation.startswith(_SCATTERED):
                kind, share = "reduce-scatter", share / 2
            totals[kind] += times * size * share
        elif match := _BETWEEN.search(line):
            share = 2 * (slices - 1) / slices if _OPERATION.search(line) else 1.0
            totals[BETWEEN_SLICES] += times * hlo.array_sizes(match[1])[0] * share
    return {kind: round(total) for kind, total in totals.items() if total}


def _result_bytes(result: str, kind: str, starts: bool) -> int:
    """Return the bytes of the arrays that a collective returns, or its asynchronous start."""
    arrays = hlo.array_sizes(result)
    if starts and kind == "all-gather":  # its operands come before its results
        arrays = arrays[len(arrays) // 2 :]
    if starts and kind == "collective-permute":  # operand, result, two flags
        arrays = arrays[1:2]
    return sum(arrays)


def _share(kind: str, group: int) -> float:
    """Return the bytes that a device of a group receives, for each byte of the result."""
    factors = {"reduce-scatter": group - 1.0, "all-reduce": 2 * (group - 1) / group}
    return 1.0 if kind == "collective-permute" else factors.get(kind, (group - 1) / group)


def _group(line: str) -> int | None:
    """Return the devices of a group; None: all.

    It is printed as "[2,4]<=[8]", "{{0,1},{2,3}}" or "mesh['axis_0'=16,'axis_1'=64] {'axis_1'}",
    where an axis may be given in part: "{'axis_0':(1)4}", 4 of its devices.
    """
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return None
