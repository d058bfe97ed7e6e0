"""benchmarks/manifests.py on the smallest experiment: saved on one mesh, read on another."""

import json

import readme_commands
from places import ROOT


def test_a_row(warm, tmp_path):
    output = tmp_path / "lines"
    script = str(ROOT / "benchmarks/manifests.py")
    told = readme_commands.run(["python", script, "phenaki_cvivit_tiny", "-o", str(output)], warm)
    assert told.status == 0, told.err
    row = json.loads(output.read_text())
    # Weights, averages and two moments of 46,112 numbers; three counters.
    assert row["equal"] and row["bytes"] == 4 * 4 * row["parameters"] + 4 * 3
    assert row["pieces"] > row["arrays"] and row["device_bytes"] < row["bytes"]
    assert "| phenaki cvivit tiny | 0.00 B |" in told.out
