"""Runs benchmarks/accelerator.py with rows that fail in every way, and one that does not.

In a process of its own, as rows are forked, which must happen before JAX has a device.
"""

import os
import sys
import time

from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import accelerator  # noqa: E402

GIB = 2**30


def raises(name, size, tell, deadline):
    tell(name, {"setting": "known before"})
    raise RuntimeError("it broke | here")


def ends(name, size, tell, deadline):
    print("the driver is gone", file=sys.stderr, flush=True)
    os._exit(3)


def hangs(name, size, tell, deadline):
    tell(name, {"setting": "known before"})
    time.sleep(600)


def goes_on(name, size, tell, deadline):
    tell(name, {"seconds": 2.0, "predicted_bytes": 2 * GIB, "measured_bytes": 3 * GIB})
    tell(name, {"mfu": 0.25})


if __name__ == "__main__":
    accelerator.ROWS = {
        "raises": accelerator.Row(raises, 1.0),
        "ends": accelerator.Row(ends, 1.0),
        "hangs": accelerator.Row(hangs, 0.04),
        "goes on": accelerator.Row(goes_on, 1.0),
    }
    sys.exit(accelerator.main())
