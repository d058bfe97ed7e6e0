"""MODEL_DIR, the folder of a run: the check that all writers share."""

from __future__ import annotations

import jax
from etils import epath


def check_model_dir(model_dir: epath.PathLike) -> epath.Path:
    """Make the folder of a run, and try to write there before anything long begins.

    Args:
      model_dir: MODEL_DIR; ~ is expanded.

    Returns:
      The folder.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    folder = epath.Path(model_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"MODEL_DIR {str(folder)!r} is a file; name a folder.")
    probe = folder / f".write_test_{jax.process_index()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_text("")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"MODEL_DIR {str(folder)!r} cannot be written ({reason}); name another folder."
        ) from error
    return folder
