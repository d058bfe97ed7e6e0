"""The feed: right pixels, right captions, and the position of the batch that was handed out."""

import itertools
import types

import numpy as np
import pytest
import toy_training as toy

from vidgen.data.source import Dataset
from vidgen.train import batches
from vidgen.types import TextEncoder


class Limited(toy.ToyIterator):
    """Ends, or fails, at batch 3."""

    error: Exception = StopIteration()

    def __next__(self):
        if self.at == 3:
            raise self.error
        return super().__next__()


def next_of(prefetcher):
    return prefetcher.next_while(lambda: False)


def test_position_is_that_of_the_batch_not_of_the_reader():
    made = batches.BatchPrefetcher(toy.ToyIterator(4, (0, 1)), toy.ToyEncoder())
    positions = [next_of(made).position for _ in range(3)]
    made.close()
    assert positions == [{"at": 1}, {"at": 2}, {"at": 3}]


def test_only_the_time_when_nothing_runs_is_lost(monkeypatch):
    """A clock that goes on by one at each look, and a batch that is there at the fifth."""
    clock = itertools.count()
    looks = itertools.chain([False] * 4, itertools.repeat(True))
    monkeypatch.setattr(batches.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(
        batches.futures, "wait", lambda ones, timeout: types.SimpleNamespace(done=next(looks))
    )
    prefetcher = batches.BatchPrefetcher(toy.ToyIterator(4, (0, 1)), toy.ToyEncoder())
    running = iter([True, True, True, False, False])
    prefetcher.next_while(lambda: next(running))
    assert prefetcher.waited == 2  # of five looks
    prefetcher.next_while(lambda: True)
    assert prefetcher.waited == 2
    next_of(prefetcher)
    assert prefetcher.waited == 3
    prefetcher.close()


def test_ends_with_the_data():
    made = batches.BatchPrefetcher(Limited(4, (0, 1)), toy.ToyEncoder())
    assert [next_of(made) is None for _ in range(5)] == [False] * 3 + [True] * 2
    made.close()


def test_errors_of_the_data_arrive():
    iterator = Limited(4, (0, 1))
    iterator.error = OSError("broken disk")
    made = batches.BatchPrefetcher(iterator, toy.ToyEncoder())
    for _ in range(3):
        next_of(made)
    with pytest.raises(OSError, match="broken disk"):
        next_of(made)
    made.close()


def test_batch_is_encoded():
    raw = {
        "video": np.array([0, 255], np.uint8).reshape(2, 1, 1, 1, 1),
        "caption": np.array(["black", "white"]),
        "independent_frames": [True, False],
    }
    batch = batches.encode_batch(raw, toy.ToyEncoder())
    np.testing.assert_array_equal(batch.video.ravel(), [-1.0, 1.0])
    assert batch.video.dtype == np.float32
    np.testing.assert_array_equal(batch.text.tokens, toy.ToyEncoder()(["black", "white"]).tokens)
    np.testing.assert_array_equal(batch.independent_frames, [True, False])


def test_captions_of_frames_are_encoded_once_each():
    asked = []

    class Counting(toy.ToyEncoder):
        def __call__(self, prompts):
            asked.append(list(prompts))
            return super().__call__(prompts)

    captions = [("cat", "dog", "cat"), ("a clip",) * 3]
    raw = {
        "video": np.zeros((2, 3, 1, 1, 1), np.uint8),
        "caption": captions,
        "independent_frames": [True, False],
    }
    text = batches.encode_batch(raw, Counting()).text
    assert text.tokens.shape == (2, 3, toy.LENGTH, toy.DIM) and text.mask.shape == (2, 3, 3)
    for i, row in enumerate(captions):
        np.testing.assert_array_equal(text.tokens[i], toy.ToyEncoder()(row).tokens)
    # Filled up to a power of two: however many differ, a compiled encoder sees few sizes.
    assert asked == [["cat", "dog", "a clip", ""]]


class EndMarks(toy.ToyEncoder):
    """Has tokens for every prompt, as MiniLM and T5 have for the empty one."""

    def __call__(self, prompts):
        text = super().__call__(prompts)
        return text.replace(tokens=np.ones_like(text.tokens), mask=np.ones_like(text.mask))


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\u00a0"])
def test_an_empty_caption_is_the_null_prompt(empty):
    """By itself, among others, and as that of one image of a pack."""
    for captions in ([empty], ["cat", empty], [empty, "cat", "dog"]):
        text = batches.encode_captions(captions, EndMarks())
        told = np.array([caption != empty for caption in captions])
        np.testing.assert_array_equal(text.mask.any(-1), told)
        np.testing.assert_array_equal(np.asarray(text.tokens).any((1, 2)), told)
        assert text.tokens.shape == (len(captions), toy.LENGTH, toy.DIM)
    raw = {
        "video": np.zeros((2, 2, 1, 1, 1), np.uint8),
        "caption": [("cat", empty), (empty, empty)],
        "independent_frames": [True, True],
    }
    text = batches.encode_batch(raw, EndMarks()).text
    np.testing.assert_array_equal(text.mask.any(-1), [[True, False], [False, False]])
    np.testing.assert_array_equal(text.tokens.any((2, 3)), [[True, False], [False, False]])


def test_captions_per_clip_is_one_unless_the_data_says_more():
    class Frames(toy.ToyData):
        captions_per_clip = 2

    assert toy.ToyData().captions_per_clip == 1
    assert Frames().captions_per_clip == 2


def test_protocols():
    assert isinstance(toy.ToyData(), Dataset)
    assert isinstance(toy.ToyEncoder(), TextEncoder)
    assert batches.this_process() == (0, 1)
