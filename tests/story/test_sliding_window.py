"""The sliding context: what is known of each clip, what is new, and going on."""

import numpy as np
import pytest

from vidgen.story import sliding_window
from vidgen.story.segments import Segment
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=11, height=4, width=6, channels=1)


def segment(name, context, frames):
    """A segment that shows `name`; sampling looks at no more of it."""
    settings = {"index": 0, "scene": 0, "part": 0, "parts": 1, "seed": 0, "draws": (0,)}
    settings |= {"guidance": None, "steps": None, "first_frame": 0}
    return Segment(prompts=((name, 1.0),), context=context, frames=frames, **settings)


def name_of(one):
    return one.prompts[0][0]


def parts(names, context=5):
    """Segments that know as much as there is and keep all that they make."""
    first = segment(names[0], 0, SHAPE.frames)
    return [first, *(segment(name, context, SHAPE.frames - context) for name in names[1:])]


class Counting:
    """A model whose frame i shows the number after the last one it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, segment, known):
        mask = np.asarray(known.mask)[0, :, 0, 0, 0]
        given = np.asarray(known.video)[0, mask, 0, 0, 0]
        self.seen.append((name_of(segment), given.tolist()))
        first = given[-1] + 1 if len(given) else 0.0
        new = first + np.arange(SHAPE.frames - len(given))
        values = np.concatenate([given, new]).astype(np.float32)
        return np.broadcast_to(values[None, :, None, None, None], (1, *SHAPE.thwc))


@pytest.mark.parametrize("segments, frames", [(1, 11), (2, 17), (5, 35), (10, 65), (20, 125)])
def test_five_frames_of_context_leave_six_new_ones(segments, frames):
    told = list(
        sliding_window.generate_segments(
            parts("x" * segments), Counting(), shape=SHAPE, context_frames=5
        )
    )
    film = np.concatenate([t.frames for t in told])
    np.testing.assert_array_equal(film[:, 0, 0, 0], np.arange(frames))


def test_each_clip_is_given_the_last_frames_of_the_film():
    model = Counting()
    told = list(
        sliding_window.generate_segments(parts("abc"), model, shape=SHAPE, context_frames=5)
    )
    assert model.seen == [("a", []), ("b", [6, 7, 8, 9, 10]), ("c", [12, 13, 14, 15, 16])]
    assert [name_of(t.segment) for t in told] == ["a", "b", "c"]
    np.testing.assert_array_equal(told[-1].context[:, 0, 0, 0], [18, 19, 20, 21, 22])


def test_a_cut_a_trimmed_segment_and_a_shorter_context():
    model = Counting()
    segments = [
        segment("a", 0, 11),
        segment("trim", 5, 2),
        segment("one", 1, 10),
        segment("cut", 0, 11),
    ]
    told = list(sliding_window.generate_segments(segments, model, shape=SHAPE, context_frames=5))
    seen = [("a", []), ("trim", [6, 7, 8, 9, 10]), ("one", [12]), ("cut", [])]
    assert model.seen == seen
    np.testing.assert_array_equal(told[1].frames[:, 0, 0, 0], [11, 12])
    np.testing.assert_array_equal(told[1].context[:, 0, 0, 0], [8, 9, 10, 11, 12])


def test_a_film_goes_on_from_its_context():
    whole = list(
        sliding_window.generate_segments(
            parts("abcd", 3), Counting(), shape=SHAPE, context_frames=3
        )
    )
    settings = {"shape": SHAPE, "context_frames": 3, "context": whole[1].context}
    rest = list(sliding_window.generate_segments(parts("abcd", 3)[2:], Counting(), **settings))
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)


def test_what_is_known_has_one_shape_so_that_one_program_is_compiled():
    frames = np.ones((5, 4, 6, 1), np.float32)
    empty, full = (
        sliding_window.known_beginning(SHAPE, frames[:0]),
        sliding_window.known_beginning(SHAPE, frames),
    )
    assert empty.video.shape == full.video.shape and empty.mask.shape == full.mask.shape
    assert not empty.mask.any() and full.mask.sum() == 5


@pytest.mark.parametrize("second", [segment("b", 6, 5), segment("b", 5, 7), segment("b", 5, 0)])
def test_a_segment_that_does_not_fit_is_refused(second):
    segments = [segment("a", 0, 11), second]
    with pytest.raises(ValueError, match=r"at most 5\).* 11"):
        list(sliding_window.generate_segments(segments, Counting(), shape=SHAPE, context_frames=5))


def test_nothing_can_be_known_of_a_film_without_frames():
    with pytest.raises(ValueError, match="1 frames and adds 10; 0 frames"):
        next(
            sliding_window.generate_segments(
                [segment("a", 1, 10)], Counting(), shape=SHAPE, context_frames=5
            )
        )


def test_a_context_of_another_size_is_refused():
    wrong = np.zeros((5, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"continues frames of \(4, 6, 1\)"):
        next(
            sliding_window.generate_segments(
                parts("a"), Counting(), shape=SHAPE, context_frames=5, context=wrong
            )
        )
