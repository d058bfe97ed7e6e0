"""The order of a stream: parts, passes, lanes, tasks; processes, restarts, the end."""

import collections
import dataclasses
import itertools
import json
import logging

import numpy as np
import pytest

from vidgen.data.pipeline import Pipeline
from vidgen.data.source import BadExample, Example, Stream
from vidgen.data.sources.images import Joint
from vidgen.data.sources.mixtures import Mixture
from vidgen.data.sources.streams import PartsInOrder
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)


class Parts:
    """Part p of task k has the elements (k, p, 0), (k, p, 1), ...; shuffling rotates them."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.opened = []

    def __call__(self, *, task, part, seed, shuffle, skip):
        self.opened.append((task, part, skip))
        assert 0 <= seed < 2**31
        size = self.sizes[task][part]
        turn = seed % size if shuffle and size else 0
        elements = [(task, part, (n + turn) % size) for n in range(size)]
        return iter(elements[skip:])


def stream(sizes, parts=None, **settings):
    parts = parts or Parts(sizes)
    return PartsInOrder(parts, **{"rates": [1] * len(sizes), "parts": len(sizes[0])} | settings)


def taken(elements, count):
    return [next(elements) for _ in range(count)]


def test_in_order_without_shuffling():
    found = stream([[2, 3, 1]], shuffle=False, repeat=False)
    assert [element for _, element in found] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 2, 0),
    ]  # fmt: skip
    again = stream([[2, 3, 1]], shuffle=False)
    positions, elements = zip(*taken(again, 13), strict=True)
    assert positions == tuple(range(13)) and elements[6:12] == elements[:6]


def test_every_pass_shows_everything_in_an_order_of_its_own():
    elements = [element for _, element in taken(stream([[3, 5, 4, 4]]), 48)]
    passes = [elements[i : i + 16] for i in (0, 16, 32)]
    assert {tuple(sorted(one)) for one in passes} == {tuple(sorted(passes[0]))}
    assert len(set(passes[0])) == 16 and len({tuple(one) for one in passes}) == 3
    other = [element for _, element in taken(stream([[3, 5, 4, 4]], seed=1), 16)]
    assert other != passes[0]


def test_lanes_read_parts_of_their_own_at_a_time():
    found = taken(stream([[4, 4, 4, 4]], lanes=2, shuffle=False), 8)
    assert [element[1] for _, element in found] == [0, 1, 0, 1, 0, 1, 0, 1]
    shuffled = [element for _, element in taken(stream([[4, 4, 4, 4]], lanes=2), 16)]
    assert len(set(shuffled)) == 16


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_order_does_not_depend_on_processes(lanes, processes):
    sizes = [[3, 5, 2, 4], [1, 7, 2, 2]]
    settings = {"lanes": lanes, "rates": [2, 1], "seed": 5}
    whole = taken(stream(sizes, **settings), 64)
    parts = [stream(sizes, **settings, process=(p, processes)) for p in range(processes)]
    shares = [taken(part, 64 // processes) for part in parts]
    assert sorted(itertools.chain(*shares)) == sorted(whole)
    assert [position for position, _ in whole] == list(range(64))


def test_a_process_opens_the_parts_of_its_lanes_alone():
    files = [Parts([[2] * 8]) for _ in range(2)]
    for p, opened in enumerate(files):
        taken(stream([[2] * 8], opened, lanes=4, process=(p, 2)), 8)
    seen = [{part for _, part, _ in opened.opened} for opened in files]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 8


@pytest.mark.parametrize("process", [(0, 1), (1, 2), (3, 4)])
@pytest.mark.parametrize("before", [0, 1, 7, 40])
def test_going_on_is_exact_and_reads_one_part_again(process, before):
    sizes = [[3, 5, 2, 4], [1, 7, 2, 2]]
    settings = {"lanes": 2, "rates": [2, 1], "process": process}
    first = stream(sizes, **settings)
    taken(first, before)
    state = json.loads(json.dumps(first.get_state()))
    expected = taken(first, 30)
    files = Parts(sizes)
    second = stream(sizes, files, **settings)
    second.set_state(state)
    assert second.get_state() == state and files.opened == []
    assert next(second) == expected[0] and len(files.opened) <= 3
    assert taken(second, 29) == expected[1:]
    first.set_state(state)  # going back works too
    assert taken(first, 30) == expected
    first.close()
    assert next(first)[0] == expected[-1][0] + process[1]


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_any_number_of_processes_goes_on(before, after, lanes):
    sizes = [[3, 5, 2, 4], [1, 7, 2, 2]]
    settings = {"lanes": lanes, "rates": [2, 1], "seed": 5}
    whole = taken(stream(sizes, **settings), 64)
    old = [stream(sizes, **settings, process=(p, before)) for p in range(before)]
    for part in old:
        taken(part, 24 // before)
    states = json.loads(json.dumps([part.get_state() for part in old]))
    new = [stream(sizes, **settings, process=(p, after)) for p in range(after)]
    for part in new:
        part.set_states(states)
    rest = itertools.chain(*(taken(part, 40 // after) for part in new))
    assert sorted(rest) == whole[24:]


def test_rates():
    found = stream([[10], [10], [10]], rates=[6, 0, 2])
    counts = collections.Counter(element[0] for _, element in taken(found, 2000))
    assert set(counts) == {0, 2} and counts[0] == pytest.approx(1500, abs=60)


def test_without_repeating_it_ends_with_the_first_lane():
    found = list(stream([[1, 3]], lanes=2, shuffle=False, repeat=False))
    assert [element for _, element in found] == [(0, 0, 0), (0, 1, 0)]


def test_empty_parts_are_passed_over_and_empty_data_is_told_of():
    found = [element for _, element in taken(stream([[0, 2, 0, 1]], shuffle=False), 6)]
    assert [element[1] for element in found] == [1, 1, 3, 1, 1, 3]
    assert list(stream([[0, 0]], repeat=False)) == []
    with pytest.raises(ValueError, match="task 1 .*no element"):
        taken(stream([[1], [0]]), 20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lanes": 3}, "4 parts and 3 lanes"),
        ({"lanes": 0}, "4 parts and 0 lanes"),
        ({"lanes": 4, "process": (0, 6)}, "4 lanes and 6 processes"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        stream([[1, 1, 1, 1]], **settings)


def test_positions_of_other_data():
    state = stream([[1, 1]], lanes=2).get_state()
    with pytest.raises(ValueError, match="number of lanes"):
        stream([[1, 1]]).set_state(state)
    two = stream([[1], [1]])
    next(two)
    with pytest.raises(ValueError, match=r" 2 task\(s\), .* 1;"):
        stream([[1]]).set_state(two.get_state())
    with pytest.raises(ValueError, match="number of lanes"):
        stream([[1]]).set_state({"next_index": 3})


# ---- in a pipeline -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(Stream):
    """Part p has `size` elements, number n of it with the caption "p n"; `bad` are captions."""

    size: int = 6
    bad: tuple[str, ...] = ()
    shape: VideoShape = SHAPE

    def elements(self, *, seed, shuffle, repeat, process):
        parts = Parts([[self.size] * 4])
        settings = {"seed": seed, "shuffle": shuffle, "repeat": repeat, "process": process}
        return PartsInOrder(parts, rates=[1], parts=4, lanes=2, **settings)

    def load(self, element, rng):
        caption = f"{element[1]} {element[2]}"
        if caption in self.bad or "all" in self.bad:
            raise BadExample(caption, "too short")
        video = np.full(self.shape.thwc, element[2], np.uint8)
        video[0, 0] = rng.integers(256)
        return Example(video=video, caption=caption)


def same(one, two):
    return all(
        (a["video"] == b["video"]).all() and a["caption"] == b["caption"]
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("crop", [None, VideoShape(frames=2, height=2, width=3)])
def test_a_stream_in_a_pipeline(crop):
    assert isinstance(Numbers(), Stream)
    pipeline = Pipeline(source=Numbers(), batch_size=4, seed=3, crop=crop)
    assert pipeline.captions_per_clip == 1
    whole = taken(pipeline.iterator(), 12)
    assert whole[0]["video"].shape == (4, *(crop or SHAPE).thwc)
    assert len({c for batch in whole[:6] for c in batch["caption"]}) == 24
    halves = [pipeline.iterator(process=(p, 2)) for p in range(2)]
    for batch in whole:
        parts = [next(half) for half in halves]
        assert [c for pair in zip(*(x["caption"] for x in parts), strict=True) for c in pair] == (
            batch["caption"]
        )
        assert (np.stack([x["video"] for x in parts], 1).reshape(batch["video"].shape)
                == batch["video"]).all()  # fmt: skip
    iterator = pipeline.iterator()
    taken(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    again = pipeline.iterator()
    again.set_states([state])
    assert same(taken(again, 7), whole[5:])


def test_a_stream_that_ends():
    source = Numbers(size=3)
    batches = list(Pipeline(source=source, batch_size=5, repeat=False, shuffle=False).iterator())
    assert [len(batch["caption"]) for batch in batches] == [5, 5]


def test_bad_elements_are_skipped(caplog):
    source = Numbers(bad=("0 0", "3 5"))
    iterator = Pipeline(source=source, batch_size=4).iterator()
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        found = {c for batch in taken(iterator, 11) for c in batch["caption"]}
    assert not found & set(source.bad) and set(iterator.skipped) == set(source.bad)
    with pytest.raises(ValueError, match="first 1000 examples .* too short"):
        next(Pipeline(source=Numbers(bad=("all",)), batch_size=4).iterator())


def test_where_a_stream_does_not_fit():
    with pytest.raises(ValueError, match="workers is 2, .*Numbers .*; set 0"):
        Pipeline(source=Numbers(), batch_size=4, workers=2)
    with pytest.raises(ValueError, match=r"sources\[0\] .*Numbers.*no source"):
        Mixture(sources=[Numbers()])
    with pytest.raises(ValueError, match=r"Joint\.videos .*Numbers.*random order"):
        Joint(videos=Numbers(), images=Numbers(), image_rate=0.5)
    with pytest.raises(ValueError, match="Numbers .*TEXT_ENCODER"):
        Numbers().captions()
