"""Folders of the clone: tests look for files by these names, wherever they lie themselves."""

import os
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
FILES = TESTS / "files"
ROOT = TESTS.parent

# What a process that a test starts finds: the package of this clone, and these helpers.
PYTHONPATH = os.pathsep.join([str(ROOT), str(HELPERS)])
