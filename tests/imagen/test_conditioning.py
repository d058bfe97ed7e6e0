"""Dropping the text, and the conditioning of the base stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.imagen import conditioning
from vidgen.types import VideoBatch, null_text_where


def test_drop_text_is_exact():
    text = tiny.text(3)
    found = null_text_where(jnp.array([False, True, False]), text)
    kept = np.array([0, 2])
    np.testing.assert_array_equal(found.tokens[kept], text.tokens[kept])
    np.testing.assert_array_equal(found.mask[kept], text.mask[kept])
    np.testing.assert_array_equal(found.tokens[1], 0)
    assert not found.mask[1].any()


def test_dropping_lets_no_gradient_through():
    text = tiny.text(2)

    def read(tokens):
        dropped = null_text_where(jnp.array([True, False]), text.replace(tokens=tokens))
        return dropped.tokens.sum()

    gradient = jax.grad(read)(text.tokens)
    np.testing.assert_array_equal(gradient[0], 0)
    np.testing.assert_array_equal(gradient[1], 1)


def test_base_stage_learns_the_batch_itself():
    batch = VideoBatch(
        video=tiny.normal(0, 2, 2, 4, 4, 3),
        text=tiny.text(2),
        independent_frames=jnp.array([True, False]),
    )
    conditioner = conditioning.NoLowRes()
    assert isinstance(conditioner, conditioning.Conditioner)
    video, cond = conditioner.for_training(batch, jax.random.key(0))
    assert video is batch.video
    assert cond.text is batch.text
    np.testing.assert_array_equal(cond.independent_frames, [True, False])
    later = (cond.low_res, cond.aug_logsnr, cond.known_frames, cond.guidance_weight)
    assert later == (None,) * 4


def test_base_stage_generates_from_text_alone():
    keys = jax.random.split(jax.random.key(0), 2)
    cond = conditioning.NoLowRes().for_sampling(None, tiny.text(2), keys)
    np.testing.assert_array_equal(cond.independent_frames, [False, False])
    with pytest.raises(ValueError, match="base stage .*low-resolution"):
        conditioning.NoLowRes().for_sampling(tiny.normal(0, 2, 2, 4, 4, 3), tiny.text(2), keys)
