"""Shares the writer of PyTorch's files of tests/nn, and the helpers of this folder."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "nn"), str(HERE)]
