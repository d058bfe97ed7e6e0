"""Measurements of sets of clips: by blocks, kept, shared among processes."""

import dataclasses

import numpy as np
import pytest

from vidgen.evals import collect
from vidgen.evals.collect import Measurement
from vidgen.types import VideoShape


@dataclasses.dataclass
class Numbers:
    """Clip n is full of n / 100 + offset."""

    count: int
    offset: float = 0.0
    broken: int = -1
    name: str = "numbers"
    names: None = None
    shape: VideoShape = VideoShape(frames=2, height=4, width=4)

    @property
    def fingerprint(self):
        return f"{self.count}-{self.offset}"

    def __len__(self):
        return self.count

    def read(self, number):
        if number == self.broken:
            raise ValueError("this clip cannot be read")
        return np.full((2, 4, 4, 3), number / 100 + self.offset), f"number {number}"


class Mean:
    """Measures the mean of a clip, or of its difference from the truth; remembers what it saw."""

    def __init__(self, side, key="mean"):
        self.seen = []
        self.measurement = Measurement(side=side, key=key, compute=self.compute)

    def compute(self, batch):
        self.seen += batch.captions
        video = batch.video - (0 if batch.real is None else batch.real)
        return video.mean(axis=(1, 2, 3, 4))


def means():
    return {side: Mean(side) for side in ("generated", "real", "pair")}


def collected(several, *arguments, **options):
    """The rows by the keys of `several`."""
    rows = collect.collect([one.measurement for one in several.values()], *arguments, **options)
    return dict(zip(several, rows, strict=True))


def test_rows_are_in_the_order_of_the_clips(tmp_path):
    rows = collected(means(), Numbers(70), Numbers(70, 0.5), tmp_path)
    assert isinstance(rows["generated"], np.memmap)
    np.testing.assert_allclose(rows["generated"], np.arange(70) / 100)
    np.testing.assert_allclose(rows["real"], np.arange(70) / 100 + 0.5)
    np.testing.assert_allclose(rows["pair"], -0.5)


def test_what_is_there_is_not_computed_again(tmp_path):
    first, second = means(), means()
    collected(first, Numbers(70), Numbers(70, 0.5), tmp_path)
    collected(second, Numbers(70), Numbers(70, 0.5), tmp_path)
    assert len(first["generated"].seen) == 70 and second["generated"].seen == []
    third = {"generated": Mean("generated", key="another network")}
    collected(third, Numbers(70), None, tmp_path)
    assert len(third["generated"].seen) == 70


def test_one_that_was_stopped_goes_on(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        collected({"generated": Mean("generated")}, Numbers(70, broken=40), None, tmp_path)
    rest = Mean("generated")
    rows = collected({"generated": rest}, Numbers(70), None, tmp_path)
    np.testing.assert_allclose(rows["generated"], np.arange(70) / 100)
    assert rest.seen == [f"number {n}" for n in range(collect.BLOCK, 70)]


def test_processes_share_the_blocks(tmp_path):
    parts, rows = [means() for _ in range(3)], None
    for index, part in enumerate(parts):

        def others_are_done(index=index):
            if index < 2:
                raise InterruptedError  # the last one finds all that the others made

        try:
            rows = collected(
                part, Numbers(200), Numbers(150), tmp_path, process=(index, 3), wait=others_are_done
            )
        except InterruptedError:
            assert index < 2
    assert rows is not None
    np.testing.assert_allclose(rows["generated"], np.arange(200) / 100)
    for name, count in (("generated", 200), ("real", 150)):
        seen = [caption for part in parts for caption in part[name].seen]
        assert sorted(seen) == sorted(f"number {n}" for n in range(count))
        assert all(part[name].seen for part in parts)


def test_equal_measurements_are_computed_once(tmp_path):
    first, second = Mean("generated"), Mean("generated")
    both = [first.measurement, second.measurement]
    rows = collect.collect(both, Numbers(3), None, tmp_path)
    np.testing.assert_allclose(rows, [[0.0, 0.01, 0.02]] * 2)
    assert len(first.seen) == 3 and second.seen == []


def test_progress_is_told(tmp_path):
    told = []
    collected(
        {"generated": Mean("generated")},
        Numbers(70),
        None,
        tmp_path,
        on_block=lambda *x: told.append(x),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
