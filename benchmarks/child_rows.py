"""Rows of a table that are each measured in a process of its own, by a script that calls itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def measure(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a script whose last line is a row as JSON.

    Args:
      name: the row, for the message.
      command: the script and its flags.
      environment: that of the process; None is this one's.

    Returns:
      The row.

    Raises:
      SystemExit: the script failed; the message is what it said.
    """
    command = [sys.executable, *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def append(row: Mapping[str, Any], output: str | Path | None) -> None:
    """Write a row as a line of JSON at the end of a file, if there is one to write."""
    if output:
        with open(output, "a") as file:
            file.write(json.dumps(row) + "\n")
