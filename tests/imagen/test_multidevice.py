"""The real network gives the same losses on one device and on eight simulated ones."""

import pathlib

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "stage_losses.py"


@pytest.mark.multidevice
def test_a_stage_trains_alike_on_one_device_and_on_eight(on_devices):
    one, eight = on_devices(1, SCRIPT, "mesh/single.gin"), on_devices(8, SCRIPT, "mesh/fsdp.gin")
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["split"] == 0 and eight["split"] > 10
    assert len(set(one["losses"])) == 3
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=2e-5)
