"""Joint image-video training: packs of images, each with its own caption, beside videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.conditioning import NoLowRes, SpatialUpsample, TemporalUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import TextEmbedding, VideoBatch, VideoShape, null_text_where

B, T = 2, 3
ORDER = jnp.array([2, 0, 1])
LEVEL = LevelSpec(
    width=8,
    blocks=1,
    spatial="attention",
    text="attention",
    temporal="attention+conv",
    head_dim=8,
)


def framed_text(seed=0):
    """A caption for each frame, of 5, 4, ... tokens; the last is the empty prompt."""
    sizes = np.arange(5, 5 - B * T, -1).reshape(B, T)
    return TextEmbedding(
        tokens=tiny.normal(30 + seed, B, T, 5, 12),
        mask=jnp.asarray(np.arange(5) < sizes[..., None]),
    )


def repeated(text):
    """A caption for each clip as one for each frame."""
    return jax.tree.map(lambda x: jnp.repeat(x[:, None], T, axis=1), text)


def packed():
    """(z, logsnr, cond) of packs of images, with all that a later stage is told."""
    z, logsnr, cond = tiny.inputs(b=B, t=T, h=4, w=4, independent=True, **extras())
    return z, logsnr, cond.replace(text=framed_text())


def extras():
    told = tiny.extra_inputs(b=B, t=T, h=4, w=4)
    return {name: told[name] for name in ("low_res", "aug_logsnr", "known_frames")}


@pytest.fixture(scope="module")
def unet():
    return tiny.Compiled.of(tiny.network((LEVEL,), frame_positions=2), *packed())


def permuted(z, cond):
    """The same pack with its frames, and all that belongs to them, in another order."""
    per_frame = cond.replace(
        text=jax.tree.map(lambda x: x[:, ORDER], cond.text),
        low_res=cond.low_res[:, ORDER],
        known_frames=cond.known_frames[:, ORDER],
    )
    return z[:, ORDER], per_frame


def test_a_pack_is_denoised_as_if_each_image_were_alone(unet):
    z, logsnr, cond = packed()

    def clips(x):
        return x.reshape(B * T, 1, *x.shape[2:])

    def per_image(x):
        return jnp.repeat(x, T, axis=0)

    alone = cond.replace(
        text=jax.tree.map(lambda x: x.reshape(B * T, *x.shape[2:]), cond.text),
        independent_frames=jnp.ones(B * T, bool),
        low_res=clips(cond.low_res),
        known_frames=clips(cond.known_frames),
        aug_logsnr=per_image(cond.aug_logsnr),
    )
    found = unet(clips(z), per_image(logsnr), alone).reshape(z.shape)
    np.testing.assert_allclose(unet(z, logsnr, cond), found, atol=2e-5)


def test_images_of_a_pack_may_be_permuted(unet):
    z, logsnr, cond = packed()
    found = unet(z, logsnr, cond)
    z, cond = permuted(z, cond)
    np.testing.assert_allclose(unet(z, logsnr, cond), found[:, ORDER], atol=2e-5)


def test_the_frames_of_a_video_may_not_be_permuted(unet):
    z, logsnr, cond = packed()
    cond = cond.replace(independent_frames=jnp.zeros(B, bool))
    found = unet(z, logsnr, cond)
    z, cond = permuted(z, cond)
    assert np.abs(unet(z, logsnr, cond) - found[:, ORDER]).max() > 0.05


def test_an_image_reads_its_own_caption_alone(unet):
    z, logsnr, cond = packed()
    other = framed_text(seed=1)
    tokens = cond.text.tokens.at[0, 1].set(other.tokens[0, 1])
    changed = cond.replace(text=cond.text.replace(tokens=tokens))
    difference = np.abs(unet(z, logsnr, cond) - unet(z, logsnr, changed)).max((2, 3, 4))
    assert difference[0, 1] > 0.01
    difference[0, 1] = 0
    np.testing.assert_array_equal(difference, 0)


def test_a_caption_repeated_for_every_frame_is_the_caption_of_the_clip(unet):
    z, logsnr, cond = tiny.inputs(b=B, t=T, h=4, w=4, **extras())
    every_frame = cond.replace(text=repeated(cond.text))
    np.testing.assert_allclose(unet(z, logsnr, every_frame), unet(z, logsnr, cond), atol=2e-5)


def test_a_mixed_batch_equals_the_separate_batches(unet):
    """Example 0 is a video, whose caption is repeated; example 1 a pack."""
    z, logsnr, packs = packed()
    videos = packs.replace(text=tiny.text(B), independent_frames=jnp.zeros(B, bool))

    def first_then_second(a, b):
        return jnp.concatenate([a[:1], b[1:]])

    mixed = jax.tree.map(first_then_second, videos.replace(text=repeated(videos.text)), packs)
    found = unet(z, logsnr, mixed)
    np.testing.assert_allclose(found[0], unet(z, logsnr, videos)[0], atol=2e-5)
    np.testing.assert_allclose(found[1], unet(z, logsnr, packs)[1], atol=2e-5)


def test_before_training_videos_are_images_too(unet):
    """While the temporal branches are zero, as they begin, the flag changes nothing."""
    temporal = ("temporal_conv/", "temporal_attention/out", "frame_position/")
    params = tiny.edit(
        unet.params, lambda name, x: 0 * x if any(part in name for part in temporal) else x
    )
    z, logsnr, cond = packed()
    joined = cond.replace(independent_frames=jnp.zeros(B, bool))
    np.testing.assert_array_equal(unet(z, logsnr, cond, params), unet(z, logsnr, joined, params))
    assert np.abs(unet(z, logsnr, cond) - unet(z, logsnr, joined)).max() > 0.05


def test_all_captions_of_a_pack_are_dropped_together():
    text = framed_text()
    found = null_text_where(jnp.array([True, False]), text)
    assert not found.tokens[0].any() and not found.mask[0].any()
    np.testing.assert_array_equal(found.tokens[1], text.tokens[1])
    np.testing.assert_array_equal(found.mask[1], text.mask[1])


def test_temporal_up_sampling_tells_an_image_nothing_of_the_one_before():
    video = tiny.normal(2, 2, 4, 4, 4, 3)
    batch = VideoBatch(video=video, text=tiny.text(2), independent_frames=jnp.array([True, False]))
    _, cond = TemporalUpsample(factor=2).for_training(batch, jax.random.key(0))
    np.testing.assert_array_equal(cond.low_res[0, 1::2], 0)
    np.testing.assert_array_equal(cond.low_res[1, 1::2], cond.low_res[1, ::2])
    np.testing.assert_array_equal(cond.known_frames, [[True, False] * 2] * 2)


def stage():
    shape = VideoShape(frames=T, height=4, width=4)
    return DiffusionStage(shape=shape, network=tiny.network((LEVEL,)))


def test_one_network_is_made_for_either_kind_of_batch():
    """What is trained on packs generates from single prompts."""
    model = stage()
    single = model.batch_spec(2, 5, 12)
    framed = model.batch_spec(2, 5, 12, captions_per_clip=T)
    assert single.text.tokens.shape == (2, 5, 12) and single.text.mask.shape == (2, 5)
    assert framed.text.tokens.shape == (2, T, 5, 12) and framed.text.mask.shape == (2, T, 5)
    assert single.video.shape == framed.video.shape
    shapes = [jax.eval_shape(model.init, jax.random.key(0), spec) for spec in (single, framed)]
    assert jax.tree.map(lambda a, b: a.shape == b.shape, *shapes) == jax.tree.map(
        lambda a: True, shapes[0]
    )


# ---- one frame by itself -------------------------------------------------------------------------


def told_of(frames, joint, conditioner=None):
    """The conditioning of the first step of sampling, and the z of it."""
    network = tiny.network((LEVEL,), frame_positions=2)
    low = None if conditioner is None else tiny.normal(3, B, frames, 2, 2, 3)
    shape = VideoShape(frames=frames, height=4, width=4)
    more = {} if conditioner is None else {"conditioner": conditioner}
    model = DiffusionStage(shape=shape, network=network, joint=joint, **more)
    keys = jax.random.split(jax.random.key(0), B)
    x0_fn, z, _ = model._start(None, tiny.text(B), low, keys, None)
    (cond,) = [x for x in x0_fn.args if hasattr(x, "independent_frames")]
    return cond, z


@pytest.mark.parametrize("conditioner", [None, SpatialUpsample(factor=2)], ids=["base", "ssr"])
def test_one_frame_of_a_jointly_trained_model_is_what_a_pack_has(conditioner):
    """The image path of training with the same weights: frame 0 of a pack, and the image alone."""
    cond, z = told_of(1, True, conditioner)
    assert cond.independent_frames.all()
    net = tiny.Compiled.of(tiny.network((LEVEL,), frame_positions=2), z, jnp.zeros(B), cond)
    logsnr = jnp.array([-1.0, 1.0])
    found = net(z, logsnr, cond)
    batch = VideoBatch(
        video=tiny.normal(9, B, 1, 4, 4, 3),
        text=tiny.text(B),
        independent_frames=jnp.ones(B, bool),
    )
    of_training = (conditioner or NoLowRes()).for_training(batch, jax.random.key(1))[1]
    same = {"low_res": cond.low_res, "aug_logsnr": cond.aug_logsnr}
    np.testing.assert_array_equal(net(z, logsnr, of_training.replace(**same)), found)

    def in_a_pack(x):
        return None if x is None else jnp.concatenate([x, tiny.normal(5, B, 2, *x.shape[2:])], 1)

    pack = net(in_a_pack(z), logsnr, cond.replace(low_res=in_a_pack(cond.low_res)))
    np.testing.assert_allclose(pack[:, :1], found, atol=2e-5)
    as_video = net(z, logsnr, cond.replace(independent_frames=jnp.zeros(B, bool)))
    assert np.abs(as_video - found).max() > 0.02  # what came out before


@pytest.mark.parametrize("frames, joint", [(1, False), (2, False), (2, True)])
def test_all_else_is_a_video(frames, joint):
    assert not told_of(frames, joint)[0].independent_frames.any()
