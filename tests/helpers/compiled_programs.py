"""The compiled programs that a process of the tests keeps."""

import pathlib
import resource
import sys

# Bytes of a process from which on it forgets them: all files compile the same hundreds of tiny
# programs, and many the same networks, but to keep all of every file is gigabytes.
LARGE = 5 * 2**29


def forget_if_large():
    """Where this process has become large."""
    if "jax" in sys.modules and _resident_bytes() > LARGE:
        sys.modules["jax"].clear_caches()


def _resident_bytes():
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():  # not Linux: the most that there ever were
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(statm.read_text().split()[1]) * resource.getpagesize()
