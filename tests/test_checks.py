"""What the checks of settings let pass, and what they say of the rest."""

import dataclasses
import math

import pytest

from vidgen import checks


@dataclasses.dataclass
class Settings:
    value: object


ONE_OF = (checks.one_of, {"value": ("some", "none")})
AT_LEAST = (checks.at_least, {"value": 2})


@pytest.mark.parametrize("value", ["some", "none", None])
def test_words_of_the_choice_and_what_is_not_set_pass(value):
    checks.one_of(Settings(value), value=("some", "none"))


@pytest.mark.parametrize("value", [2, 2.5, math.inf, None])
def test_numbers_from_the_least_on_pass(value):
    checks.at_least(Settings(value), value=2)


def test_numbers_in_their_interval_pass():
    for value in (1e-9, 3, None):
        checks.positive(Settings(value), "value")
    for value in (0, 0.5, 1, None):
        checks.share(Settings(value), "value")


@pytest.mark.parametrize(
    "check, limit, value, message",
    [
        (*ONE_OF, "all", r"Settings.value is 'all'; choose one of some, none\."),
        (*AT_LEAST, 1, r"Settings.value is 1; it must be >= 2\."),
        (*AT_LEAST, math.nan, "it must be >= 2"),
    ],
)
def test_errors_say_what_is_allowed(check, limit, value, message):
    with pytest.raises(ValueError, match=message):
        check(Settings(value), **limit)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_what_is_not_positive_is_refused(value):
    with pytest.raises(ValueError, match=rf"Settings.value is {value}; .*positive"):
        checks.positive(Settings(value), "value")


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=rf"Settings.value is {value}; .*\[0, 1\]"):
        checks.share(Settings(value), "value")
