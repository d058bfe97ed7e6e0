"""benchmarks/drift.py: its table; tests/test_readme.py runs all of it for a video of one window."""

import sys
from types import SimpleNamespace

import numpy as np
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import drift  # noqa: E402


def test_windows_are_taken_together_in_parts():
    numbers = np.arange(1, 11)  # of windows, of two videos
    first = np.stack([numbers % 2, numbers > 4, 2.0 * numbers], axis=1)
    second = np.stack([numbers % 2, numbers > 4, 2.0 * numbers + 2], axis=1)
    true = np.array([[[1, 1, 0.5]], [[1, 1, 1.5]]])
    lines = drift.table(np.array([first, second]), true).splitlines()
    assert lines[2:] == [
        "| first of 2 videos | 1.00 ± 0.00 | 0.00 ± 0.00 | 3.0 ± 1.0 |",
        "| 2 to 4 | 0.33 ± 0.00 | 0.00 ± 0.00 | 7.0 ± 1.0 |",
        "| 5 to 6 | 0.50 ± 0.00 | 1.00 ± 0.00 | 12.0 ± 1.0 |",
        "| 7 to 8 | 0.50 ± 0.00 | 1.00 ± 0.00 | 16.0 ± 1.0 |",
        "| 9 to 10 | 0.50 ± 0.00 | 1.00 ± 0.00 | 20.0 ± 1.0 |",
        "| of 2 true clips | 1.00 ± 0.00 | 1.00 ± 0.00 | 1.0 ± 0.5 |",
    ]


def test_windows_begin_six_frames_apart(monkeypatch):
    """What is read of each is the reader's; here it sees the subject asked for at first."""
    begins = []

    def read(window, sprites):
        begins.append((int(window[0, 0, 0, 0]), len(window)))
        return SimpleNamespace(subject="tiger" if len(begins) < 3 else "frog", background="red")

    monkeypatch.setattr(drift.story_probe, "read_part", read)
    monkeypatch.setattr(drift.story_probe, "follow", lambda *_: SimpleNamespace(error=9.0))
    video = np.broadcast_to(np.arange(28.0)[:, None, None, None], (28, 4, 4, 3))
    asked = SimpleNamespace(subject="tiger", background="blue")
    found = drift.read_windows(video, asked, None)
    assert begins == [(0, 11), (6, 11), (12, 11)]
    np.testing.assert_array_equal(found, [[1, 0, 3], [1, 0, 3], [0, 0, 3]])
