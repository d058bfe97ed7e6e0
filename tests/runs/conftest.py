"""Shares the toy model of tests/train, and the cascade of this folder."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "train"), str(HERE)]
