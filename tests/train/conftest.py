"""Puts the toy model of this folder where tests can import it."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
