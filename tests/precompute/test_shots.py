"""Where films are cut: the difference of frames, cuts among motion, shots that are given."""

import json

import numpy as np
import pytest
from places import FILES

from vidgen.data.video.frames import stream_frames
from vidgen.precompute import shots
from vidgen.precompute.shots import CutDetector, by_detection, by_list, difference, read_shots

BUNNY = FILES / "big_buck_bunny"


def flat(value):
    return np.full((*shots.THUMBNAIL, 3), value, np.uint8)


def test_difference_of_frames():
    assert difference(flat(0), flat(0)) == 0 and difference(flat(0), flat(255)) == 1
    assert difference(flat(0), flat(51)) == pytest.approx(np.sqrt(0.2))  # every color another
    half = flat(0)
    half[:, :32] = 51
    assert difference(flat(0), half) == pytest.approx(0.5 * np.sqrt(0.2))
    assert difference(flat(0), flat(31)) == 0  # 32 levels count as one color
    swapped = np.flip(half, axis=1)
    assert difference(half, swapped) == pytest.approx(np.sqrt(0.2))  # of regions, not of the whole


def numbers(frames, detector=None):
    """The number of its shot for each frame."""
    found = list(by_detection(frames, lambda frame: frame, detector or CutDetector()))
    assert all(got is frame for (_, got), frame in zip(found, frames, strict=True))
    return [number for number, _ in found]


def test_cuts_between_flat_shots():
    lengths = (7, 30, 6, 12)  # no shorter than window + 1
    values = (0, 200, 60, 140)
    frames = [flat(value) for n, value in zip(lengths, values, strict=True) for _ in range(n)]
    assert numbers(frames) == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert numbers(frames[:1]) == [0] and numbers([]) == []


def test_motion_and_fades_are_no_cuts(seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 70, 3), np.uint8)
    scene = blocks.repeat(9, axis=0).repeat(16, axis=1)
    pan = [np.ascontiguousarray(scene[:, 16 * i : 16 * i + 64]) for i in range(60)]
    assert set(numbers(pan)) == {0}  # every frame differs much from the one before
    assert difference(pan[0], pan[1]) > CutDetector().least
    assert set(numbers([flat(4 * i) for i in range(60)])) == {0}
    assert numbers([*pan[:20], *[flat(0)] * 20]) == [0] * 20 + [1] * 20


def test_frames_are_held_back_no_longer_than_the_window():
    given = []

    def frames():
        for i in range(40):
            given.append(i)
            yield flat(i)

    for returned, _ in enumerate(by_detection(frames(), lambda frame: frame, CutDetector())):
        assert len(given) - returned <= CutDetector().window + 1


def test_the_cuts_of_a_film():
    """All of them, and no others: 17 seconds of Big Buck Bunny."""
    frames = stream_frames(BUNNY / "part.mp4")
    found = by_detection(frames, lambda f: f.thumbnail(*shots.THUMBNAIL), CutDetector())
    places: dict[int, list[int]] = {}
    for number, frame in found:
        places.setdefault(number, []).append(frame.number)
    truth = [list(range(first, end)) for first, end in read_shots(BUNNY / "cuts.json")]
    assert list(places.values()) == truth


def test_given_shots_may_leave_frames_out():
    found = list(by_list("abcdefgh", [(1, 3), (3, 4), (6, 8)]))
    assert found == [(0, "b"), (0, "c"), (1, "d"), (2, "g"), (2, "h")]
    assert list(by_list("abc", [(2, 9)])) == [(0, "c")] and list(by_list("abc", [])) == []


def test_shots_in_a_file(tmp_path):
    path = shots.shots_file(tmp_path / "films" / "a.mp4")
    assert path == tmp_path / "films" / "a.shots.json"
    path.parent.mkdir()
    path.write_text("[[0, 36], [40, 285]]")
    assert read_shots(path) == [(0, 36), (40, 285)]
    for wrong in ("{", "3", "[3]", "[[1, 2, 3]]", "[[5, 5]]", "[[0, 9], [8, 12]]", "[[0.0, 3]]"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"a\.shots\.json .*no list"):
            read_shots(path)
    with pytest.raises(ValueError, match=r"\[8, 12\] after frame 9"):
        path.write_text(json.dumps([[0, 9], [8, 12]]))
        read_shots(path)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"ratio": 0.5}, {"least": 0.0}, {"least": 1.0}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="cannot find cuts"):
        CutDetector(**wrong)
