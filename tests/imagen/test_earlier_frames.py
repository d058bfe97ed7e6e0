"""A base that is shown earlier frames: what it sees, its loss, and exact continuations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
from constant_clips import SHAPE, constant_in_time, stage

from vidgen.config import gin_utils
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.conditioning import NoLowRes
from vidgen.imagen.earlier_frames import EarlierFrames
from vidgen.train.train import Train
from vidgen.types import Known, VideoBatch


def batch(b=4096, independent=False):
    video = tiny.normal(0, b, *SHAPE.thwc)
    return VideoBatch(video=video, text=tiny.text(b), independent_frames=jnp.full(b, independent))


def test_half_of_the_examples_are_shown_one_to_k_frames():
    data = batch()
    x, cond = EarlierFrames(frames=4).for_training(data, jax.random.key(0))
    np.testing.assert_array_equal(x, data.video)
    known = np.asarray(cond.known_frames)
    count = known.sum(1)
    assert (np.diff(known.astype(int), axis=1) <= 0).all()  # a beginning, or nothing
    shares = np.bincount(count, minlength=7) / len(count)
    np.testing.assert_allclose(shares, [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 0, 0], atol=0.03)
    shown = np.where(known[:, :, None, None, None], data.video, 0)
    np.testing.assert_array_equal(cond.low_res, shown)


def test_packs_of_images_are_shown_nothing():
    _, cond = EarlierFrames(rate=1.0).for_training(batch(8, independent=True), jax.random.key(0))
    assert not cond.known_frames.any() and not cond.low_res.any()


def test_frames_that_are_shown_have_no_loss():
    """A network that is wrong by 1 on new frames and by 100 on shown ones has a loss of 1."""
    data = batch(64)

    def wrong(z, logsnr, cond):
        known = cond.known_frames[:, :, None, None, None]
        return data.video + jnp.where(known, 100.0, 1.0)

    for rate in (0.0, 0.5, 1.0):
        model = stage(wrong, EarlierFrames(rate=rate))
        loss, _ = model.loss({}, {}, data, jax.random.key(0), train=True)
        assert float(loss) == pytest.approx(1, rel=1e-5)


def known(frames, video):
    mask = jnp.arange(SHAPE.frames) < frames
    mask = jnp.broadcast_to(mask[None, :, None, None, None], (len(video), SHAPE.frames, 1, 1, 1))
    return Known(video=video, mask=mask)


@pytest.mark.parametrize("kind", ["ddim", "ancestral", "euler"])
def test_a_clip_goes_on_exactly_from_the_frames_it_is_shown(kind):
    spec = SamplerSpec(kind=kind, steps=8)
    model = stage(constant_in_time, EarlierFrames(frames=3), sampler=spec)
    keys, text = jax.random.split(jax.random.key(0), 5), tiny.text(5)
    first = np.asarray(model.generate({}, text, None, keys))
    assert np.abs(first - first[:, :1]).max() < 1e-5  # nothing is shown: constant all the same
    assert first[:, 0].std() == pytest.approx(1, abs=0.35)
    content = known(2, jnp.asarray(first))
    other = jax.random.split(jax.random.key(1), 5)
    again = np.asarray(model.generate({}, text, None, other, known=content))
    np.testing.assert_allclose(again, first, atol=1e-5)
    # What is known reaches a base that is shown nothing through noisy z alone, and it drifts.
    blind = stage(lambda *a: constant_in_time(*a[:2], nothing(a)), NoLowRes(), sampler=spec)
    drifted = np.asarray(blind.generate({}, text, None, other, known=content))
    assert np.abs(drifted - first)[:, 2:].mean() > 0.01


def nothing(arguments):
    """A condition that shows no frame."""
    z, _, cond = arguments
    return cond.replace(low_res=0 * z, known_frames=jnp.zeros(z.shape[:2], bool))


def test_only_the_beginning_is_shown_and_at_most_k_frames():
    cond = NoLowRes().for_sampling(None, tiny.text(1), jax.random.split(jax.random.key(0), 1))
    show = EarlierFrames(frames=3).with_known
    video = 1 + 0 * tiny.normal(0, 1, *SHAPE.thwc)

    def shown(*frames, pixels=slice(None)):
        mask = np.zeros((1, *SHAPE.thwc[:3], 1), bool)
        for frame in frames:
            mask[0, frame, :, pixels] = True
        found = show(cond, Known(video=video, mask=jnp.asarray(mask)), SHAPE.thwc)
        by_frame = np.asarray(found.low_res)[0].min((1, 2, 3)) == 1
        np.testing.assert_array_equal(by_frame, found.known_frames[0])
        return np.flatnonzero(by_frame).tolist()

    assert shown(0, 1) == [0, 1]
    assert shown(0, 1, 2, 3, 4, 5) == [0, 1, 2]
    assert shown(0, 2) == [0]
    assert shown(4, 5) == shown() == []
    assert shown(0, 1, pixels=slice(1)) == []
    assert not show(cond, None, SHAPE.thwc).known_frames.any()


def test_wrong_settings_are_explained():
    with pytest.raises(ValueError, match="frames is 0.*>= 1"):
        EarlierFrames(frames=0)
    with pytest.raises(ValueError, match=r"rate is 1.5.*\[0, 1\]"):
        EarlierFrames(rate=1.5)
    with pytest.raises(ValueError, match="frames is 6.*at most 5"):
        EarlierFrames(frames=6).for_training(batch(2), jax.random.key(0))
    model = stage(constant_in_time, EarlierFrames())
    small = Known(video=jnp.zeros((2, 1, 2, 2, 3)), mask=jnp.ones((2, 1, 1, 1, 1), bool))
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"\(2, 1, 2, 2, 3\).*\(2, 6, 2, 2, 3\)"):
        model.generate({}, tiny.text(2), None, keys, known=small)


def test_the_layer_adds_channels_to_the_stem_and_nothing_else():
    def shapes(*layers):
        files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", *layers]
        with gin_utils.session(files, ["MODEL_DIR='m'", "base/unet.VideoUNet.cond_width=16"]):
            model = gin_utils.build(Train).trainer.model
        found = jax.eval_shape(model.init, jax.random.key(0), model.batch_spec(2, 5, 12))
        flat = jax.tree.flatten_with_path(found)[0]
        return model, {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}

    plain, before = shapes()
    model, after = shapes("models/imagen/earlier_frames.gin")
    assert plain.continues is None and plain.conditioner == NoLowRes()
    assert model.continues == 4 and model.conditioner == EarlierFrames(frames=4, rate=0.5)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    (stem,) = changed
    assert "stem" in stem
    pixels = plain.network.patch**2
    assert before[stem][-2:] == (3 * pixels, 64) and after[stem][-2:] == (7 * pixels, 64)
    assert math.prod(after[stem]) - math.prod(before[stem]) == 9 * 4 * pixels * 64
