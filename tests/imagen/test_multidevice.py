"""The real network gives the same losses on one device and on eight simulated ones."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


def losses(devices, mesh_file):
    folder = pathlib.Path(__file__).parent
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(folder.parents[1]), str(folder)]),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-W", "error", "-m", "stage_losses", mesh_file]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rematerialization" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.multidevice
def test_a_stage_trains_alike_on_one_device_and_on_eight():
    one, eight = losses(1, "mesh/single.gin"), losses(8, "mesh/fsdp.gin")
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["split"] == 0 and eight["split"] > 10
    assert len(set(one["losses"])) == 3
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=2e-5)
