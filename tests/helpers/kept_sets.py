"""Data sets of TFDS that one run of the tests writes and later ones copy: 4 s of TensorFlow."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import places

_SCRIPT = places.HELPERS / "tfds_sets.py"
_PACKAGES = ("tensorflow-datasets", "tensorflow", "array-record", "av", "numpy", "etils", "pillow")


def _kept():
    """The folder in that of compiled programs, by all that the sets are written from."""
    digest = hashlib.sha256(_SCRIPT.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    return cache / "tfds_sets" / digest.hexdigest()[:16]


def bring(folder):
    """Copy the sets into an empty folder, and write them first where no run did."""
    kept = _kept()
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            whole = pathlib.Path(made, "whole")
            command = [sys.executable, str(_SCRIPT), str(whole)]
            subprocess.run(command, check=True, capture_output=True)
            with contextlib.suppress(OSError):  # another run was quicker
                whole.rename(kept)  # whole or not at all
    shutil.copytree(kept, folder, dirs_exist_ok=True)
