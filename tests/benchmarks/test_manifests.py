"""benchmarks/manifests.py on the smallest experiment: saved on one mesh, read on another."""

import json
import os
import subprocess
import sys

from places import ROOT


def test_a_row(tmp_path):
    output = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/manifests.py", "phenaki_cvivit_tiny", "-o", output],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(output.read_text())
    # Weights, averages and two moments of 46,112 numbers; three counters.
    assert row["equal"] and row["bytes"] == 4 * 4 * row["parameters"] + 4 * 3
    assert row["pieces"] > row["arrays"] and row["device_bytes"] < row["bytes"]
    assert "| phenaki cvivit tiny | 0.00 B |" in done.stdout
