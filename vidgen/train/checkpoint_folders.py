"""Folders of checkpoints: found, deleted, and moved out of the way."""

from __future__ import annotations

import contextlib
import time

import jax
from etils import epath

from vidgen.train.batches import wait_for_all_processes


def absolute(path: epath.PathLike) -> epath.Path:
    """Make a local path absolute, as orbax wants; object-store addresses stay as they are.

    Args:
      path: a folder; "~" is expanded.

    Returns:
      The same folder.
    """
    folder = epath.Path(path).expanduser()
    return folder if "://" in str(folder) else folder.resolve()


def set_aside(directory: epath.Path, step: int) -> None:
    """Move a checkpoint to MODEL_DIR/damaged; all processes call this, the first one moves.

    Args:
      directory: MODEL_DIR/checkpoints.
      step: of the checkpoint.
    """
    source, target = directory / str(step), directory.parent / "damaged" / str(step)
    if jax.process_index() == 0:
        if target.exists():
            target.rmtree()
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    wait_for_all_processes(f"set aside {step}")


def remove_folder(folder: epath.Path) -> None:
    """Delete a folder into which other processes, which failed, may go on writing for a while.

    They may make it again with every file, so it has to be absent at three looks in a row.

    Args:
      folder: it need not be there.
    """
    absent = 0
    for _ in range(40):
        if folder.exists():
            absent = 0
            with contextlib.suppress(OSError):
                folder.rmtree()
        else:
            absent += 1
        if absent == 3:
            return
        time.sleep(0.1)
