"""The frame rate as a condition: of the network, of a stage, of a cascade, and in gin."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
from constant_clips import Fake

from vidgen.config import gin_utils
from vidgen.data.sources.rates import Rates
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.cascade import Cascade
from vidgen.imagen.conditioning import TemporalUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.nn import embeddings
from vidgen.sprites.sprites import Sprites
from vidgen.train.train import Train, _check_shapes
from vidgen.types import VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=2, width=2, fps=8.0)


def told_rate(z, logsnr, cond):
    """x̂ = log2 of the frame rate."""
    return jnp.zeros_like(z) + jnp.log2(cond.fps)[:, None, None, None, None]


def stage(function=told_rate, **settings):
    given = {"shape": SHAPE, "fps_condition": True, "sampler": SamplerSpec(kind="ddim", steps=2)}
    head = {"parameterization": "x0", "loss_weight": "x_mse"}
    return DiffusionStage(network=Fake(function), **given | head | settings)


def batch(fps=None):
    video = jnp.zeros((3, *SHAPE.thwc))
    return VideoBatch(
        video=video, text=tiny.text(3), independent_frames=jnp.zeros(3, bool), fps=fps
    )


def test_training_tells_the_rates_of_the_data_or_that_of_the_shape():
    def loss(fps):
        return float(stage().loss({}, None, batch(fps), jax.random.key(0), train=True)[0])

    assert loss(None) == pytest.approx(9)  # log2(8)²
    assert loss(jnp.array([2.0, 4.0, 16.0])) == pytest.approx((1 + 4 + 16) / 3)


def test_a_cascade_at_another_rate_tells_it_to_its_stages():
    keys, text = jax.random.split(jax.random.key(0), 2), tiny.text(2)
    above = DiffusionStage(
        name="tsr1",
        shape=dataclasses.replace(SHAPE, frames=4, fps=16.0),
        network=tiny.network(),
        conditioner=TemporalUpsample(),
    )
    chain = Cascade([stage(), above])
    half = chain.at_rate(8.0)
    assert [s.shape.fps for s in half.stages] == [4.0, 8.0]
    for cascade, expected in ((chain, 3.0), (half, 2.0)):
        np.testing.assert_allclose(cascade.stages[0].generate({}, text, None, keys), expected)


def test_rates_that_no_stage_has_learned_are_refused():
    plain = Cascade([stage(fps_condition=False)])
    with pytest.raises(ValueError, match=r"--fps=12: base .* 8; .*fps\.gin"):
        plain.at_rate(12.0)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            Cascade([stage()]).at_rate(wrong)


def test_data_and_model_agree_on_whether_there_are_rates():
    spec = stage().batch_spec(3, 5, 12)
    _check_shapes(batch(jnp.ones(3)), spec, 1)
    with pytest.raises(
        ValueError, match="no frame rates.*told its own.*DiffusionStage.fps_condition"
    ):
        _check_shapes(batch(), spec, 1)
    spec = stage(fps_condition=False).batch_spec(3, 5, 12)
    assert spec.fps is None
    with pytest.raises(
        ValueError, match="gives frame rates.*told none.*DiffusionStage.fps_condition"
    ):
        _check_shapes(batch(jnp.ones(3)), spec, 1)


def test_equal_ratios_are_equal_steps_of_the_features():
    found = np.asarray(embeddings.rate_features(jnp.array([6.0, 12.0, 24.0, 25.0]), 32))
    # The first pair turns by 100 radians an octave: (sin, cos) of 100 log2(fps).
    angles = 100 * np.log2([6.0, 12.0, 24.0, 25.0])
    np.testing.assert_allclose(found[:, 0], np.sin(angles), atol=1e-4)
    np.testing.assert_allclose(found[:, 16], np.cos(angles), atol=1e-4)
    assert np.abs(found[2] - found[3]).max() > 0.5


def test_the_network_reads_the_rate_of_clips_and_not_of_images():
    net, rates = tiny.network(tiny.ONE_LEVEL), jnp.array([8.0, 24.0])
    given = tiny.inputs(fps=rates)
    network = tiny.Compiled.of(net, *given)
    clips = network(*given)
    doubled = network(*given[:2], given[2].replace(fps=2 * rates))
    assert np.abs(clips - doubled).max((1, 2, 3, 4)).min() > 1e-3
    images = given[2].replace(independent_frames=jnp.ones(2, bool))
    np.testing.assert_array_equal(
        network(*given[:2], images), network(*given[:2], images.replace(fps=2 * rates))
    )
    # Without the condition there is no such parameter, and fresh ones change nothing.
    extra = set(network.params["params"]) - set(tiny.shapes(net, *tiny.inputs())["params"])
    assert extra == {"fps"}
    fresh = jax.tree.map(jnp.zeros_like, network.params["params"]["fps"])
    zeroed = {"params": network.params["params"] | {"fps": fresh}}
    np.testing.assert_array_equal(network(*given, zeroed), network(*tiny.inputs(), zeroed))


def test_the_layer_wraps_the_data_and_tells_the_model():
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", "models/imagen/fps.gin"]
    with gin_utils.session(files, ["MODEL_DIR='m'", "Sprites.duration=2.0"]):
        run = gin_utils.build(Train)
    source = run.dataset.source
    assert isinstance(source, Rates) and isinstance(source.source, Sprites)
    assert source.fps == (4.0, 8.0, 16.0) and source.source.duration == 2.0
    assert run.trainer.model.fps_condition
    assert not isinstance(run.held_out.dataset.source, Rates)
