"""Times of frames from the stamps of packets, by hand."""

import numpy as np
import pytest

from vidgen.data.video.packet_index import Packets, index_of

NAN = float("nan")
CORRUPT, DISCARD, KEY = 1, 2, 4
# I P B B P B B, of which the decoder holds one back
PTS, DTS = [1, 4, 2, 3, 7, 5, 6], [0, 1, 2, 3, 4, 5, 6]


def packets(pts, dts, flags=None, **settings):
    """A packet for each pts, a tenth of a second each; the first is a key frame."""
    flags = flags or [KEY] + [0] * (len(pts) - 1)
    rows = np.array([pts, dts, [100] * len(pts), flags], float).T
    fields = {"marks": {}, "leads": {0: 0}, "unit": 0.1, "step": 0.1, "format": "nut", "end": 0.0}
    return Packets(rows=rows, **fields | settings)


def test_times_are_those_of_the_container():
    index = index_of(packets(PTS, DTS), depth=1)
    assert not index.by_order and list(index.places) == [0]
    np.testing.assert_allclose(index.times, np.array(PTS) / 10)
    np.testing.assert_allclose(index.slots, np.arange(1, 8) / 10)


@pytest.mark.parametrize("pts", [DTS, [d + 1 for d in DTS], [NAN] * 7])
def test_times_from_the_order_of_frames(pts):
    """The k-th frame leaves the decoder with packet k + 1; the last has to be guessed."""
    index = index_of(packets(pts, DTS), depth=1)
    assert index.by_order
    np.testing.assert_allclose(index.slots, np.arange(1, 8) / 10)
    held = index_of(packets([NAN] * 7, [0, 1, 2, 3, 8, 9, 10]), depth=2)
    np.testing.assert_allclose(held.slots, np.array([2, 3, 8, 9, 10, 11, 12]) / 10)


def test_pts_of_avi_are_not_believed():
    index = index_of(packets(PTS, DTS, format="avi"), depth=1)
    assert index.by_order
    assert not index_of(packets(DTS, DTS, format="avi"), depth=0).by_order


def test_no_stamps_at_all():
    index = index_of(packets([NAN] * 7, [NAN] * 7), depth=0)
    np.testing.assert_allclose(index.slots, np.arange(7) / 10)
    two = index_of(packets([0, *[NAN] * 5, 12], [NAN] * 7), depth=0)
    np.testing.assert_allclose(two.slots, np.arange(7) * 0.2)


def test_frames_that_are_not_shown():
    """Left out by an edit list, or stored before the first key frame."""
    index = index_of(packets(PTS, DTS, [0, KEY, 0, DISCARD, 0, 0, 0]), depth=1)
    np.testing.assert_allclose(index.times * 10, [NAN, 4, 2, NAN, 7, 5, 6])
    assert list(index.places) == [1]


def test_where_decoding_begins_behind_frames_that_are_left_out():
    """Packet 4 is an I-frame that two B-frames are shown before: it takes the slot of packet 6."""
    found = packets(DTS, DTS, [KEY, 0, 0, 0, KEY, 0, 0], leads={0: 0, 4: 2})
    assert index_of(found, depth=1).places == {0: 0, 4: 6}
    unknown = packets(DTS, DTS, [KEY, 0, 0, 0, KEY, 0, 0], leads={})
    assert index_of(unknown, depth=1).places == {0: 0}


@pytest.mark.parametrize("second", [-40, 0, 400])
def test_recordings_put_together_follow_each_other(second):
    stamps = [*range(20), *range(second, second + 20)]
    index = index_of(packets(stamps, stamps, format="mpegts"), depth=0)
    np.testing.assert_allclose(index.times, np.arange(40) / 10, atol=1e-9)


def test_a_frame_that_is_long_shown():
    stamps = [*range(20), *range(60, 80)]
    index = index_of(packets(stamps, stamps, format="mpegts"), depth=0)
    np.testing.assert_allclose(index.times, np.array(stamps) / 10)
    assert not index.broken.any()


@pytest.mark.parametrize(
    ("stamps", "flags", "broken"),
    [
        ([0, 1, 2, 3, 4, 5], [KEY, 0, CORRUPT, 0, 0, 0], [2]),  # what follows refers to it
        ([0, 1, 2, 3, 4, 5], [KEY, 0, CORRUPT, KEY, 0, 0], []),  # joined at a key frame
        ([0, 1, 2, 3, 4, 5], [KEY, CORRUPT, 0, KEY, 0, 0], []),  # the parser is one late
        ([0, 1, 2, 9, 10, 11], [KEY, 0, CORRUPT, KEY, 0, 0], [2]),  # with frames lost
        ([0, 1, 2, 3, 4, 5], [KEY, 0, 0, 0, 0, CORRUPT], []),  # nothing follows
    ],
)
def test_where_data_are_lost(stamps, flags, broken):
    index = index_of(packets(stamps, stamps, flags), depth=0)
    assert np.flatnonzero(index.broken).tolist() == broken
