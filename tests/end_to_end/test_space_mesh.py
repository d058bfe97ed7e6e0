"""Sampling spread over devices by the rows of the frames, or by frames, gives the clip of one."""

import numpy as np
import pytest
import tiny_cascade

from vidgen.cli import main

SCRIPT = "space_mesh.py"
STAGES = ("base", "ssr1")


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, STAGES)
    return str(folder)


@pytest.mark.multidevice
def test_a_clip_over_four_devices_is_the_clip_of_one(cascade, on_devices, tmp_path):
    """By rows, and by frames with the weights in parts."""
    init = np.tanh(np.random.default_rng(0).normal(size=(16, 16, 16, 3)))
    np.save(tmp_path / "in.npy", init.astype(np.float32))
    flags = ("--from=ssr1", f"--init={tmp_path / 'in.npy'}")
    one, four = tmp_path / "one.npy", tmp_path / "four.npy"
    alone = on_devices(1, SCRIPT, cascade, str(one), *flags)
    assert np.load(one).shape == (16, 32, 32, 3) and np.load(one).std() > 0.1
    (whole,) = alone["programs"].values()
    for mesh, ways in (("space", [1, 1, 4, 1, 1]), ("frames", [1, 4, 1, 1, 1])):
        split = on_devices(4, SCRIPT, cascade, str(four), *flags, f"--gin_file=mesh/{mesh}.gin")
        assert (alone["devices"], split["devices"]) == (1, 4)
        np.testing.assert_allclose(np.load(four), np.load(one), atol=1e-5)
        (part,) = split["programs"].values()
        assert part["ways"] == ways
        assert part["collectives"]["collective-permute"] > 0  # borders go to the neighbors
        if mesh == "space":  # nothing is ever put together on one device
            assert part["collectives"]["all-gather"] == part["collectives"]["all-to-all"] == 0
            assert part["memory"] < whole["memory"]
        else:  # of weights that each device has a part of
            assert part["collectives"]["all-gather"] > 0
        assert split["compiled"] == alone["compiled"] == 1  # one program for all steps


@pytest.mark.multidevice
def test_clips_over_data_and_space(cascade, on_devices, tmp_path):
    """Three clips over 2 x 2 devices: filled up to four, each as it is on one."""
    flags = ("--until=base", "--num_samples=3")
    one = ["generate", "a tiger", f"--model={cascade}", "-o", str(tmp_path / "one.npy")]
    assert main.main([*one, *flags]) == 0
    mesh = ("--gin_file=mesh/space.gin", "--gin.MESH_SHAPE=(2, 2)")
    split = on_devices(4, SCRIPT, cascade, str(tmp_path / "four.npy"), *flags, *mesh)
    assert [program["ways"] for program in split["programs"].values()] == [[2, 1, 2, 1, 1]]
    for i in range(3):
        x, y = (np.load(tmp_path / f"{name}-00{i}.npy") for name in ("one", "four"))
        np.testing.assert_allclose(y, x, atol=1e-5)
