"""Shares the toy model of tests/train."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "train"))
