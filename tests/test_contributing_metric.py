"""The metric that CONTRIBUTING.md shows: as it stands, by the command, in its help."""

import json
import sys

import numpy as np
import pytest
from contributing import write_example

from vidgen.evals.metrics import METRICS


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Both files of the section in a folder that Python and gin look in."""
    write_example(tmp_path, "Adding a metric", "brightness")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("brightness", None)
    for name in ("brightness", "brightness_gap"):
        METRICS.pop(name, None)


def test_the_command_computes_it(example, vidgen, tmp_path):
    levels = {"made": [0.0, 0.2, 0.4], "real": [-0.5, -0.3]}
    for name, values in levels.items():
        clips = [np.full((2, 4, 4, 3), value, np.float32) for value in values]
        np.save(f"{name}.npy", np.stack(clips))
    asked = ["--metrics=brightness,brightness_gap", "--gin_file=brightness.gin", "--json"]
    told = vidgen("evaluate", "made.npy", "real.npy", *asked, f"--cache={tmp_path / 'cache'}")
    assert told.status == 0, told.err
    metrics = json.loads(told.out)["metrics"]
    assert metrics["brightness"]["value"] == pytest.approx(0.2)
    assert metrics["brightness"]["stderr"] == pytest.approx(0.2 / 3**0.5)
    gap = metrics["brightness_gap"]
    assert gap["value"] == pytest.approx(0.6) and gap["n"] == 3
    assert gap["stderr"] == pytest.approx((0.04 / 3 + 0.02 / 2) ** 0.5)


def test_what_it_needs_is_told(example, vidgen, tmp_path):
    np.save("made.npy", np.zeros((2, 2, 4, 4, 3), np.uint8))
    flags = ["--gin_file=brightness.gin", f"--cache={tmp_path / 'cache'}"]
    told = vidgen("evaluate", "made.npy", "--metrics=brightness_gap", *flags)
    told.assert_sentence("brightness_gap")
    told = vidgen("evaluate", "--metrics=help", "--gin_file=brightness.gin")
    assert "brightness_gap  " in told.out and "gap to the truth; needs real" in told.out
