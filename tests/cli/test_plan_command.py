"""The flags of `vidgen plan` that go together; tests/plan has the plans."""

import pytest

TINY = "--gin_file=experiments/phenaki_maskgit_tiny.gin"


@pytest.mark.parametrize(
    "flags", [["--fit"], ["--chips=v5p:4"], ["--fit", "--chips=v5p:4", "--topology=v5p:2x2x1"]]
)
def test_the_search_chooses_what_other_flags_say(vidgen, flags):
    status, out, err = vidgen("plan", TINY, *flags)
    assert (status, out) == (2, "") and "--fit and --chips=v5p:64 go together" in err


def test_a_slice_that_is_not_to_be_had_is_one_sentence(vidgen):
    status, out, err = vidgen("plan", TINY, "--fit", "--chips=v5p:63")
    assert (status, out) == (2, "") and "--chips=v5p:63 is no slice of TPUs" in err


def test_a_dry_run_searches_nothing(vidgen):
    status, out, _ = vidgen("plan", TINY, "--fit", "--chips=v5p:4", "--dry_run")
    assert status == 0 and "MaskedVideoModel" in out
