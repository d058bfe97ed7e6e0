"""Rates that leave out what is not training, and the line of the console."""

from vidgen.train import throughput


def test_rates(monkeypatch):
    now = iter([0.0, 10.0, 15.0, 20.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))
    clock = throughput.StepTimer()  # at 0
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
    clock = throughput.StepTimer()
    clock.step()
    assert clock.reading(8, 0.0, None) == {}


def test_line_without_rates():
    assert throughput.log_line(5, 100, {"loss": 0.25}) == "step   5/100  loss 0.2500"
