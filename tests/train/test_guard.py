"""Which steps are bad, and what is said of them; limits do not depend on interruptions."""

import json
import logging
import math

import pytest

from vidgen.train.guard import DivergencePolicy, LossMonitor, TrainingDiverged


def watch(losses, guard, start=1):
    seen = LossMonitor(guard)
    for step, loss in enumerate(losses, start=start):
        seen.update(step, loss, 1.0, None)
    return seen


def test_without_a_spike_no_loss_is_too_high():
    seen = watch([1.0] * 500, DivergencePolicy())
    assert seen.limit(501) == math.inf
    seen.update(501, 1e30, 1.0, None)


def test_the_limit_follows_the_average_two_steps_later():
    seen = watch([2.0, 4.0], DivergencePolicy(spike=10, average=2))
    assert [seen.limit(step) for step in (3, 4)] == [math.inf, 30.0]
    seen.update(3, 5.0, 1.0, None)
    # Mean 3, then a half of the way to 5.
    assert [seen.limit(step) for step in (4, 5)] == [30.0, 40.0]


def test_a_bad_loss_does_not_count_for_the_average(caplog):
    seen = watch([2.0, 2.0, 2.0], DivergencePolicy(policy="skip", spike=3, average=2))
    with caplog.at_level(logging.WARNING, logger="vidgen"):
        seen.update(4, 7.0, 1.0, None)
    assert caplog.messages == ["step 4 is skipped: loss is 7, over 6"]
    assert seen.limit(6) == 6.0


@pytest.mark.parametrize(
    ("loss", "grad_norm", "words"),
    [
        (math.nan, 1.0, "loss is nan"),
        (1.0, math.inf, "grad_norm is inf"),
        (31.0, 1.0, "loss is 31, over 30"),
    ],
)
def test_stopping_names_step_reason_and_checkpoint(loss, grad_norm, words):
    seen = watch([3.0] * 4, DivergencePolicy(spike=10, average=1))
    with pytest.raises(TrainingDiverged, match=rf"step 5 \({words}\); checkpoint 3 "):
        seen.update(5, loss, grad_norm, 3)


def test_patience(caplog):
    seen = LossMonitor(DivergencePolicy(policy="skip", patience=3))
    for step, loss in enumerate([math.nan, math.nan, 1.0, math.nan, math.nan], start=1):
        seen.update(step, loss, 1.0, None)
    with pytest.raises(TrainingDiverged, match="step 6 .* 3 bad steps .*no checkpoint"):
        seen.update(6, math.nan, 1.0, None)


@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_state_goes_on_exactly(at):
    guard, losses = (
        DivergencePolicy(policy="skip", spike=2, average=3),
        [1.0, 2.0, 1.0, 9.0, 2.0, math.nan, 3.0, 1.0],
    )
    whole, first = watch(losses, guard), watch(losses[:at], guard)
    second = LossMonitor(guard)
    second.set_state(json.loads(json.dumps(first.state())))
    for step, loss in enumerate(losses[at:], start=at + 1):
        second.update(step, loss, 1.0, None)
    assert second.state() == whole.state()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": "ignore"}, "policy is 'ignore'.*'stop' or 'skip'"),
        ({"spike": 1}, "spike is 1;"),
        ({"average": 0}, "average is 0"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        DivergencePolicy(**settings)
