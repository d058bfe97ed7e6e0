"""The text of a compiled program (HLO): what runs how often, its operations and its memory traffic.

JAX's `cost_analysis` counts the body of a loop once, so the text is read. Each computation is one
device's. The body of a loop counts as often as it runs: as the compiler notes, or up to the
constant that the condition compares its counter with, which is how libtpu prints a scan; else once.

    operations  of dots and convolutions, a multiply-add as two; products with padding, or with the
                holes that dilation makes, are not counted. What is inside a kernel is not seen.
    traffic     bytes that instructions read and write in the device's memory (HBM): arguments and
                results of each, but of arrays that the compiler keeps on the chip, and of a fusion
                that reads or writes a slice only the slice
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\dm\d\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|condition|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BELOW = re.compile(r"ROOT .* compare\(.*, %?([\w.\-]+)\), direction=LT")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # a memory space that is not HBM
# Names for what is there already, and the ends of what their starts have counted.
_FREE = frozenset(
    "parameter tuple get-tuple-element bitcast constant while conditional call after-all "
    "partition-id replica-id opt-barrier async-done copy-done slice-done send-done recv-done "
    "all-gather-done all-reduce-done collective-permute-done".split()
)


class Instruction(NamedTuple):
    """One line of a computation: `name = result opcode(operands), rest`."""

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


class Program:
    """The computations of a compiled program, read from its text.

    Args:
      text: as `compiled.as_text()` gives it.

    Attributes:
      lines: the lines of each computation, by its name.
      entry: the name of the computation that runs first.
      partitions: devices.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[str, list[str]] = {}
        self.entry, lines = "", []
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                self.lines[match[1]] = lines = []
                self.entry = match[1] if line.startswith("ENTRY") else self.entry
            elif line.startswith("  "):
                lines.append(line)
        partitions = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
        self.partitions = int(partitions[1]) if partitions else 1
        self._called: dict[str, Sequence[tuple[str, int]]] = {}
        self._parsed: dict[str, list[Instruction]] = {}

    @functools.cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation runs, by name; what only a fusion calls is in it too."""
        counts: dict[str, int] = {}

        def enter(name: str, times: int) -> None:
            counts[name] = counts.get(name, 0) + times
            for inner, trips in self._calls(name):
                enter(inner, times * trips)

        enter(self.entry, 1)
        return counts

    def _calls(self, name: str) -> Sequence[tuple[str, int]]:
        if name not in self._called:
            calls: list[tuple[str, int]] = []
            for line in self.lines.get(name, ()):
                called = _CALLED.findall(line)
                for branches in _BRANCHES.findall(line):
                    called += [branch.strip().lstrip("%") for branch in branches.split(",")]
                trips = self._trips(line) if called and " while(" in line else 1
                calls += [(inner, trips) for inner in called]
            self._called[name] = calls
        return self._called[name]

    def _trips(self, line: str) -> int:
        """Return how often a loop runs."""
        if known := _TRIPS.search(line):
            return int(known[1])
        named = _CONDITION.search(line)
        condition = "\n".join(self.lines.get(named[1], ())) if named else ""
        if not (below := _BELOW.search(condition)):
            return 1
        limit = re.search(rf"%?{re.escape(below[1])} = \S+ constant\((\d+)\)", condition)
        return -(-int(limit[1]) // self._step(line, condition)) if limit else 1

    def _step(self, line: str, condition: str) -> int:
        """Return what a loop adds to its counter: 2 where libtpu takes two rounds in one."""
        body = re.search(r"body=%?([\w.\-]+)", line)
        compared = re.search(r"ROOT .* compare\(%?([\w.\-]+),", condition)
        if not body or not compared:
            return 1
        place = re.search(rf"%?{re.escape(compared[1])} = .*, index=(\d+)", condition)
        inside = {x.name: x for x in self.instructions(body[1])}
        root = self.instructions(body[1])[-1] if inside else None
        if not place or not root or int(place[1]) >= len(root.operands):
            return 1
        added = inside.get(root.operands[int(place[1])])
        text = "\n".join(self.lines[body[1]])
        for name in added.operands if added and added.opcode == "add" else ():
            if by := re.search(rf"%?{re.escape(name)} = \S+ constant\((\d+)\)", text):
                return max(1, int(by[1]))
        return 1

    def all_lines(self) -> Iterator[tuple[str, str, int]]:
        """Yield every line that runs, with the name of its computation, and how often."""
        for name, times in self.runs.items():
            for line in self.lines.get(name, ()):
                yield name, line, times

    def instructions(self, name: str) -> list[Instruction]:
        """Parse the instructions of a computation.

        Args:
          name: of the computation.

        Returns:
          The instructions in their order, the root last; empty where there is no such computation.
        """
        if name not in self._parsed:
            parsed = map(_instruction, self.lines.get(name, ()))
            self._parsed[name] = [instruction for instruction in parsed if instruction]
        return self._parsed[name]

    def operations(self) -> int:
        """Return the floating-point operations of a device in one run."""
        total = 0
        for name, times in self.runs.items():
            if any(" convolution(" in x or " dot(" in x for x in self.lines.get(name, ())):
                results = {x.name: x.result for x in self.instructions(name)}
                total += times * sum(_work(x, results) for x in self.instructions(name))
        return total

    def traffic(self) -> int:
        """Return the bytes that a device reads and writes in its memory in one run."""
        fused = {
            inner
            for name in self.runs
            for x in self.instructions(name)
            if x.opcode not in ("while", "conditional", "call")
            for inner in _CALLED.findall(x.rest)
        }
        total = 0
        for name in self.runs.keys() - fused:
            results = {x.name: x.result for x in self.instructions(name)}
            moved = (self._moved(x, results) for x in self.instructions(name))
            total += self.runs[name] * sum(moved)
        return total

    def _moved(self, x: Instruction, results: Mapping[str, str]) -> int:
        """Return the bytes of memory that one instruction reads and writes."""
        if x.opcode in _FREE or 'custom_call_target="AllocateBuffer"' in x.rest:
            return 0
        operands = [results.get(name, "") for name in x.operands]
        called = _CALLED.findall(x.rest)
        if x.opcode == "fusion" and called:
            moved = min(in_memory(x.result), self._written(called[0]))
            places = range(len(operands))
            return moved + sum(self._read(called[0], i, operands[i]) for i in places)
        if x.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * in_memory(x.result)
        if x.opcode in ("dynamic-update-slice", "scatter"):  # over the operand
            return 2 * in_memory(operands[-1 if x.opcode == "scatter" else 1])
        if x.opcode.endswith(("-start", "send", "recv")):  # (operands, results, flags)
            return in_memory(x.result)
        return in_memory(x.result) + sum(map(in_memory, operands))

    def _read(self, name: str, place: int, operand: str) -> int:
        """Return the bytes that a fusion reads of one operand: of a slice only the slice."""
        users: dict[str, list[tuple[Instruction, int]]] = {}
        for x in self.instructions(name):
            for at, used in enumerate(x.operands):
                users.setdefault(used, []).append((x, at))
        whole = in_memory(operand)

        def of(array: str) -> int:
            return sum(of_use(*use) for use in users.get(array, ()))

        def of_use(user: Instruction, at: int) -> int:
            if user.opcode == "bitcast":
                return of(user.name)
            if user.opcode == "fusion":
                return self._read(_CALLED.findall(user.rest)[0], at, operand)
            if user.opcode in ("dynamic-slice", "slice"):
                return in_memory(user.result) if at == 0 else whole
            return 0 if user.opcode == "dynamic-update-slice" and at == 0 else whole

        parameters = (x for x in self.instructions(name) if x.opcode == "parameter")
        return min(whole, sum(of(x.name) for x in parameters if int(x.operands[0]) == place))

    def _written(self, name: str) -> int:
        """Return the bytes that a fusion writes; an update is written over an operand."""
        inner = {x.name: x for x in self.instructions(name)}

        def of(x: Instruction) -> int:
            if x.opcode in ("bitcast", "tuple"):
                return sum(of(inner[operand]) for operand in x.operands)
            if x.opcode == "fusion":
                return self._written(_CALLED.findall(x.rest)[0])
            if x.opcode == "dynamic-update-slice":
                return in_memory(inner[x.operands[1]].result)
            return in_memory(x.result)

        return of(self.instructions(name)[-1])


def _instruction(line: str) -> Instruction | None:
    """Return a line's instruction; None where it is none."""
    head, equals, tail = line.strip().partition(" = ")
    if not equals:
        return None
    end = _closing(tail, 0) + 1 if tail.startswith("(") else tail.find(" ")
    match = _OPCODE.match(tail, end + (tail[end : end + 1] == " "))
    if not match:
        return None
    closing = _closing(tail, match.end() - 1)
    inside = tail[match.end() : closing]
    operands = tuple(_NAME.findall(inside)) or ((inside,) if match[1] == "parameter" else ())
    name = head.removeprefix("ROOT ").lstrip("%")
    return Instruction(name, tail[:end], match[1], operands, tail[closing + 1 :])


def _closing(text: str, start: int) -> int:
    """Return where the bracket that opens at `start` closes."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return start + match.start()
    return len(text)


def array_sizes(result: str) -> list[int]:
    """Compute the size of each array in a result.

    Args:
      result: type as the program prints it, such as "(f32[8,128]{1,0}, pred[])".

    Returns:
      Bytes of each array, rounded down to whole ones.
    """
    return [_bytes(array) for array in _ARRAY.finditer(result)]


def in_memory(result: str) -> int:
    """Compute the size of the arrays of a result that lie in the device's memory (HBM).

    Args:
      result: type as the program prints it; its layouts say what lies on the chip.

    Returns:
      Bytes.
    """
    arrays = _ARRAY.finditer(result)
    return sum(_bytes(array) for array in arrays if not _ON_CHIP.search(array[4] or ""))


def _bytes(array: re.Match[str]) -> int:
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(n) for n in array[3].split(",") if n) * bits // 8


def _shape(result: str) -> list[int]:
    array = _ARRAY.search(result)
    return [int(n) for n in array[3].split(",") if n] if array else []


# ---- operations ----------------------------------------------------------------------------------


def _work(x: Instruction, results: Mapping[str, str]) -> int:
    """Return the floating-point operations of one instruction."""
    if x.opcode == "dot":
        lhs = _shape(results.get(x.operands[0], ""))
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.rest)
        axes = [int(n) for n in contracted[1].split(",") if n] if contracted else []
        return 2 * math.prod(_shape(x.result)) * math.prod(lhs[axis] for axis in axes)
    if x.opcode != "convolution":
        return 0
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.rest)
    assert labels, x
    lhs, rhs, out = (
        dict(zip(names, _shape(shape), strict=True))
        for names, shape in zip(
            labels.groups(),
            (results[x.operands[0]], results[x.operands[1]], x.result),
            strict=True,
        )
    )
    window = dict(re.findall(r"(\w+)=([\w\-]+)", x.rest.partition("window={")[2].split("}")[0]))
    taps = math.prod(
        _products(lhs[axis], rhs[axis], out[axis], {k: v.split("x")[i] for k, v in window.items()})
        for i, axis in enumerate(sorted(lhs.keys() - {"b", "f"}))
    )
    return 2 * out["b"] * out["f"] * rhs["i"] * taps


def _products(length: int, taps: int, outputs: int, window: Mapping[str, str]) -> int:
    """Return along one axis how many pairs of an output and a tap meet an element that is there."""
    stride, hole = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    step = int(window.get("rhs_dilate", 1))
    before = int(window.get("pad", "0_0").split("_")[0])
    places = np.arange(outputs) * stride + np.arange(taps)[:, None] * step - before
    there = (places >= 0) & (places <= (length - 1) * hole) & (places % hole == 0)
    return int(np.count_nonzero(there))
