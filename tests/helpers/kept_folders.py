"""Folders that are the same in every run, beside the compiled programs that later runs read."""

import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path


def copied(name, target, fill, *, sources, packages=(), settings=()):
    """Fills `target`, by `fill` or with what it was filled with in an earlier run.

    Args:
      name: of the kind.
      target: an empty folder.
      fill: writes into the folder that it gets.
      sources: files that say what is written.
      packages: those whose versions do, too.
      settings: what else does.
    """
    digest = hashlib.sha256(f"{sys.version} {settings}".encode())
    for package in packages:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    for source in sources:
        digest.update(Path(source).read_bytes())
    kept = Path(os.environ["JAX_COMPILATION_CACHE_DIR"], f"{name}-{digest.hexdigest()[:32]}")
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder, "made")
            made.mkdir()
            fill(made)
            _keep(made, kept)
    shutil.copytree(kept, target, dirs_exist_ok=True)


def _keep(made, kept):
    """Whole or not at all: another process may read it."""
    try:
        os.rename(made, kept)
    except OSError:
        if not kept.exists():  # or another process was quicker
            raise
