"""Data that can only be read in order, in an order that depends on nothing but the seed.

A stream is read in parts. Lane v of V takes every V-th part of every pass over the parts, in an
order of that pass, and global position i is the next element of lane i mod V:

    position i  ->  lane v = i mod V,  its element number i div V
    lane v      ->  for each of its elements, task k with probability rate_k; of task k, the parts
                    order(pass)[v], order(pass)[V + v], ... one after the other

Process p of P takes the positions i with i mod P = p, as in data/pipeline.py, so the positions seen
by all of them do not depend on P. Where P divides V, a process reads the parts of its own lanes and
no others; where V divides P, lanes are read by several processes, each of which uses its share.

To resume, a part is read again up to the position in it: at most the length of a part. A position
is a few numbers, and does not depend on the number of processes. tf.data's own checkpoints hold
shuffle buffers, that is videos, and cannot hold Python generators; skipping from the start would
take as long as training did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_OTHER_DATA = (
    "the position in the data was saved with another number of lanes or processes, or for other "
    "data; go on with the settings that the run began with."
)

# Opens a part of a task, called with the keywords task, part, seed, shuffle and skip: yields the
# elements of the part without the first `skip`, as a function of the arguments. All parts of a pass
# are opened with one seed.
OpenPart = Callable[..., Iterator[Any]]


class PartsInOrder:
    """Iterator over (global position, element) of one process, of tasks that are read in parts.

    Its position, as `get_state` gives it, can be written as JSON.
    """

    def __init__(
        self,
        open_part: OpenPart,
        *,
        rates: Sequence[float | int],
        parts: int,
        lanes: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        repeat: bool = True,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """Set the position to the beginning; parts are opened when they are needed.

        Args:
          open_part: opens a part of a task.
          rates: how often each task is drawn from, relative to each other.
          parts: the parts of every task.
          lanes: how many parts are read at a time, over all processes.
          seed: the seed of the order.
          shuffle: whether the order of parts differs from pass to pass.
          repeat: whether pass follows pass for ever.
          process: index and count of this process.

        Raises:
          ValueError: the parts do not divide among the lanes, or these among the processes.
        """
        index, count = process
        check_lanes(parts, lanes)
        if math.gcd(lanes, count) != min(lanes, count):
            raise ValueError(
                f"{lanes} lanes and {count} processes: one must be a multiple of the other."
            )
        own = range(index % lanes, lanes, count)
        self._start = {"position": index, "lanes": {str(lane): None for lane in own}}
        self._lanes_of_all, self._processes, self._index = lanes, count, index
        shares = np.cumsum(np.asarray(rates, np.float64))

        def lane_of(number: int) -> _Lane:
            order = (seed, shuffle, repeat)
            tasks = [_Task(open_part, k, parts, (number, lanes), order) for k in range(len(rates))]
            return _Lane((seed, number), shares / shares[-1], tasks)

        self._make = lane_of
        self.set_state(self._start)

    def __iter__(self) -> PartsInOrder:
        return self

    def __next__(self) -> tuple[int, Any]:
        position = self._position
        number, lane = divmod(position, self._lanes_of_all)
        element = self._lanes[str(lane)].take(number)
        self._position += self._processes
        return position, element

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last element."""
        lanes = {name: lane.get_state() for name, lane in self._lanes.items()}
        return {"position": self._position, "lanes": lanes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position of a stream with equal settings.

        Args:
          state: what `get_state` returned.

        Raises:
          ValueError: it is of other lanes or tasks.
        """
        if set(state.get("lanes", ())) != set(self._start["lanes"]):
            raise ValueError(_OTHER_DATA)
        self._position = int(state["position"])
        self._lanes = {name: self._make(int(name)) for name in state["lanes"]}
        for name, lane in self._lanes.items():
            if state["lanes"][name] is not None:
                lane.set_state(state["lanes"][name])

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go to where the processes of a run were, however many they were.

        They were at one position, unless some dropped bad examples: all go on from the furthest.

        Args:
          states: what `get_state` of each of them returned, in order.

        Raises:
          ValueError: the positions are of other lanes or tasks.
        """
        if not all({"position", "lanes"} <= state.keys() for state in states):
            raise ValueError(_OTHER_DATA)
        own = [s for s in states if int(s["position"]) % self._processes == self._index]
        if len(states) == self._processes and len(own) == 1:
            return self.set_state(own[0])
        lanes: dict[str, Any] = {}
        for name, lane in (item for s in states for item in s["lanes"].items()):
            if name not in lanes or lane is None or lanes[name]["taken"] > lane["taken"]:
                lanes[name] = lane
        first = max(int(state["position"]) // len(states) for state in states) * len(states)
        first += (self._index - first) % self._processes
        known = {name: lanes[name] for name in self._start["lanes"] if name in lanes}
        self.set_state({"position": first, "lanes": known})

    def close(self) -> None:
        """Close all open parts."""
        self.set_state(self.get_state())


def check_lanes(parts: int, lanes: int) -> None:
    """Check that every lane has equally many parts.

    Args:
      parts: how many parts a task has.
      lanes: how many parts are read at a time.

    Raises:
      ValueError: the parts are no multiple of the lanes.
    """
    if parts < 1 or lanes < 1 or parts % lanes:
        raise ValueError(f"{parts} parts and {lanes} lanes: the parts must be a multiple of them.")


class _Lane:
    """One lane: elements of its tasks, mixed at their rates."""

    def __init__(self, seed: tuple[int, int], shares: np.ndarray, tasks: list[_Task]) -> None:
        self._seed, self._shares, self._tasks, self._taken = seed, shares, tasks, 0

    def take(self, number: int) -> Any:
        """Return element `number`; those between the last one and this are read and left out."""
        while True:
            element = self._tasks[self._drawn()].take()
            self._taken += 1
            if self._taken > number:
                return element

    def _drawn(self) -> int:
        """Draw the task of the next element, as a function of its number."""
        if len(self._tasks) == 1:
            return 0
        draw = np.random.default_rng((*self._seed, self._taken)).random()
        return int(np.searchsorted(self._shares, draw, side="right"))  # the last share is 1

    def get_state(self) -> dict[str, Any]:
        return {"taken": self._taken, "tasks": [task.get_state() for task in self._tasks]}

    def set_state(self, state: dict[str, Any]) -> None:
        if len(state["tasks"]) != len(self._tasks):
            raise ValueError(
                f"the position in the data is one of {len(state['tasks'])} task(s), the data has "
                f"{len(self._tasks)}; go on with the data that the run began with."
            )
        self._taken = int(state["taken"])
        for task, place in zip(self._tasks, state["tasks"], strict=True):
            task.set_state(place)


class _Task:
    """What one lane reads of one task: part after part, pass after pass."""

    def __init__(
        self,
        open_part: OpenPart,
        task: int,
        parts: int,
        lane: tuple[int, int],
        order: tuple[int, bool, bool],
    ) -> None:
        self._open, self._task, self._parts, self._lane = open_part, task, parts, lane
        self._seed, self._shuffle, self._repeat = order
        self._a_pass = parts // lane[1]
        self.set_state([0, 0])

    def take(self) -> Any:
        """Return the next element."""
        empty = 0
        while True:
            if self._elements is None:
                if not self._repeat and self._visit >= self._a_pass:
                    raise StopIteration
                self._elements = self._opened()
            try:
                element = next(self._elements)
            except StopIteration:
                empty += not self._offset
                if empty > self._a_pass:
                    raise ValueError(
                        f"task {self._task} of the data gives no element in a whole pass."
                    ) from None
                self.set_state([self._visit + 1, 0])
                continue
            self._offset += 1
            return element

    def _opened(self) -> Iterator[Any]:
        number, place = divmod(self._visit, self._a_pass)
        lane, lanes = self._lane
        part = place * lanes + lane
        if self._shuffle:
            rng = np.random.default_rng((self._seed, self._task, number))
            part = int(rng.permutation(self._parts)[part])
        # One seed for all parts of a pass: parts may be cut out of an order that depends on it.
        entropy = np.random.SeedSequence((self._seed, self._task, number))
        seed = int(entropy.generate_state(1)[0] >> 1)  # seeds of tf.data have 31 bits
        return self._open(
            task=self._task, part=part, seed=seed, shuffle=self._shuffle, skip=self._offset
        )

    def get_state(self) -> list[int]:
        return [self._visit, self._offset]

    def set_state(self, state: Sequence[int]) -> None:
        self._visit, self._offset = (int(x) for x in state)
        self._elements: Iterator[Any] | None = None
