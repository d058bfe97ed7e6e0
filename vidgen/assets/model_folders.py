"""Where a trained model is: a folder, a model of the package, or an exported folder in a store.

    imagen_demo, imagen_demo/base        of the package (zoo.py)
    hf://owner/model, gs://bucket/model  what `vidgen export` wrote, anywhere that fsspec reads

A folder of a store is copied at its first use to ~/.cache/vidgen/models, and again where it has
changed; nothing is copied but what loading reads:

    NAME/config.json, NAME/[STAGE/]config.gin, NAME/[STAGE/]model.safetensors

so that no name of a stranger's reaches another place of this machine. A training run in a store,
which has checkpoints, is not copied: these are read where they lie.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vidgen import paths
from vidgen.assets import zoo

log = logging.getLogger(__name__)

CONFIG = "config.gin"
WEIGHTS = ("model.safetensors", "weights.npz")
_NEEDED = re.compile(r"([A-Za-z0-9_]+/)?(config\.gin|config\.json|model\.safetensors|weights\.npz)")
_ORBAX = ("gs://", "s3://")  # the stores that checkpoints are read from in place
_BLOCK = 8 << 20  # [guess] bytes copied at a time


def find(model: str) -> str:
    """Find the folder of a model, and copy it to this machine if it is in a store.

    Args:
      model: a path, a name of the package's, or the address of an exported folder, which is copied.
        The address of a training run is returned as it is.

    Returns:
      A folder of this machine, or the address of a training run. A path of this machine is returned
      as it is, whether something is there or not.

    Raises:
      FileNotFoundError: there is no exported model at the address.
      OSError: the store cannot be read.
      ValueError: no file system is known for it, or its package is not installed.
    """
    if not paths.is_remote(model):
        return zoo.find(model)
    address = model.rstrip("/")
    # Of a training run, whose checkpoints this process reads where they lie.
    if address.startswith(_ORBAX) and "checkpoints" in paths.names_in(address):
        return address
    try:
        files = _files(address)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: there is no such folder, or none that you may read (hf:// reads a private "
            "one with HF_TOKEN)."
        ) from error
    if not any(name.endswith(WEIGHTS) for name in files):
        raise FileNotFoundError(
            f"{address} holds no exported model (a config.gin with a model.safetensors beside it, "
            "or folders of stages that have both); `vidgen export` writes one."
        )
    return str(_copy(address, files))


def check_local(flag: str, folder: str) -> Path:
    """Refuse a training run in a store where a folder of this machine is needed.

    Args:
      flag: the flag that names the model, for the message.
      folder: what `find` returned.

    Returns:
      The folder, ~ expanded.

    Raises:
      ValueError: it is a training run in a store.
    """
    if paths.is_remote(folder):
        raise ValueError(
            f"{flag}={folder} is a training run in a store, of which INIT_FROM alone reads the "
            f"weights there; write a folder with `vidgen export` where the run is, and name that."
        )
    return Path(folder).expanduser()


def _files(address: str) -> Mapping[str, paths.Stat]:
    """Look up the files that loading reads, by their names in the folder."""
    names = sorted(name for name in paths.files_under(address) if _NEEDED.fullmatch(name))
    return {name: paths.stat(paths.join(address, name)) for name in names}


def _copy(address: str, files: Mapping[str, paths.Stat]) -> Path:
    """Copy the files to the folder of this machine that is for them, whole or not at all."""
    key = hashlib.sha256(repr((address, sorted(files.items()))).encode()).hexdigest()[:32]
    name = re.sub(r"\W", "_", address.rpartition("/")[2])
    target = Path(paths.cache_folder("models"), key, name)
    if target.is_dir():
        return target
    size = sum(stat.size or 0 for stat in files.values())
    log.info("fetching %s (%.1f MB)", address, size / 1e6)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        for file in files:
            (partial / file).parent.mkdir(exist_ok=True)
            with paths.open_binary(paths.join(address, file)) as source:
                with (partial / file).open("wb") as copy:
                    shutil.copyfileobj(source, copy, _BLOCK)
        try:
            os.rename(partial, target)
        except OSError:
            if not target.is_dir():  # another process was as quick
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
