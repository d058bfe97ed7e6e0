"""The tokenizer as a model: its two losses in one, images, metrics, streams, and real training.

Tests of vidgen/phenaki/tokenizer_losses.py too.
"""

import dataclasses
import logging
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.model import TokenizerModel
from vidgen.phenaki import discriminator as losses
from vidgen.phenaki import tokenizer_losses
from vidgen.phenaki.cvivit import CViViT
from vidgen.phenaki.discriminator import Discriminator
from vidgen.phenaki.perceptual import ImagePerceptual, VideoPerceptual
from vidgen.phenaki.quantizer import VectorQuantizer
from vidgen.phenaki.tokenizer import VideoTokenizer
from vidgen.phenaki.tokenizer_losses import (
    FrozenNetworks,
    LossWeights,
    PerceptualDistance,
    as_stills,
    psnr,
)
from vidgen.train.checkpoints import Checkpointer
from vidgen.train.optimizers import SGD, AdamW, Grouped, LearningRate
from vidgen.train.partitioning import Partitioner, unbox
from vidgen.train.trainer import Trainer
from vidgen.train.warm_start import WarmStart
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

SHAPE = VideoShape(frames=5, height=8, width=8)
KEY = jax.random.key(0)
# Linear, as what is tested here is no part of the network: a transformer takes seconds to trace.
PATCHES = CViViT(patch=(2, 4, 4), width=8, mlp=16, heads=2, spatial_layers=0, temporal_layers=0)
OVER_TIME = PATCHES.copy(temporal_layers=1)  # where it may not look into the future
MESH = Partitioner(
    rules=(
        ("batch", "data"),
        *((n, None) for n in ("layers", "kernel", "embed", "mlp", "heads", "head_dim", "norm")),
        *((n, None) for n in ("buckets", "pixels", "conv_in", "conv_out", "codes", "lookup")),
        *((n, None) for n in ("frames", "height", "width", "channels", "tokens", "positions")),
    )
)


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A distance of frames or of clips: the weighted mean square."""

    required: bool = True
    missing: bool = False

    def load(self):
        if self.missing:
            raise FileNotFoundError("no weights of the network: fetch them")
        return {"weight": jnp.float32(3.0)}

    def __call__(self, params, a, b):
        return params["weight"] * jnp.mean((a - b) ** 2, axis=tuple(range(1, a.ndim)))


def tokenizer(**changes):
    parts: dict[str, Any] = {
        "shape": SHAPE,
        "autoencoder": PATCHES,
        "quantizer": VectorQuantizer(codes=16, dim=4),
    }
    return VideoTokenizer(**parts | changes)


def game(**changes):
    """With all that there is to train against."""
    parts: dict[str, Any] = {
        "discriminator": Discriminator(width=4, max_width=8),
        "image_perceptual": Weighted(),
        "video_perceptual": Weighted(),
        "weights": LossWeights(lecam=0.5),
    }
    return tokenizer(**parts | changes)


def clips(seed=0, b=3, frames=SHAPE.frames):
    """Smooth moving patterns in [-1, 1]."""
    phase = np.random.default_rng(seed).uniform(0, 6, (b, 1, 1, 1, 3))
    t, y, x = np.meshgrid(np.arange(frames), np.arange(8), np.arange(8), indexing="ij")
    wave = np.sin((0.4 * t + 0.7 * y + 0.5 * x)[None, ..., None] + phase)
    return jnp.asarray(0.8 * wave, jnp.float32)


def batch(video=None, alone=None, **settings):
    video = clips(**settings) if video is None else video
    b = video.shape[0]
    alone = jnp.zeros(b, bool) if alone is None else jnp.asarray(alone)
    text = TextEmbedding(tokens=jnp.zeros((b, 2, 4)), mask=jnp.zeros((b, 2), bool))
    return VideoBatch(video=video, text=text, independent_frames=alone)


def made(model, seed=1):
    """Parameters that are not at the start of training, where many gradients are 0."""
    params = unbox(jax.jit(model.init)(jax.random.key(seed), batch()))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed + 1)  # numpy compiles nothing
    moved = [np.asarray(x) + 0.1 * rng.normal(size=x.shape) for x in leaves]
    return tree.unflatten([jnp.asarray(x, jnp.float32) for x in moved])


def shapes(model):
    return unbox(jax.eval_shape(model.init, KEY, batch()))


class Case:
    """A model with parameters, and its loss and gradient compiled once."""

    def __init__(self, model):
        self.model, self.params = model, made(model)
        self.frozen = FrozenNetworks(model=model)()
        step = jax.value_and_grad(model.loss, has_aux=True)
        self.run = jax.jit(lambda p, data: step(p, self.frozen, data, KEY, train=True))
        self.encode, self.decode = jax.jit(model.encode), jax.jit(model.decode)

    def values(self, data):
        """(loss, metrics as numbers, gradients)."""
        (loss, metrics), grads = self.run(self.params, data)
        return float(loss), {n: float(m.value()) for n, m in metrics.items()}, grads


@pytest.fixture(scope="module")
def full():
    return Case(game())


@pytest.fixture(scope="module")
def plain():
    return Case(tokenizer(autoencoder=OVER_TIME))


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# ---- what it is ----------------------------------------------------------------------------------


def test_parts_and_protocols(full):
    model = full.model
    assert isinstance(model, TokenizerModel)
    for distance in (Weighted(), ImagePerceptual()):
        assert isinstance(distance, PerceptualDistance)
    for distance in (Weighted(), VideoPerceptual()):
        assert isinstance(distance, PerceptualDistance)
    assert set(full.params) == {"generator", "discriminator", "anchors"}
    assert set(full.params["generator"]) == {"autoencoder", "quantizer"}
    assert set(shapes(tokenizer())) == {"generator"}


def test_sizes():
    model = tokenizer()
    assert model.codes == 16 and model.grid(5, 8, 8) == (3, 2, 2) and model.frames_of(3) == 5
    spec = model.batch_spec(4, 7, 6)
    assert spec.video.shape == (4, 5, 8, 8, 3) and spec.text.tokens.shape == (4, 7, 6)
    assert model.batch_spec(4, 7, 6, captions_per_clip=5).text.mask.shape == (4, 5, 7)


def test_a_clip_that_does_not_fit_is_refused_at_once():
    with pytest.raises(ValueError, match="frames .* got 4"):
        tokenizer(shape=VideoShape(frames=4, height=8, width=8))


# ---- weights and terms ---------------------------------------------------------------------------


def test_published_weights_sum_to_3_2():
    names = ("vq", "l2", "adversarial", "image_perceptual", "video_perceptual")
    total = LossWeights().total({name: jnp.ones(2) for name in names})
    np.testing.assert_allclose(total, [3.2, 3.2], rtol=1e-6)


def test_negative_weight():
    with pytest.raises(ValueError, match="r1 is -1.0"):
        LossWeights(r1=-1.0)


def test_loss_is_the_weighted_sum_of_the_terms_that_are_logged(full):
    loss, terms, _ = full.values(batch())
    generator = terms["vq"] + terms["l2"] + 0.1 * terms["adversarial"]
    generator += 0.1 * terms["image_perceptual"] + terms["video_perceptual"]
    opponent = terms["discriminator"] + 10 * terms["r1"] + 0.5 * terms["lecam"]
    np.testing.assert_allclose(loss, generator + opponent, rtol=1e-5)
    assert all(terms[name] > 0 for name in ("vq", "l2", "r1", "lecam"))


def test_metrics_tell_how_good_it_is(full):
    _, metrics, _ = full.values(batch())
    tokens = full.encode(full.params, clips())
    again = full.decode(full.params, tokens)
    np.testing.assert_allclose(metrics["psnr"], psnr(clips(), again).value(), rtol=1e-4)
    assert metrics["codes_used"] == pytest.approx(len(np.unique(tokens)) / 16)
    assert 1 <= metrics["perplexity"] <= 16 * metrics["codes_used"] + 1e-4
    assert {"logits_real", "logits_fake"} <= set(metrics)


def test_evaluation_leaves_r1_out(full):
    _, metrics = jax.eval_shape(
        lambda p, data: full.model.loss(p, full.frozen, data, KEY, train=False),
        full.params,
        batch(),
    )
    assert "r1" not in metrics and "discriminator" in metrics


class Sums(Discriminator):
    """A discriminator whose logits are the sum of each frame; one weight."""

    @nn.nowrap
    def apply(self, params, video):
        return params * jnp.sum(video, axis=(2, 3, 4))


def game_of_sums(key, frames_per_clip=None, r1_every=1):
    """The terms and logits on clips whose frames are told by their values, 10 b + t."""
    numbers = 10.0 * jnp.arange(3)[:, None] + jnp.arange(5)
    real = jnp.broadcast_to(numbers[..., None, None, None], (3, 5, 1, 1, 1))
    params = {"discriminator": jnp.float32(1.0)}
    return tokenizer_losses.adversarial_terms(
        Sums(frames_per_clip=frames_per_clip), params, real, -real, key, r1_every=r1_every
    )


@pytest.mark.parametrize("count", [1, 3])
def test_some_frames_are_judged_each_once_and_of_both_the_same(count):
    drawn = set()
    for key in jax.random.split(KEY, 20):
        logits = game_of_sums(key, count)[1]
        frames = np.asarray(logits["real"]) - 10 * np.arange(3)[:, None]
        assert frames.shape == (3, count) and (np.diff(frames, axis=1) > 0).all()
        np.testing.assert_array_equal(logits["fake"], -logits["real"])
        drawn |= set(frames.ravel().astype(int))
    assert drawn == set(range(5))


@pytest.mark.parametrize("key, count", [(KEY, None), (KEY, 5), (KEY, 9), (None, 1)])
def test_all_frames_are_judged(key, count):
    logits = game_of_sums(key, count)[1]
    np.testing.assert_array_equal(logits["real"][1], 10 + np.arange(5))


def test_lazy_r1_is_the_penalty_on_average():
    """|grad|² / 2 of a sum of one pixel is 1/2: 4 · 1/2 in one of 4 steps, 0 in the others."""
    terms = jax.jit(lambda key: game_of_sums(key, r1_every=4)[0]["r1"])
    found = np.array([terms(key) for key in jax.random.split(KEY, 400)])
    assert set(found.ravel()) == {0.0, 2.0}
    assert (found == found[:, :1]).all()  # all examples of a batch together
    assert found.mean() == pytest.approx(0.5, abs=0.15)  # 3.5 standard deviations
    np.testing.assert_array_equal(game_of_sums(KEY)[0]["r1"], [0.5] * 3)
    assert "r1" not in game_of_sums(KEY, r1_every=None)[0]


def test_r1_every_is_at_least_1():
    with pytest.raises(ValueError, match="r1_every is 0"):
        LossWeights(r1_every=0)


def test_psnr():
    a = jnp.zeros((1, 1, 2, 2, 3))
    np.testing.assert_allclose(psnr(a, a + 0.2).value(), 20.0, rtol=1e-5)  # 10 log10(2² / 0.2²)
    np.testing.assert_allclose(psnr(a - 3.0, a + 5.0).value(), 0.0, atol=1e-5)  # -1 and 1


def test_psnr_is_the_mean_of_clips_that_are_not_identical():
    truth = jnp.zeros((3, 1, 2, 2, 3)).at[1].set(-1.0)  # black, which comes out blacker
    made = truth + jnp.array([0.2, -0.5, 0.02])[:, None, None, None, None]
    found = psnr(truth, made)
    np.testing.assert_allclose([found.value(), found.weight], [30.0, 2], rtol=1e-4)
    assert psnr(truth, truth).weight == 0


# ---- two losses in one ---------------------------------------------------------------------------


def two_gradients(case, data):
    """The gradients of the generator's loss and of the discriminator's, one after the other."""
    model, params, weights = case.model, case.params, case.model.weights
    real = data.video

    def reconstruct(generator):
        auto, quant = generator["autoencoder"], generator["quantizer"]
        latents = model.autoencoder.apply(auto, real, method="encode")
        found = model.quantizer.apply(quant, latents, train=True)
        return model.autoencoder.apply(auto, found.latents, method="decode"), found

    def generator_loss(generator):
        fake, found = reconstruct(generator)
        square = jnp.mean((real - fake) ** 2)
        logits = model.discriminator.apply(params["discriminator"], fake)
        distances = (0.1 * 3.0 + 1.0 * 3.0) * square  # those of `Weighted`
        return jnp.mean(found.loss) + square + 0.1 * jnp.mean(jax.nn.softplus(-logits)) + distances

    def discriminator_loss(discriminator, fake):
        def judge(x):
            return model.discriminator.apply(discriminator, x)

        on_real, on_fake = judge(real), judge(fake)
        loss = jnp.mean(jax.nn.softplus(-on_real)) + jnp.mean(jax.nn.softplus(on_fake))
        penalty = jnp.mean(losses.r1_penalty(judge, real))
        ties = jnp.mean(losses.lecam_penalty(on_real, on_fake, params["anchors"]))
        return loss + weights.r1 * penalty + weights.lecam * ties

    fake = reconstruct(params["generator"])[0]
    return {
        "generator": jax.grad(generator_loss)(params["generator"]),
        "discriminator": jax.grad(discriminator_loss)(params["discriminator"], fake),
    }


def test_the_one_loss_has_the_gradients_of_the_two(full):
    data = batch()
    _, metrics, grads = full.values(data)
    expected = jax.jit(lambda data: two_gradients(full, data))(data)
    own = {name: grads[name] for name in expected}
    assert_close(own, expected, rtol=1e-3, atol=1e-5)
    for part in expected.values():
        assert max(np.abs(x).max() for x in jax.tree.leaves(part)) > 1e-3
    for name, anchor in full.params["anchors"].items():
        wanted = anchor - metrics[f"logits_{name}"]
        np.testing.assert_allclose(grads["anchors"][name], wanted, rtol=1e-4, atol=1e-6)


# ---- images --------------------------------------------------------------------------------------


def test_of_images_the_first_frame_alone_counts(full):
    alone = [True, False, True]
    video = np.array(clips())
    other = video.copy()
    other[[0, 2], 1:] = np.random.default_rng(5).uniform(-1, 1, other[[0, 2], 1:].shape)
    one = full.run(full.params, batch(jnp.asarray(video), alone))
    two = full.run(full.params, batch(jnp.asarray(other), alone))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
    other[1, 1:] = 0.0
    assert float(full.run(full.params, batch(jnp.asarray(other), alone))[0][0]) != one[0][0]


def test_images_in_a_clip_are_clips_of_one_frame(plain):
    packed, _, packed_grads = plain.values(batch(alone=[True] * 3))
    single, _, single_grads = plain.values(batch(clips()[:, :1]))
    np.testing.assert_allclose(packed, single, rtol=1e-5)
    assert_close(packed_grads, single_grads, rtol=1e-4, atol=1e-6)


def test_images_have_no_distance_between_clips(full):
    _, metrics, _ = full.values(batch(alone=[False, True, True]))
    alone = full.values(batch(alone=[True] * 3))[1]
    assert metrics["video_perceptual"] > 0 and np.isnan(alone["video_perceptual"])


def test_as_stills():
    video = jnp.arange(6.0).reshape(2, 3, 1, 1, 1)
    found = as_stills(video, jnp.array([True, False]))
    np.testing.assert_array_equal(found.ravel(), [0, 0, 0, 3, 4, 5])


# ---- frozen networks -----------------------------------------------------------------------------


def test_missing_networks_that_are_required():
    model = tokenizer(image_perceptual=Weighted(missing=True))
    with pytest.raises(FileNotFoundError, match="fetch them"):
        FrozenNetworks(model=model)()
    with pytest.raises(ValueError, match="image_perceptual.*FrozenNetworks"):
        jax.eval_shape(lambda p: model.loss(p, None, batch(), KEY, train=True), shapes(model))


def test_missing_networks_that_are_not_required_are_named_once(caplog):
    away = Weighted(required=False, missing=True)
    model = tokenizer(image_perceptual=away, video_perceptual=Weighted())
    with caplog.at_level(logging.WARNING, tokenizer_losses.__name__):
        frozen = FrozenNetworks(model=model)()
    assert [r.message for r in caplog.records] == [
        "training goes on without the loss image_perceptual: no weights of the network: fetch them"
    ]
    assert set(frozen) == {"video_perceptual"}
    _, metrics = jax.eval_shape(
        lambda p: model.loss(p, frozen, batch(), KEY, train=True), shapes(model)
    )
    assert "image_perceptual" not in metrics and "video_perceptual" in metrics


# ---- tokens --------------------------------------------------------------------------------------


def test_tokens_and_back(plain):
    tokens = plain.encode(plain.params, clips())
    assert tokens.shape == (3, 3, 2, 2) and tokens.dtype == jnp.int32
    assert len(np.unique(tokens)) > 1
    video = plain.decode({"generator": plain.params["generator"]}, tokens)
    assert video.shape == clips().shape and np.abs(video).max() <= 1
    again = jax.jit(plain.model.reconstruct)(plain.params, clips())
    np.testing.assert_allclose(video, again, atol=1e-5)


def test_decoding_is_what_the_loss_compares(plain):
    quiet = jax.tree.map(lambda x: 0.3 * x, plain.params)
    again = plain.decode(quiet, plain.encode(quiet, clips()))
    assert np.abs(again).max() < 1  # nothing was clipped
    (_, metrics), _ = plain.run(quiet, batch())
    np.testing.assert_allclose(metrics["l2"].value(), np.mean((again - clips()) ** 2), rtol=1e-4)


def test_decoded_video_ends_at_black_and_white(plain):
    loud = jax.tree.map(lambda x: 30 * x, plain.params)
    video = plain.decode(loud, plain.encode(plain.params, clips()))
    assert np.abs(video).max() == 1.0


@pytest.mark.parametrize("frames", [1, 3])
def test_tokens_of_a_prefix_are_the_prefix_of_the_tokens(plain, frames):
    steps = plain.model.grid(frames, 8, 8)[0]
    whole = plain.encode(plain.params, clips())
    prefix = plain.encode(plain.params, clips()[:, :frames])
    np.testing.assert_array_equal(prefix, whole[:, :steps])
    changed = clips().at[:, frames:].set(-0.3)
    again = plain.encode(plain.params, changed)
    np.testing.assert_array_equal(again[:, :steps], whole[:, :steps])


def test_streams_are_the_whole_clip(plain):
    model, params = plain.model, plain.params
    video = clips(frames=7)
    chunks = [video[:, :3], video[:, 3:5], video[:, 5:]]
    tokens = list(model.encode_stream(params, chunks))
    whole = plain.encode(params, video)
    np.testing.assert_array_equal(jnp.concatenate(tokens, axis=1), whole)
    frames = jnp.concatenate(list(model.decode_stream(params, tokens)), axis=1)
    np.testing.assert_allclose(frames, plain.decode(params, whole), atol=1e-5)


# ---- training ------------------------------------------------------------------------------------


def trainer(model):
    rate = LearningRate(peak=3e-3)
    groups = {
        "generator": AdamW(learning_rate=rate, clip_norm=10.0),
        "discriminator": AdamW(learning_rate=rate, beta1=0.0, clip_norm=None),
        "anchors": SGD(learning_rate=LearningRate(peak=0.1)),
    }
    optimizer = Grouped(groups=groups)
    return Trainer(model=model, partitioner=MESH, optimizer=optimizer, ema_decay=0.9)


def trained(run, state, frozen, steps):
    found = []
    for n in range(steps):
        data = jax.device_get(batch(seed=n % 4, b=4))
        state, metrics = run.train_step(state, frozen, run.partitioner.to_global(data), KEY)
        found.append({name: float(m.value()) for name, m in metrics.items()})
    return state, found


@pytest.mark.learning
def test_training_without_and_then_with_a_discriminator(tmp_path):
    first = trainer(tokenizer())
    spec = first.model.batch_spec(4, 2, 4)
    state, found = trained(first, first.init_state(KEY, spec), None, 60)
    assert np.mean([m["loss"] for m in found[-5:]]) < 0.5 * found[0]["loss"]
    assert found[-1]["psnr"] > found[0]["psnr"] + 2
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(60, state)

    second = trainer(game(image_perceptual=None, video_perceptual=None))
    fresh = second.init_state(KEY, spec).params
    begun = WarmStart(model_dir=str(tmp_path))(fresh)
    assert_close(begun["generator"], state.ema["generator"], rtol=0)
    assert_close(begun["discriminator"], fresh["discriminator"], rtol=0)
    start = jax.device_get(begun)
    state = second.init_state(KEY, spec).replace(params=begun)
    state, after = trained(second, state, None, 20)
    assert after[0]["l2"] < 0.7 * found[0]["l2"]  # it did not begin anew
    assert np.isfinite([m["loss"] for m in after]).all()
    assert after[-1]["discriminator"] < after[0]["discriminator"]
    expected = {"real": 0.0, "fake": 0.0}
    for m in after:
        expected = {n: 0.9 * a + 0.1 * m[f"logits_{n}"] for n, a in expected.items()}
    assert_close(jax.device_get(state.params["anchors"]), expected, rtol=1e-3, atol=1e-5)
    for part in ("generator", "discriminator"):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start[part], state.params[part])
        assert max(jax.tree.leaves(moved)) > 1e-3
