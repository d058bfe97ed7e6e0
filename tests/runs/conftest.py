"""Shares the toy model of tests/train, and the cascade of this folder."""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "train"), str(HERE.parent / "nn"), str(HERE)]


@pytest.fixture(scope="session")
def phenaki(tmp_path_factory):
    """A folder that holds cvivit/ and maskgit/, tiny, each trained for two steps."""
    import tiny_phenaki

    return tiny_phenaki.train(tmp_path_factory.mktemp("phenaki"))
