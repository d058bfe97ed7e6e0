"""The bound of MFU, in closed form."""

import pytest

from vidgen.plan import bound
from vidgen.train.chips import Chip

CHIP = Chip(flops=100.0, memory=1, memory_rate=10.0, links=5.0, network=1.0)


def program(**received):
    return {
        "operations_per_device": 200,
        "memory_traffic_per_device": 10,
        "collective_bytes_per_device": {name.replace("_", " "): n for name, n in received.items()},
    }


def test_by_hand():
    found = bound.of(program(all_gather=3, all_reduce=2, between_slices=1), 150.0, CHIP)
    assert found is not None
    assert found["seconds"] == {"compute": 2.0, "memory": 1.0, "links": 1.0, "network": 1.0}
    assert found["mfu_overlapped"] == pytest.approx(1.5 / 2)
    assert found["mfu_alone"] == pytest.approx(1.5 / 5)
    assert found["waits_for"] == "compute"


def test_what_holds_up_is_named():
    found = bound.of(program(all_gather=100), 150.0, CHIP)
    assert found is not None and found["waits_for"] == "links"
    assert found["mfu_overlapped"] == pytest.approx(1.5 / 20)


def test_a_rate_that_nobody_publishes_is_left_out():
    chip = Chip(flops=100.0, memory_rate=10.0, links=5.0)
    found = bound.of(program(between_slices=1), 150.0, chip)
    assert found is not None and found["seconds"]["network"] is None
    assert found["mfu_alone"] == pytest.approx(1.5 / 3)


@pytest.mark.parametrize("missing", ["operations_per_device", "collective_bytes_per_device"])
def test_no_bound_of_what_is_not_known(missing):
    assert bound.of(program() | {missing: None}, 1.0, CHIP) is None
    assert bound.of(program(), 1.0, None) is None
