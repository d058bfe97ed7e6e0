"""What goes into a feature network, and that its features do not depend on batch or devices."""

import closed_form_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form_network import clips, rows

from vidgen.evals import networks


def test_frames_reach_the_network_as_the_protocol_says(tmp_path):
    seen = {}

    def apply(params, x):
        seen["x"] = x
        return x.reshape(len(x), -1)

    made = closed_form_network.of(tmp_path, apply=apply, size=3, per_frame=True, crop=True)
    video = jnp.asarray(clips()) * 2  # beyond the range, which is cut
    features = made.features(made.load(), video)
    assert features.shape == (5, 4, 27) and seen["x"].shape == (20, 3, 3, 3)
    middle = jnp.clip(video, -1, 1)[:, :, :, 1:7]
    want = jax.image.resize(middle, (5, 4, 3, 3, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(seen["x"], want.reshape(20, 3, 3, 3), atol=1e-6)
    told = made.protocol
    assert (told["resize"], told["antialias"], told["crop"]) == ("bilinear", False, "middle square")
    assert len(told["sha256"]) == 64


def test_features_do_not_depend_on_the_size_of_a_batch(tmp_path):
    network = closed_form_network.of(tmp_path)
    whole = rows(network, clips(), 5)
    for size in (1, 2, 3, 8):
        np.testing.assert_allclose(rows(network, clips(), size), whole, atol=1e-6)


@pytest.mark.parametrize("clip_count, sizes", [(2, {2}), (8, {8}), (11, {8})])
def test_no_more_is_computed_than_there_are_clips(tmp_path, clip_count, sizes):
    """And the last part of many is filled up to the size of the others."""
    seen = set()

    def apply(params, x):
        seen.add(len(x))
        return x.reshape(len(x), -1)

    network = closed_form_network.of(tmp_path, apply=apply, per_frame=True)
    found = rows(network, clips(clip_count, frames=1), 8)
    assert len(found) == clip_count and seen == sizes


def test_features_do_not_depend_on_the_number_of_devices(tmp_path, on_devices):
    here = rows(closed_form_network.of(tmp_path), clips(), 2)
    there = on_devices(8, "features_on_devices.py")
    assert there["devices"] == 8
    np.testing.assert_allclose(there["rows"], here, atol=1e-6)


def test_i3d_tells_the_hash_of_its_weights():
    network = networks.kinetics_i3d()
    assert network is networks.kinetics_i3d()  # loaded once
    assert network.sha256.startswith("af5c50f0")


def test_i3d_logits_of_a_clip_are_those_of_its_frames_at_224():
    network = networks.kinetics_i3d()
    video = jnp.asarray(clips(1, 9, 16, 16))
    large = jax.image.resize(video, (1, 9, 224, 224, 3), "bilinear", antialias=False)
    found = jax.jit(network.features)(network.load(), video)
    np.testing.assert_allclose(found, jax.jit(network.apply)(network.load(), large), atol=1e-4)
    assert found.shape == (1, 400)
