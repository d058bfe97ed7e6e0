"""The cache in front of an encoder, and the byte encoder that unit tests use.

Tests of vidgen/text/byte_encoder.py too.
"""

import logging

import numpy as np
import pytest

from vidgen.text import encoder
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.types import TextEncoder


class Spy:
    """A ByteEncoder that records the prompts of every call."""

    def __init__(self):
        self.inner = ByteEncoder(dim=4, length=8)
        self.name, self.dim, self.length = "spy", 4, 8
        self.calls = []

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        return self.inner(prompts)


@pytest.fixture(autouse=True)
def fresh_warnings():
    encoder.warn_truncated.cache_clear()


@pytest.mark.parametrize("count, size", [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16)])
def test_padding_to_a_power_of_two(count, size):
    prompts = [str(i) for i in range(count)]
    padded = encoder.pad_to_power_of_two(prompts)
    assert padded == prompts + [""] * (size - count)


def test_cache_encodes_each_prompt_once_and_keeps_the_order():
    spy = Spy()
    cached = encoder.CachedEncoder(encoder=spy)
    first = cached(["a", "b", "a"])
    second = cached(["c", "b", "d", "e", "a"])
    assert spy.calls == [["a", "b"], ["c", "d", "e", ""]]
    assert cached(["b", "a"]).tokens.shape == (2, 8, 4)
    assert len(spy.calls) == 2
    for text, prompts in [(first, ["a", "b", "a"]), (second, ["c", "b", "d", "e", "a"])]:
        direct = spy.inner(prompts)
        np.testing.assert_array_equal(text.tokens, direct.tokens)
        np.testing.assert_array_equal(text.mask, direct.mask)


def test_the_least_recently_used_prompt_is_forgotten_first():
    spy = Spy()
    cached = encoder.CachedEncoder(encoder=spy, capacity=2)
    cached(["a", "b"])
    cached(["a"])  # b is now the oldest
    cached(["c"])
    cached(["a", "c"])
    assert spy.calls == [["a", "b"], ["c"]]
    cached(["b"])
    assert spy.calls[-1] == ["b"]


def test_more_prompts_than_the_cache_holds():
    spy = Spy()
    cached = encoder.CachedEncoder(encoder=spy, capacity=2)
    prompts = ["a", "b", "c", "a"]
    np.testing.assert_array_equal(cached(prompts).tokens, spy.inner(prompts).tokens)


def test_what_the_caller_does_to_an_answer_stays_with_the_caller():
    cached = encoder.CachedEncoder(encoder=ByteEncoder())
    before = cached(["a"]).tokens.copy()
    np.asarray(cached(["a"]).tokens)[...] = 0
    np.testing.assert_array_equal(cached(["a"]).tokens, before)


def test_both_are_text_encoders():
    inner = ByteEncoder(dim=5, length=7, seed=1)
    cached = encoder.CachedEncoder(encoder=inner)
    for one in (inner, cached):
        assert isinstance(one, TextEncoder)
        assert (one.name, one.dim, one.length) == ("bytes-5-7-1", 5, 7)


@pytest.mark.parametrize("one", [ByteEncoder(), encoder.CachedEncoder(encoder=ByteEncoder())])
def test_no_prompts_is_an_error(one):
    with pytest.raises(ValueError, match="no prompts"):
        one([])


@pytest.mark.parametrize("one", [ByteEncoder(), encoder.CachedEncoder(encoder=ByteEncoder())])
def test_one_string_is_not_a_list_of_prompts(one):
    with pytest.raises(ValueError, match="prompts .*list .*'cat'"):
        one("cat")


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="capacity is 0"):
        encoder.CachedEncoder(encoder=ByteEncoder(), capacity=0)
    with pytest.raises(ValueError, match="ByteEncoder.dim is 0"):
        ByteEncoder(dim=0)


def test_bytes_are_masked_padded_and_placed():
    text = ByteEncoder(dim=6, length=5)(["ab", "ba", "", "é"])
    tokens, mask = np.asarray(text.tokens), np.asarray(text.mask)
    assert tokens.dtype == np.float32 and mask.dtype == bool
    np.testing.assert_array_equal(mask.sum(1), [2, 2, 0, 2])  # é is two bytes
    assert not tokens[~mask].any() and tokens[mask].all()
    assert not np.allclose(tokens[0].sum(0), 0)
    assert not np.allclose(tokens[0, 0], tokens[1, 1])  # "a" first is not "a" second


def test_bytes_are_the_same_everywhere():
    again = ByteEncoder(dim=6, length=5)
    np.testing.assert_array_equal(
        again(["cat"]).tokens, ByteEncoder(dim=6, length=5)(["cat"]).tokens
    )
    assert not np.allclose(
        np.asarray(again(["cat"]).tokens), ByteEncoder(dim=6, length=5, seed=1)(["cat"]).tokens
    )
    # numpy's PCG64 stream for seed 0: 0.1257302 is its first standard normal in float64; in
    # float32 the generator draws differently, so the value is pinned here.
    expected = np.random.Generator(np.random.PCG64(0)).standard_normal((256, 6), np.float32)
    place = np.asarray(again(["\0"]).tokens)[0, 0] - expected[0]
    np.testing.assert_allclose(
        np.asarray(again(["A"]).tokens)[0, 0], expected[65] + place, rtol=1e-6
    )


def test_a_prompt_that_is_cut_is_said_once(caplog):
    one = ByteEncoder(length=4)
    with caplog.at_level(logging.WARNING):
        one(["abcd"])
        assert not caplog.records
        cut = one(["abcdef"])
        one(["abcdefg"])
    (record,) = caplog.records
    assert "keeps 4 tokens" in record.getMessage()
    np.testing.assert_array_equal(cut.tokens, one(["abcd"]).tokens)


def test_no_text_is_the_null_prompt():
    text = encoder.NoText(dim=3, length=2)(["a tiger", ""])
    assert text.tokens.shape == (2, 2, 3) and not text.tokens.any() and not text.mask.any()
    assert isinstance(encoder.NoText(), TextEncoder)
    with pytest.raises(ValueError, match="at least one"):
        encoder.NoText()([])
