"""Settings by stage, as people write them."""

import pytest

from vidgen.inference import per_stage
from vidgen.inference.per_stage import PerStage, parse
from vidgen.types import STAGES


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("64", dict.fromkeys(STAGES, 64)),
        ("base=256,tsr1=64", {"base": 256, "tsr1": 64, "ssr1": None}),
        ("128, base = 256", {"base": 256, "tsr1": 128, "ssr3": 128}),
        ("ssr3=8,128", {"ssr3": 8, "base": 128}),
    ],
)
def test_values(text, values):
    setting = parse("steps", text, per_stage.whole)
    assert {stage: setting(stage) for stage in values} == values


def test_kinds_of_values():
    assert parse("gamma", "base=0.3", per_stage.number)("base") == 0.3
    assert parse("sampler", "ddim", per_stage.word)("tsr2") == "ddim"
    assert parse("guidance", "3,base=15:1", per_stage.weights)("base") == (15.0, 1.0)
    assert parse("guidance", "3,base=15:1", per_stage.weights)("tsr1") == (3.0, None)


@pytest.mark.parametrize(
    ("text", "read", "words"),
    [
        ("bass=3", per_stage.whole, "--steps=bass=3: .*no stage 'bass'.*base, tsr1"),
        ("base=3,base=4", per_stage.whole, "--steps=base=3,base=4 .*twice .*base"),
        ("3,4", per_stage.whole, "--steps=3,4 .*twice .*all stages"),
        ("3.5", per_stage.whole, "'3.5' .*whole number"),
        ("base=", per_stage.whole, "--steps=base=: '' .*whole number"),
        ("", per_stage.word, "--steps=: '' .*name"),
        ("x", per_stage.number, "'x' .*not a number"),
        ("1:x", per_stage.weights, "'1:x' .*weight.*HIGH:LOW"),
    ],
)
def test_what_cannot_be_read(text, read, words):
    with pytest.raises(ValueError, match=words):
        parse("steps", text, read)


def test_one_value_for_all_is_a_setting_too():
    assert per_stage.value(3, "base") == 3 and per_stage.value(None, "base") is None
    assert per_stage.value(PerStage(3, {"base": 4}), "base") == 4
