"""Trained stages on disk: which folders there are, and which of them are asked for."""

import pytest

from vidgen.inference.stages import find
from vidgen.types import STAGES


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.gin").write_text("")
    return str(root)


def test_one_stage(tmp_path):
    assert find(folders(tmp_path / "a", "")) == (tmp_path / "a",)
    assert find(folders(tmp_path / "a", "tsr1")) == (tmp_path / "a",)  # it is the folder itself


def test_a_cascade_in_the_order_of_the_paper(tmp_path):
    model = folders(tmp_path, *reversed(STAGES), "notes")
    assert [path.name for path in find(model)] == list(STAGES)
    assert [path.name for path in find(model, "ssr1", "tsr2")] == ["ssr1", "ssr2", "tsr2"]
    assert [path.name for path in find(model, last="base")] == ["base"]


def test_stages_that_are_not_there_are_left_to_the_chain(tmp_path):
    model = folders(tmp_path, "base", "ssr1")
    (tmp_path / "tsr1").mkdir()  # begun, and nothing in it
    assert [path.name for path in find(model)] == ["base", "ssr1"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("ssr2", None), r"--from=ssr2: .*no such stage .*base, tsr1\."),
        ((None, "ssr9"), "--until=ssr9: .*no such stage"),
        (("tsr1", "base"), "--until=base comes before --from=tsr1"),
    ],
)
def test_stages_that_cannot_be_run(tmp_path, asked, words):
    with pytest.raises(ValueError, match=words):
        find(folders(tmp_path, "base", "tsr1"), *asked)


def test_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--model=.*config\.gin.*maskgit, base, tsr1"):
        find(str(tmp_path))
