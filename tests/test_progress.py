"""Bars on a terminal, lines elsewhere, and numbers for people."""

import io
import sys

import pytest

from vidgen import progress


@pytest.mark.parametrize(
    "seconds, words",
    [(0.2, "0s"), (59.6, "1m 00s"), (61.0, "1m 01s"), (3599.7, "1h 00m"), (3725.0, "1h 02m")],
)
def test_duration(seconds, words):
    assert progress.duration(seconds) == words


@pytest.mark.parametrize(
    "value, words",
    [(32.0, "32.0 "), (2100.0, "2.1 k"), (5.6e9, "5.6 G"), (3e18, "3.0 E")],
)
def test_engineering(value, words):
    assert progress.engineering(value) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, active", [(io.StringIO, True), (Terminal, False)])
def test_no_bar_without_a_terminal_or_on_other_processes(monkeypatch, stream, active):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress.progress_bar(2, desc="clips", active=active) as bar:
        bar.update()
        progress.say("a line")
    assert sys.stderr.getvalue() == "a line\n"


def test_lines_stand_above_the_bar_of_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress_bar(2, desc="clips", initial=1) as bar:
        progress.say("a line")
        bar.update()
    shown = sys.stderr.getvalue()
    assert "clips" in shown and "1/2" in shown and "2/2" in shown and "a line\n" in shown
