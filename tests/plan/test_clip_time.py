"""A clip through a cascade whose weights come meanwhile, in closed form."""

import pytest

from vidgen.plan import clip_time
from vidgen.train.chips import Chip

CHIP = Chip(flops=1.0, network=10.0)


def model(weights, peak, seconds, steps=1):
    bound = {"seconds": dict(zip(("compute", "memory", "links"), seconds, strict=True))}
    sampling = {"peak_bytes_per_device": peak, "bound": bound}
    sampling["seconds_per_clip"] = clip_time.of_stage(bound, steps)
    return {"bytes_per_device": {"parameters": weights}, "sampling": sampling}


def test_the_slowest_part_of_every_step():
    assert clip_time.of_stage({"seconds": {"compute": 3.0, "memory": 2.0, "network": None}}, 8) == {
        "overlapped": 24.0,
        "alone": 40.0,
    }
    assert clip_time.of_stage(None, 8) is None


def test_weights_come_while_the_stage_before_runs():
    """Of 200 and 30 bytes at 10 a second: the second of them hide behind a stage of 4 s."""
    models = [model(200, 500, (4.0, 1.0, 0.0)), model(30, 400, (0.5, 2.0, 0.5), steps=2)]
    clip = clip_time.of_cascade(models, None, CHIP)
    assert clip["load_seconds"] == [20.0, 3.0]
    assert clip["held_bytes_per_device"] == [530, 400]
    assert clip["overlapped"] == 20 + 4 + 4 and clip["alone"] == 23 + 5 + 6


def test_weights_that_take_longer_than_the_stage_and_a_text_encoder():
    models = [model(200, 500, (4.0, 1.0, 0.0)), model(70, 400, (0.5, 2.0, 0.5))]
    clip = clip_time.of_cascade(models, {"bytes_per_device": 50}, CHIP)
    assert clip["held_bytes_per_device"] == [620, 450]
    assert clip["overlapped"] == 25 + 7 + 2


@pytest.mark.parametrize("chip", [None, Chip(flops=1.0)])
def test_no_bound_where_a_rate_is_not_published(chip):
    assert clip_time.of_cascade([model(1, 1, (1.0, 1.0, 1.0))], None, chip) is None


def test_no_bound_where_a_program_does_not_fit():
    lost = model(1, 1, (1.0, 1.0, 1.0))
    lost["sampling"]["seconds_per_clip"] = None
    assert clip_time.of_cascade([lost], None, CHIP) is None
