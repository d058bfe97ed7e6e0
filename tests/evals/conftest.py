"""Puts the helpers of this folder where its tests can import them."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
