"""Positions in the data: which a process loads, and where any number of processes resume.

The batches of N processes are those of one process, in its order, and any number of processes and
workers resumes from a checkpoint. (Taking every N-th example would not allow that, nor does grain's
own position, which is one of so many workers. Streams do take every N-th element.)

batch n of size B      positions nB, ..., nB + B - 1
process p of P         the p-th block of B / P of each batch, its examples numbered 0, 1, 2, ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """The part of every batch that process `index` of `count` has: a block of `local` examples."""

    batch: int
    index: int
    count: int

    @property
    def local(self) -> int:
        """How many examples a block has."""
        return self.batch // self.count

    def position(self, number: int) -> int:
        """Return the position in the data of an example.

        Args:
          number: the number of the example among those of this process, from 0.

        Returns:
          The global position i of the module docstring of data/pipeline.py.
        """
        step, row = divmod(number, self.local)
        return step * self.batch + self.index * self.local + row

    def example(self, examples: Any, number: int) -> Any:
        """Read an example out of all of them.

        Args:
          examples: a grain.MapDataset of all positions.
          number: the number of the example among those of this process.

        Returns:
          What the data set has at its position.
        """
        return examples[self.position(int(number))]

    def reached(self, number: int) -> int:
        """Return the position before which nothing is left to do.

        Args:
          number: how many examples of this process are done.

        Returns:
          The position of the next one, or the beginning of the next batch where a batch is
          complete.
        """
        step, row = divmod(number, self.local)
        return self.position(number) if row else step * self.batch

    def numbers(self, position: int) -> int:
        """Count the examples of this process before a position in the data.

        Args:
          position: as `position` or `reached` returns one.

        Returns:
          The number of the first example at or behind it.
        """
        step, row = divmod(position, self.batch)
        return step * self.local + min(max(row - self.index * self.local, 0), self.local)


class Indexed:
    """The examples of one process; reading begins when the first is asked for."""

    def __init__(self, blocks: Blocks, read: Callable[[int], Any]) -> None:
        """Take what reads the examples from one's number on; it can be closed."""
        self._blocks, self._read = blocks, read
        self._number, self._reader = 0, None

    def __next__(self) -> Any:
        if self._reader is None:
            self._reader = self._read(self._number)
        example = next(self._reader)
        self._number += 1
        return example

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last example, as a dict that JSON can hold."""
        blocks = self._blocks
        position = blocks.reached(self._number)
        return {"position": position, "batch": blocks.batch, "part": [blocks.index, blocks.count]}

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go to where the processes of a run were; see `BatchIterator.set_states`.

        A process goes on from its own position where the number of processes is the same, else all
        go on from the furthest.

        Raises:
          ValueError: they are positions in other data.
        """
        self.close()
        if not all({"position", "batch"} <= state.keys() for state in states):
            raise ValueError(
                "the checkpoint's position in the data is of other data, or of an older vidgen; go "
                "on with the data that the run began with, or begin anew with INIT_FROM."
            )
        layout = {name: value for name, value in self.get_state().items() if name != "position"}
        own = [state for state in states if layout.items() <= state.items()]
        places = [int(state["position"]) for state in own[:1] or states]
        self._number = self._blocks.numbers(max(places))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None
