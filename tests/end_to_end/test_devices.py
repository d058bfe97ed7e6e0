"""Every kind of model trains alike on one device and on eight, and is cut over them.

One of them on two and on four as well: what one axis alone does is the partitioner's.
"""

import numpy as np
import pytest

SCRIPT = "losses_on_devices.py"
ONE = "1:fsdp:1,1,1"
# Devices in all, the file of the mesh, and devices along data, fsdp, and tensor or space.
ALL_AXES = {"8:fsdp_tensor:2,2,2": 4}  # ways of a parameter
ONE_AXIS = {"2:fsdp:2,1,1": 1, "4:fsdp:1,4,1": 4}
ROWS = {"8:fsdp_space:1,4,2": 4}
MESHES = {"maskgit": ONE_AXIS | ALL_AXES, "stage": ALL_AXES | ROWS}
# Sums in another order; a code of a quantizer, or the sign of a step of Adam, may then change.
TOLERANCE = {"stage": 2e-5, "maskgit": 2e-5, "distillation": 2e-5, "tokenizer": 1e-4}


@pytest.mark.multidevice
@pytest.mark.parametrize("name", list(TOLERANCE))
def test_losses_are_those_of_one_device(on_devices, name):
    meshes = MESHES.get(name, ALL_AXES)
    found = on_devices(8, SCRIPT, name, ONE, *meshes)
    alone = found[ONE]
    assert len(set(alone["losses"])) == 3
    assert alone["collectives"] == 0 and alone["share"] == 1
    for mesh, ways in meshes.items():
        there = found[mesh]
        np.testing.assert_allclose(there["losses"], alone["losses"], rtol=TOLERANCE[name])
        # The constraints of the network have reached the program, and it moves data.
        assert there["constraints"] >= 8 and there["collectives"] > 0
        # What no mesh axis divides (3 channels, a scalar) is small.
        assert 1 / ways <= there["share"] < 1 / ways + 0.15
        assert there["moments_share"] < 1 / ways + 0.15
        if ways > 1:
            assert max((np.prod(shape) for shape in there["whole"]), default=0) <= 512
