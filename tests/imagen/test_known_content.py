"""A stage that is given part of the clip: image to video, continuation, inpainting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import Known, VideoShape

ONE_BLOCK = (LevelSpec(width=8, blocks=1, text="attention", temporal="conv", head_dim=8),)
SHAPE = VideoShape(frames=3, height=4, width=4)


def first_frame():
    """Known content beyond [-1, 1], which no threshold may touch."""
    video = 2 * tiny.normal(4, 2, *SHAPE.thwc)
    mask = jnp.broadcast_to(jnp.arange(3) == 0, (2, 3))[:, :, None, None, None]
    return Known(video=video, mask=mask)


@functools.cache
def trained():
    """A stage with parameters that keep no branch silent."""
    stage = DiffusionStage(
        shape=SHAPE,
        network=tiny.network(ONE_BLOCK),
        sampler=SamplerSpec(kind="ancestral", steps=3),
        guidance=GuidanceSpec(weight=2.0, threshold="static", reconstruction=1.0),
    )
    args = tiny.inputs(t=3, h=4, w=4)
    return stage, tiny.random_params(stage.network, *args)


@functools.cache
def clip(*, weight=2.0, reconstruction=1.0, known=True, stepwise=False):
    stage, params = trained()
    stage = dataclasses.replace(
        stage,
        guidance=GuidanceSpec(weight=weight, threshold="static", reconstruction=reconstruction),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    run = functools.partial(stage.generate, known=first_frame() if known else None)
    if stepwise:
        return np.asarray(run(params, tiny.text(2), None, keys, on_step=lambda *_: None))
    return np.asarray(jax.jit(run)(params, tiny.text(2), None, keys))


def test_the_known_frame_comes_out_and_the_rest_follows_it():
    got = clip()
    np.testing.assert_array_equal(got[:, :1], first_frame().video[:, :1])
    assert np.abs(got[:, 1:]).max() <= 1  # still thresholded
    assert np.abs(got - clip(known=False))[:, 1:].max() > 0.05


def test_reconstruction_changes_the_unknown_frames_only_where_something_is_known():
    assert np.abs(clip() - clip(reconstruction=0.0))[:, 1:].max() > 0.01
    without = clip(known=False)
    np.testing.assert_array_equal(without, clip(reconstruction=0.0, known=False))


def test_known_content_works_without_guidance():
    got = clip(weight=0.0)
    np.testing.assert_array_equal(got[:, :1], first_frame().video[:, :1])


def test_step_by_step_gives_the_same_clip():
    np.testing.assert_allclose(clip(stepwise=True), clip(), atol=2e-5)


def test_known_content_of_another_size_is_explained():
    stage, params = trained()
    small = jax.tree.map(lambda x: x[:, :2], first_frame())
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"\(2, 2, 4, 4, 3\).*\(2, 3, 4, 4, 3\)"):
        stage.generate(params, tiny.text(2), None, keys, known=small)
