"""Errors as a user of the command sees them: one sentence, and an exit status."""

from __future__ import annotations

import errno
import sys


def sentence(error: Exception) -> tuple[str, int]:
    """Say what is wrong in one sentence.

    Args:
      error: as it was raised, with its cause.

    Returns:
      The sentence, and the exit status: 2 for wrong input, a full disk or too little memory, 1 for
      a fault of vidgen.
    """
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    text = " ".join(str(error).split()) or type(error).__name__
    full = any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain)
    if full or ("No space left on device" in text and not isinstance(error, ValueError)):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"the disk is full{where}; free some space and run the same command again.", 2
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return "out of memory; lower BATCH_SIZE (or --batch_size), or use more devices.", 2
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}.", 2
    if isinstance(error, (ValueError, OSError)):
        return text, 2
    kind = type(error).__name__
    return f"internal fault, {kind}: {text} (--debug shows where; please report it).", 1


def fail(sentence: str, status: int = 2) -> int:
    """Print a sentence on stderr as the error of the command.

    Args:
      sentence: what is wrong.
      status: the exit status.

    Returns:
      The status.
    """
    print(f"vidgen: error: {sentence}", file=sys.stderr)
    return status
