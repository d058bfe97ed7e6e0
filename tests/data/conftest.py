"""Modules of this folder that tests import by name."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
