"""Trains what benchmarks/faults.py compares with: folder, steps, processes, folder of programs.

A fork of its own, as its processes are forks that must begin before JAX has a device.
"""

import shutil
import sys
from pathlib import Path

from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import fault_processes  # noqa: E402
import faults  # noqa: E402

if __name__ == "__main__":
    folder, steps, processes, programs = sys.argv[1:]
    fault_processes.setup(Path(programs))
    run = faults.Run(folder=Path(folder), steps=int(steps), processes=int(processes))
    faults.undisturbed(run)
    for name in ("logs", "index"):
        shutil.rmtree(run.folder / name)
