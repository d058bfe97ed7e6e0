"""The conditioning of the super-resolution stages: what is degraded, noised, filled in and told."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.diffusion import schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen import conditioning
from vidgen.imagen.conditioning import Augmentation, SpatialUpsample, TemporalUpsample
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.types import VideoBatch, VideoShape

CLEAN = Augmentation(sampling_logsnr=None)


@dataclasses.dataclass(frozen=True)
class AtTime:
    u: float

    def __call__(self, key, batch_size):
        return jnp.full(batch_size, self.u)


def batch_of(video, independent=False):
    b = video.shape[0]
    return VideoBatch(
        video=video, text=tiny.text(b), independent_frames=jnp.full(b, independent, bool)
    )


def keys(b):
    return jax.random.split(jax.random.key(5), b)


def sampled(conditioner, low):
    return conditioner.for_sampling(low, tiny.text(low.shape[0]), keys(low.shape[0]))


def ramp(h, w):
    """A smooth video of 1 x 1 x h x w x 3."""
    y, x = np.mgrid[0:h, 0:w]
    return jnp.asarray(np.stack([y / h, x / w, (x + y) / (h + w)], -1)[None, None], jnp.float32)


@pytest.mark.parametrize("conditioner", [SpatialUpsample(), TemporalUpsample()])
def test_they_are_conditioners(conditioner):
    assert isinstance(conditioner, conditioning.Conditioner)


def test_space_is_averaged_over_squares():
    video = tiny.normal(0, 2, 3, 8, 12, 3)
    found = np.asarray(SpatialUpsample(factor=4).degrade(video))
    assert found.shape == (2, 3, 2, 3, 3)
    np.testing.assert_allclose(found[1, 2, 1, 2], np.mean(video[1, 2, 4:, 8:], (0, 1)), rtol=1e-5)


def test_a_plain_picture_survives_both_ways():
    low = jnp.full((1, 2, 3, 5, 3), 0.25)
    for factor in (2, 4):
        up = SpatialUpsample(factor=factor).up(low)
        assert up.shape == (1, 2, 3 * factor, 5 * factor, 3)
        np.testing.assert_allclose(up, 0.25, rtol=1e-6)
        np.testing.assert_allclose(SpatialUpsample(factor=factor).degrade(up), 0.25, rtol=1e-6)


def test_up_and_back_is_nearly_the_same_on_ramps():
    low = ramp(24, 40)
    back = SpatialUpsample(factor=2).degrade(SpatialUpsample(factor=2).up(low))
    np.testing.assert_allclose(back[:, :, 1:-1, 1:-1], low[:, :, 1:-1, 1:-1], atol=1e-6)
    np.testing.assert_allclose(back, low, atol=0.02)


def test_bilinear_has_half_pixel_centers():
    low = jnp.asarray([0.0, 1.0]).reshape(1, 1, 1, 2, 1) * jnp.ones((1, 1, 1, 2, 3))
    up = SpatialUpsample(factor=2).up(low)
    np.testing.assert_allclose(up[0, 0, 0, :, 0], [0, 0.25, 0.75, 1], atol=1e-6)


def test_time_is_skipped_and_filled():
    video = jnp.arange(6.0).reshape(1, 6, 1, 1, 1) * jnp.ones((1, 6, 2, 2, 3))
    assert TemporalUpsample(factor=2).degrade(video)[0, :, 0, 0, 0].tolist() == [0, 2, 4]
    low = video[:, :3]
    repeat = sampled(TemporalUpsample(augmentation=CLEAN), low)
    blank = sampled(TemporalUpsample(fill="blank", augmentation=CLEAN), low)
    np.testing.assert_allclose(repeat.low_res[0, :, 0, 0, 0], [0, 0, 1, 1, 2, 2], atol=4e-4)
    np.testing.assert_allclose(blank.low_res[0, :, 0, 0, 0], [0, 0, 1, 0, 2, 0], atol=4e-4)
    assert blank.low_res[0, 3].max() == 0
    for cond in (repeat, blank):
        assert cond.known_frames[0].tolist() == [True, False] * 3


def test_unrelated_images_tell_nothing_of_their_neighbours():
    video = tiny.normal(0, 2, 4, 4, 4, 3)
    batch = batch_of(video).replace(independent_frames=jnp.array([True, False]))
    conditioner = TemporalUpsample(augmentation=Augmentation(times=AtTime(0.0)))
    _, cond = conditioner.for_training(batch, jax.random.key(0))
    np.testing.assert_array_equal(cond.low_res[0, 1::2], 0)
    np.testing.assert_allclose(cond.low_res[0, ::2], video[0, ::2], atol=4e-4)
    np.testing.assert_allclose(cond.low_res[1, 1::2], video[1, ::2], atol=4e-4)


@pytest.mark.parametrize("logsnr", [math.log(3), math.log(5), 3.0, 5.0])
def test_noise_has_the_level_that_is_told(logsnr):
    alpha = {math.log(3): 0.8660254, math.log(5): 0.9128709, 3.0: 0.9759990, 5.0: 0.9966480}[logsnr]
    sigma = {math.log(3): 0.5, math.log(5): 0.4082483, 3.0: 0.2177748, 5.0: 0.0818098}[logsnr]
    low = jnp.full((3, 4, 16, 16, 3), 0.7)
    conditioner = TemporalUpsample(
        fill="blank", augmentation=Augmentation(sampling_logsnr=logsnr, noised="input")
    )
    cond = sampled(conditioner, low)
    seen = np.asarray(cond.low_res[:, ::2])
    assert cond.aug_logsnr.tolist() == pytest.approx([logsnr] * 3)
    assert seen.mean() == pytest.approx(alpha * 0.7, abs=5 * sigma / math.sqrt(seen.size))
    assert seen.std() == pytest.approx(sigma, rel=0.03)


def test_no_level_is_the_clean_video():
    low = tiny.normal(0, 2, 2, 4, 4, 3)
    for noised in conditioning.NOISED:
        augmentation = Augmentation(sampling_logsnr=None, noised=noised)
        cond = sampled(SpatialUpsample(augmentation=augmentation), low)
        np.testing.assert_allclose(cond.low_res, SpatialUpsample().up(low), atol=4e-4)
        np.testing.assert_array_equal(cond.aug_logsnr, schedules.LOGSNR_MAX)


def test_noise_of_the_input_is_as_coarse_as_the_input():
    low = jnp.zeros((1, 1, 16, 16, 3))
    coarse, fine = (
        np.asarray(
            sampled(
                SpatialUpsample(
                    factor=4, augmentation=Augmentation(sampling_logsnr=0.0, noised=noised)
                ),
                low,
            ).low_res
        )
        for noised in conditioning.NOISED
    )

    def correlation(x):
        return np.mean(x[..., 1:, :] * x[..., :-1, :]) / np.mean(x**2)

    assert correlation(coarse) > 0.8
    assert abs(correlation(fine)) < 0.1


def test_noise_of_an_example_is_its_own():
    low = jnp.zeros((3, 2, 4, 4, 3))
    together = sampled(SpatialUpsample(), low).low_res
    alone = SpatialUpsample().for_sampling(low[1:2], tiny.text(1), keys(3)[1:2]).low_res
    # The same noise; compiled for three or for one, sums round alike on some processors only.
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.1


@dataclasses.dataclass(frozen=True)
class Recorder(DenoisingNetwork):
    """A network that remembers what it was given; `see` is a mutable list."""

    see: Any

    def init(self, rngs, *args, **kwargs):
        return {"weight": jnp.zeros(())}

    def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
        self.see.append((z, logsnr, cond))
        return jnp.zeros_like(z)

    def __hash__(self):
        return id(self.see)


def recording_stage(conditioner, **changes):
    stage = DiffusionStage(
        shape=VideoShape(frames=4, height=8, width=8),
        network=Recorder([]),
        conditioner=conditioner,
        **changes,
    )
    network: Any = stage.network
    return stage, network.see


@pytest.mark.parametrize("u", [0.1, 0.5])
def test_the_noised_video_is_what_enters_the_network_in_training(u):
    augmentation = Augmentation(times=AtTime(u))
    stage, see = recording_stage(SpatialUpsample(augmentation=augmentation))
    video = jnp.full((2, 4, 8, 8, 3), 0.5)
    stage.loss({}, None, batch_of(video), jax.random.key(1), train=True)
    level = float(schedules.Cosine()(jnp.asarray(u)))
    alpha, sigma = schedules.alpha_sigma(jnp.asarray(level))
    (z, _, cond) = see[0]
    assert z.shape == cond.low_res.shape == video.shape
    np.testing.assert_allclose(cond.aug_logsnr, level, rtol=1e-5)
    # Where the clean conditioning is 0.5 everywhere, what enters has the noise's spread.
    assert np.std(SpatialUpsample().degrade(cond.low_res)) > 0.3 * sigma
    assert np.mean(cond.low_res) == pytest.approx(0.5 * float(alpha), abs=0.3 * float(sigma))


def test_the_noised_video_is_what_enters_the_network_in_sampling():
    stage, see = recording_stage(
        SpatialUpsample(augmentation=Augmentation(sampling_logsnr=1.0)),
        sampler=SamplerSpec(kind="ddim", steps=1),
    )
    low = tiny.normal(3, 2, 4, 4, 4, 3)
    with jax.disable_jit():
        stage.generate({}, tiny.text(2), low, keys(2))
    _, _, cond = see[0]
    np.testing.assert_array_equal(cond.aug_logsnr, [1.0, 1.0])
    difference = np.asarray(cond.low_res - SpatialUpsample().up(low))
    assert 0.1 < np.std(difference) < 1.0


def test_levels_of_training_follow_their_distribution():
    augmentation = Augmentation(times=schedules.UniformTimes(low=0.2, high=0.4))
    levels = np.asarray(augmentation.training_level(jax.random.key(0), 64))
    bounds = np.asarray(schedules.Cosine()(jnp.array([0.4, 0.2])))
    assert bounds[0] <= levels.min() < levels.max() <= bounds[1]
    assert len(np.unique(levels)) == 64


@pytest.mark.parametrize("low_shape", [(1, 2, 4, 6, 3), (1, 9, 10, 4, 3)])
def test_output_is_as_large_as_the_input_says(low_shape):
    stage, _ = recording_stage(SpatialUpsample(factor=4), sampler=SamplerSpec(steps=1))
    found = stage.generate({}, tiny.text(1), jnp.zeros(low_shape), keys(1))
    b, t, h, w, c = low_shape
    assert found.shape == (b, t, 4 * h, 4 * w, c)


def test_a_stage_trains_on_a_window():
    stage, _ = recording_stage(
        TemporalUpsample(), train_shape=VideoShape(frames=2, height=4, width=8)
    )
    assert stage.batch_spec(3, 5, 12).video.shape == (3, 2, 4, 8, 3)


def test_a_distilled_stage_is_told_the_weight_and_evaluated_once():
    stage, see = recording_stage(
        conditioning.NoLowRes(),
        guidance_input=True,
        guidance=GuidanceSpec(weight=15.0, low=1.0, constant_fraction=0.5),
        sampler=SamplerSpec(kind="ddim", steps=4),
    )
    with jax.disable_jit():
        stage.generate({}, tiny.text(2), None, keys(2))
    assert [float(cond.guidance_weight[1]) for _, _, cond in see] == [15, 15, 15, 1]
    assert [z.shape[0] for z, _, _ in see] == [2] * 4


def test_chain_of_shapes():
    shape = VideoShape(frames=32, height=24, width=40, fps=6.0)
    assert conditioning.input_shape(shape, conditioning.NoLowRes()) is None
    assert conditioning.input_shape(shape, TemporalUpsample()) == VideoShape(
        frames=16, height=24, width=40, fps=3.0
    )
    assert conditioning.input_shape(shape, SpatialUpsample(factor=4)) == VideoShape(
        frames=32, height=6, width=10, fps=6.0
    )
    with pytest.raises(ValueError, match="do not divide"):
        conditioning.input_shape(shape, SpatialUpsample(factor=16))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SpatialUpsample(factor=1), "SpatialUpsample.factor is 1.*>= 2"),
        (lambda: TemporalUpsample(fill="mirror"), "'mirror'.*repeat, blank, interpolate"),
        (lambda: Augmentation(noised="output"), "'output'.*input, upsampled"),
        (
            lambda: SpatialUpsample(factor=4).degrade(jnp.zeros((1, 1, 6, 8, 3))),
            "6x8 .*multiples of 4",
        ),
        (
            lambda: TemporalUpsample().degrade(jnp.zeros((1, 3, 2, 2, 3))),
            "3 frames .*multiple of 2",
        ),
    ],
)
def test_wrong_settings_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_missing_video_is_explained():
    with pytest.raises(ValueError, match="SpatialUpsample .*--from, --init"):
        SpatialUpsample().for_sampling(None, tiny.text(1), keys(1))
