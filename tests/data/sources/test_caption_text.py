"""What counts as a caption, and which of several is drawn."""

import collections
import math

import numpy as np
import pytest

from vidgen.data.sources.caption_text import captions_in, drawn, parsed


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("a cat", ("a cat",)),
        ("  a\n cat ", ("a cat",)),
        (["a dog runs", "a brown dog"], ("a dog runs", "a brown dog")),
        (("b", "a", "b ", ""), ("b", "a")),
        (None, ()),
        (math.nan, ()),
        (" \t", ()),
        ([], ()),
    ],
)
def test_values_that_are_captions_or_none(value, captions):
    assert captions_in(value) == captions


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (7, "is the number 7"),
        (0.5, "is the number 0.5"),
        (True, "is True"),
        ({"en": "a cat"}, "is an object"),
        (["a", 3], "is a list with the number 3"),
        (["a", None], "is a list with null"),
        (["a", math.nan], "is a list with the number nan"),
        ([["a"]], "is a list with a list"),
        ([{"text": "a"}], "is a list with an object"),
    ],
)
def test_values_that_are_no_text(value, kind):
    with pytest.raises(ValueError, match=f"its caption {kind}, not text"):
        captions_in(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"caption": "a", "caption": "b"}', "'caption' twice"),
        ("{", "no JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parsed(text)


def test_a_single_caption_takes_nothing_of_the_generator():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    assert drawn((), rng) == "" and drawn(("a",), rng) == "a"
    assert rng.random() == same.random()


def test_each_of_several_is_as_likely():
    counts = collections.Counter(drawn("abc", np.random.default_rng(n)) for n in range(3000))
    assert set(counts) == set("abc")
    assert all(abs(count - 1000) < 4 * math.sqrt(3000 * 2 / 9) for count in counts.values())
