"""MODEL_DIR/config.gin: the resolved configuration of a training run, next to its checkpoints."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import jax
from etils import epath

from vidgen.train.model_dir import check_model_dir


@contextlib.contextmanager
def saved_config(model_dir: str, text: str) -> Iterator[None]:
    """Write MODEL_DIR/config.gin before the block, from the first process.

    The file describes the checkpoints beside it. An older one that differs is kept as config.1.gin,
    config.2.gin, ... If the block fails before it adds a checkpoint, the older file comes back.
    Where there was none, and nothing else was written, the folder is as it was before.

    Args:
      model_dir: folder of the run; made if absent.
      text: the resolved configuration.

    Yields:
      Nothing.

    Raises:
      ValueError: the folder cannot be made or written.
      OSError: the file cannot be written; an old one is then as it was.
    """
    is_new = not epath.Path(model_dir).expanduser().exists()
    folder = check_model_dir(model_dir)
    if jax.process_index() != 0:
        yield
        return
    target = folder / "config.gin"
    old = target.read_text() if target.exists() else None
    if old == text:
        yield
        return
    names = (folder / f"config.{number}.gin" for number in itertools.count(1))
    kept = next(path for path in names if not path.exists())
    if old is not None:
        _write(kept, old)
    _write(target, text)
    before = _checkpoints(folder)
    try:
        yield
    except BaseException:
        if old is not None and _checkpoints(folder) == before:
            kept.replace(target)
        if old is None:
            _clear(folder, is_new)
        raise


def _clear(folder: epath.Path, is_new: bool) -> None:
    """Remove what a run wrote that failed at once: its configuration and empty folders."""
    names = {path.name for path in folder.iterdir()}
    if _checkpoints(folder) or not names <= {"config.gin", "checkpoints"}:
        return
    with contextlib.suppress(OSError):  # another process may still write there
        (folder / "config.gin").unlink()
        if "checkpoints" in names:
            (folder / "checkpoints").rmdir()
        if is_new:
            folder.rmdir()


def _checkpoints(folder: epath.Path) -> set[str]:
    inside = folder / "checkpoints"
    return {path.name for path in inside.iterdir()} if inside.exists() else set()


def _write(target: epath.Path, text: str) -> None:
    """Write the whole file, or nothing of it."""
    partial = target.parent / f".{target.name}.{os.getpid()}"
    try:
        partial.write_text(text)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
