"""Numbers for people, and rates that leave out what is not training."""

import io

import pytest

from vidgen.train import progress


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


def test_rates(monkeypatch):
    now = iter([0.0, 10.0, 15.0, 20.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    clock = progress.Clock()  # at 0
    clock.step()  # the step that compiles ends at 10
    for _ in range(4):
        clock.step()
    clock.pause(1.0)  # sampling took one of the five seconds
    found = clock.reading(batch_size=8, waited=1.0, flops=100.0)  # at 15
    assert found == {
        "seconds_per_step": 1.0,
        "steps_per_second": 1.0,
        "examples_per_second": 8.0,
        "data_wait_fraction": 0.25,
        "flops_per_second": 100.0,
    }
    clock.step()
    found = clock.reading(batch_size=8, waited=1.0, flops=None)  # at 20
    assert found["seconds_per_step"] == 5.0 and found["data_wait_fraction"] == 0.0
    assert "flops_per_second" not in found


def test_no_rate_for_the_step_that_compiles():
    clock = progress.Clock()
    clock.step()
    assert clock.reading(8, 0.0, None) == {}


def test_line_without_rates():
    assert progress.line(5, 100, {"loss": 0.25}) == "step   5/100  loss 0.2500"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_moving_line_only_on_a_terminal():
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        console = progress.Console(stream)
        console.show("1/2")
        console.say("done")
    assert plain.getvalue() == "done\n"
    assert terminal.getvalue() == "\r\x1b[K1/2\r\x1b[Kdone\n"
