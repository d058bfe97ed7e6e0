"""The loss and the sampling of a stage against closed forms, with networks known exactly.

Tests of vidgen/imagen/denoiser.py too.
Tests of vidgen/imagen/error_by_noise.py too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny

from vidgen.diffusion import parameterization, schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.learned import Learned
from vidgen.imagen.stage import DiffusionStage
from vidgen.model import Model
from vidgen.nn import axes
from vidgen.types import TextEmbedding, TextMix, VideoBatch, VideoShape

SHAPE = VideoShape(frames=2, height=4, width=4)
PARAMETERIZATIONS = tuple(parameterization.PARAMETERIZATIONS)


@dataclasses.dataclass(frozen=True)
class Fake(DenoisingNetwork):
    """A network that is one Python function of (params, z, logsnr, cond)."""

    function: Callable[..., Any]

    def init(self, rngs, *args, **kwargs):
        return {"weight": jnp.zeros(())}

    def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
        return self.function(variables, z, logsnr, cond)


def zeros(params, z, logsnr, cond):
    return jnp.zeros_like(z)


def prompt_value(cond):
    """A number per example: mean over real tokens and features; 0 without tokens."""
    mask = cond.text.mask[:, :, None]
    total = (jnp.where(mask, cond.text.tokens, 0)).sum((1, 2))
    return (total / jnp.maximum(mask.sum((1, 2)), 1)).reshape(-1, 1, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class AtTime:
    """All examples at the same time u."""

    u: float

    def __call__(self, key, batch_size):
        return jnp.full(batch_size, self.u)


def stage(function=zeros, **changes):
    return DiffusionStage(network=Fake(function), **{"shape": SHAPE} | changes)


def batch(b=8, value=None):
    video = tiny.normal(0, b, *SHAPE.thwc) if value is None else jnp.full((b, *SHAPE.thwc), value)
    return VideoBatch(video=video, text=tiny.text(b), independent_frames=jnp.zeros(b, bool))


def loss_of(model, data, seed=0):
    loss, metrics = jax.jit(lambda key: model.loss(None, None, data, key, train=True))(
        jax.random.key(seed)
    )
    return float(loss), metrics


def seen_by_the_network(model, data):
    """(metrics, what the network was called with) of one loss."""
    seen = {}

    def note(params, z, logsnr, cond):
        seen.update(z=z, logsnr=logsnr, cond=cond)
        return jnp.zeros_like(z)

    @jax.jit
    def run(key):
        noting = dataclasses.replace(model, network=Fake(note))
        return noting.loss(None, None, data, key, train=True)[1], seen

    return run(jax.random.key(0))


# ---- loss ----------------------------------------------------------------------------------------


def test_it_is_a_model_and_a_video_unet_is_its_network():
    assert isinstance(stage(), Model)
    assert isinstance(tiny.network(), DenoisingNetwork)
    assert isinstance(Fake(zeros), DenoisingNetwork)


def test_loss_of_zero_is_the_mean_square_of_the_target():
    data = batch()
    model = stage(parameterization="x0", loss_weight="x_mse")  # whatever the noise, the target is x
    np.testing.assert_allclose(loss_of(model, data)[0], np.mean(data.video**2), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0])
def test_loss_of_zero_for_velocity(value):
    """E v² = E α² + E σ² x² = (1 + x²)/2 for uniform times of the cosine schedule."""
    model, data = stage(), batch(b=32, value=value)
    losses = jax.vmap(lambda key: model.loss(None, None, data, key, train=True)[0])
    found = jax.jit(losses)(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_allclose(found.mean(), (1 + value**2) / 2, rtol=0.01)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_loss_of_the_truth_is_zero(name):
    data = batch()
    kind = parameterization.by_name(name)

    def oracle(params, z, logsnr, cond):
        return kind.target(data.video, parameterization.eps_from_x0(data.video, z, logsnr), logsnr)

    loss, metrics = loss_of(stage(oracle, parameterization=name), data)
    assert loss < 1e-4
    assert float(metrics["loss_middle"].value()) < 1e-8
    assert loss_of(stage(parameterization=name), data)[0] > 0.3


@pytest.mark.parametrize("u", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(
    "weight, factor",
    [
        ("eps_mse", lambda snr: snr / (1 + snr)),  # α²
        ("x_mse", lambda snr: 1 / (1 + snr)),  # σ²
        ("min_snr", lambda snr: min(snr, 5) / (1 + snr)),
        ("truncated_snr", lambda snr: max(snr, 1) / (1 + snr)),
    ],
)
def test_weights_relative_to_v_mse(u, weight, factor):
    data = batch()
    reference = loss_of(stage(times=AtTime(u)), data)[0]
    found = loss_of(stage(times=AtTime(u), loss_weight=weight), data)[0]
    snr = float(np.exp(schedules.Cosine()(jnp.float32(u))))
    np.testing.assert_allclose(found / reference, factor(snr), rtol=1e-4)


def test_noise_follows_the_schedule_and_the_level_is_told():
    """With the eps target 0 in expectation, z has variance α² x² + σ² at the level given."""
    _, seen = seen_by_the_network(stage(times=AtTime(0.3)), batch(b=256, value=2.0))
    alpha, sigma = 0.8909982796, 0.4540066803
    np.testing.assert_allclose(seen["logsnr"], 1.3484611686, rtol=1e-5)
    np.testing.assert_allclose(seen["z"].mean(), 2 * alpha, atol=0.02)
    np.testing.assert_allclose(seen["z"].std(), sigma, atol=0.02)


def test_metrics_split_the_loss_by_noise():
    loss, metrics = loss_of(stage(), batch(b=64))
    parts = [metrics[f"loss_{name}"] for name in ("noisy", "middle", "clean")]
    weights = [float(part.weight) for part in parts]
    assert sum(weights) == 64
    # uniform times: P(|λ| < 2) = 0.5512, times here are stratified
    np.testing.assert_allclose(np.array(weights) / 64, [0.2244, 0.5512, 0.2244], atol=0.02)
    np.testing.assert_allclose(sum(float(part.total) for part in parts) / 64, loss, rtol=1e-5)


def test_loss_depends_on_the_key_alone_besides_its_arguments():
    model, data = stage(), batch()
    found = loss_of(model, data)
    assert found == loss_of(model, data)
    assert found[0] != loss_of(model, data, seed=1)[0]
    taught = jax.jit(lambda key: model.loss(None, {"teacher": key}, data, key, train=True)[0])
    assert float(taught(jax.random.key(0))) == found[0]


def test_only_training_gets_a_dropout_key():
    keys = []

    class Recorder(Fake):
        def apply(self, variables, z, logsnr, cond, *, train, rngs=None):
            keys.append((train, rngs))
            return jnp.zeros_like(z)

    model = dataclasses.replace(stage(), network=Recorder(zeros))
    for train in (True, False):
        jax.eval_shape(
            lambda key, train=train: model.loss(None, None, batch(), key, train=train),
            jax.random.key(0),
        )
    assert [train for train, _ in keys] == [True, False]
    assert set(keys[0][1]) == {"dropout"} and keys[1][1] is None


# ---- dropping the text ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_rate_of_dropped_text(rate):
    model, data, repeats = stage(text_drop_rate=rate), batch(b=50), 100
    dropped = jax.vmap(lambda key: model.loss(None, None, data, key, train=True)[1]["text_dropped"])
    found = jax.jit(dropped)(jax.random.split(jax.random.key(3), repeats))
    n = float(found.weight.sum())
    assert n == 50 * repeats
    four_sigma = 4 * np.sqrt(n * rate * (1 - rate))
    assert abs(float(found.total.sum()) - n * rate) <= four_sigma


def test_text_is_dropped_as_reported_and_whole():
    data = batch(b=64)
    metrics, seen = seen_by_the_network(stage(text_drop_rate=0.5), data)
    text = jax.tree.map(np.asarray, seen["cond"].text)
    gone = ~text.mask.any(1)
    assert gone.sum() == float(metrics["text_dropped"].total)
    assert 16 < gone.sum() < 48
    np.testing.assert_array_equal(text.tokens[gone], 0)
    np.testing.assert_array_equal(text.tokens[~gone], np.asarray(data.text.tokens)[~gone])


@pytest.mark.parametrize("rate, depends", [(1.0, False), (0.0, True)])
def test_a_model_that_always_drops_is_unconditional(rate, depends):
    def read(params, z, logsnr, cond):
        return z * params + cond.text.tokens.mean() + prompt_value(cond)

    model, data = stage(read, text_drop_rate=rate), batch()

    @jax.jit
    @jax.value_and_grad
    def loss(params, text):
        key = jax.random.key(0)
        return model.loss(params, None, data.replace(text=text), key, train=True)[0]

    found, other = (loss(jnp.float32(0.3), tiny.text(8, seed=seed)) for seed in (7, 8))
    assert (found[0] != other[0]) == depends
    assert (found[1] != other[1]) == depends


# ---- sampling ------------------------------------------------------------------------------------


def gaussian(params, z, logsnr, cond, mean=0.5, std=0.4):
    """The v of the exact denoiser of data N(0.5, 0.4²)."""
    alpha, sigma = schedules.alpha_sigma(schedules.expand(logsnr, z))
    x0 = mean + std**2 * alpha / (alpha**2 * std**2 + sigma**2) * (z - alpha * mean)
    return (alpha * z - x0) / sigma


def painter(params, z, logsnr, cond):
    """An x0 output that depends on z, on the pixel's neighbours and on the prompt."""
    return jnp.tanh(0.7 * z + 0.2 * jnp.roll(z, 1, axis=2)) + prompt_value(cond)


def generate(model, text, keys, **kwargs):
    return np.asarray(model.generate({}, text, None, keys, **kwargs))


@pytest.mark.parametrize(
    "kind, gamma, std",
    [
        ("ancestral", 0.3, 0.384310),
        ("ancestral", 1.0, 0.407446),
        ("stochastic", 0.0, 0.371586),
        ("ddim", 0.0, (1.0056532 - 0.5) / 1.3),  # the map is affine and keeps the mean
    ],
)
def test_exact_denoiser_gives_the_data_back(kind, gamma, std):
    model = stage(gaussian, sampler=SamplerSpec(kind=kind, gamma=gamma, steps=64))
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.jit(lambda text, keys: model.generate({}, text, None, keys))(tiny.text(200), keys)
    assert found.shape == (200, *SHAPE.thwc)
    error = 4 * std / np.sqrt(found.size)
    np.testing.assert_allclose(found.mean(), 0.5, atol=error)
    np.testing.assert_allclose(found.std(), std, atol=error)


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_a_clip_depends_on_its_own_text_and_key_alone(weight):
    sampler = SamplerSpec(kind="ancestral", steps=5)
    model = stage(
        painter, parameterization="x0", sampler=sampler, guidance=GuidanceSpec(weight=weight)
    )
    keys, text = jax.random.split(jax.random.key(1), 3), tiny.text(3)
    together = generate(model, text, keys)
    order = np.array([2, 0, 1])
    shuffled = generate(model, jax.tree.map(lambda x: x[order], text), keys[order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    for i in range(3):
        alone = generate(model, jax.tree.map(lambda x, i=i: x[i : i + 1], text), keys[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1
    other_keys = generate(model, text, jax.random.split(jax.random.key(2), 3))
    assert np.abs(other_keys - together).max() > 0.1


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_an_equal_stage_compiles_no_step_again(weight, student):
    """As one is that is loaded again; also where settings are lists."""
    traces = []

    @dataclasses.dataclass(frozen=True)
    class Listed(Fake):
        settings: list

    def network(params, z, logsnr, cond):
        traces.append(len(z))
        return painter(params, z, logsnr, cond)

    keys, text = jax.random.split(jax.random.key(1), 2), tiny.text(2)
    for settings in ([1], [1], [2]):
        guidance = GuidanceSpec(weight=weight)
        model = stage(network, guidance=guidance, guidance_input=student)
        model = dataclasses.replace(
            model,
            network=Listed(network, settings),
            sampler=SamplerSpec(kind="ddim", steps=2),
        )
        generate(model, text, keys, on_step=lambda *done: None)
    assert len(traces) == 2  # of [1] and of [2]


@pytest.mark.parametrize("kind", ["ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_step_by_step_gives_the_same_bits(kind, weight):
    sampler = SamplerSpec(kind=kind, steps=6)
    guidance = GuidanceSpec(weight=weight, threshold="dynamic")
    model = stage(painter, parameterization="x0", sampler=sampler, guidance=guidance)
    keys, text, calls = jax.random.split(jax.random.key(1), 2), tiny.text(2), []
    stepwise = generate(model, text, keys, on_step=lambda *done: calls.append(done))
    assert [now[:2] for now in calls] == [(i + 1, 6) for i in range(6)]
    np.testing.assert_array_equal(calls[-1][2](), stepwise)
    np.testing.assert_array_equal(stepwise, generate(model, text, keys))


@pytest.mark.parametrize("weight, expected", [(0.0, [3] * 2), (2.0, [3] * 4)])
def test_network_is_called_once_for_each_half_of_a_step(weight, expected):
    sizes = []

    def count(params, z, logsnr, cond):
        assert len(z) == len(logsnr) == len(cond.text.mask) == len(cond.independent_frames)
        sizes.append(len(z))
        return jnp.zeros_like(z)

    model = stage(count, sampler=SamplerSpec(steps=2), guidance=GuidanceSpec(weight=weight))
    with jax.disable_jit():
        generate(model, tiny.text(3), jax.random.split(jax.random.key(0), 3))
    assert sizes == expected


def test_guidance_moves_away_from_the_null_prompt():
    """x̂ = prompt value c, and 1 without a prompt: (1 + w) c - w."""

    def say(params, z, logsnr, cond):
        some = cond.text.mask.any(1).reshape(-1, 1, 1, 1, 1)
        return jnp.zeros_like(z) + jnp.where(some, prompt_value(cond), 1.0)

    text = TextEmbedding(
        tokens=jnp.array([0.25, 2.0]).reshape(2, 1, 1), mask=jnp.ones((2, 1), bool)
    )
    keys = jax.random.split(jax.random.key(0), 2)

    def guided(**spec):
        model = stage(
            say,
            parameterization="x0",
            sampler=SamplerSpec(kind="ddim", steps=4),
            guidance=GuidanceSpec(**spec),
        )
        return generate(model, text, keys).mean((1, 2, 3, 4))

    np.testing.assert_allclose(guided(weight=0.5), [-0.125, 2.5], rtol=1e-5)
    np.testing.assert_array_equal(guided(weight=0.0), [0.25, 2.0])
    # the last of 4 steps decides: high, low, high, low
    oscillating = guided(weight=0.5, low=3.0, constant_fraction=0.0)
    np.testing.assert_allclose(oscillating, [-2, 5], rtol=1e-5)
    np.testing.assert_allclose(guided(weight=0.5, threshold="static"), [-0.125, 1], rtol=1e-5)
    np.testing.assert_allclose(guided(weight=0.5, threshold="dynamic"), [-0.125, 1], rtol=1e-5)


@pytest.mark.parametrize(
    "threshold, expected",
    [("none", [-0.125, 0.53125, 1.1875, 2.5]), ("static", [-0.125, 0.53125, 1, 1])],
)
@pytest.mark.parametrize("student", [False, True])
def test_between_two_prompts(threshold, expected, student):
    """Guided values -0.125 and 2.5 mixed by 0, 1/4, 1/2 and 1, and thresholded after that."""

    def say(params, z, logsnr, cond):
        value, w = prompt_value(cond), 0.0
        if student:  # it guides by itself
            w = cond.guidance_weight.reshape(-1, 1, 1, 1, 1)
        some = cond.text.mask.any(1).reshape(-1, 1, 1, 1, 1)
        return jnp.zeros_like(z) + jnp.where(some, (1 + w) * value - w, 1.0)

    def four(value):
        return TextEmbedding(tokens=jnp.full((4, 1, 1), value), mask=jnp.ones((4, 1), bool))

    text = TextMix(first=four(0.25), second=four(2.0), weight=jnp.array([0.0, 0.25, 0.5, 1.0]))
    spec = GuidanceSpec(weight=0.5, threshold=threshold)
    ddim = SamplerSpec(kind="ddim", steps=2)
    model = stage(say, parameterization="x0", sampler=ddim, guidance=spec, guidance_input=student)
    found = generate(model, text, jax.random.split(jax.random.key(0), 4)).mean((1, 2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_weight_of_zero_is_the_conditional_prediction():
    """The second step of guidance that oscillates between 1 and 0 against no guidance at all."""
    sampler = SamplerSpec(steps=4)
    model = stage(painter, parameterization="x0", sampler=sampler)
    spec = GuidanceSpec(weight=1.0, low=0.0, constant_fraction=0.0)
    guided = dataclasses.replace(model, guidance=spec)
    cond = model.conditioner.for_sampling(
        None, tiny.text(2), jax.random.split(jax.random.key(0), 2)
    )
    z, logsnr = tiny.normal(0, 2, *SHAPE.thwc), jnp.zeros(2)
    plain, found = (jax.jit(each.x0_fn({}, cond, 4)) for each in (model, guided))
    expected = plain(z, logsnr, jnp.int32(1))
    np.testing.assert_allclose(found(z, logsnr, jnp.int32(1)), expected, atol=1e-6)
    difference = found(z, logsnr, jnp.int32(0)) - plain(z, logsnr, jnp.int32(0))
    assert np.abs(difference).max() > 0.05


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_bound_the_result(threshold):
    sampler = SamplerSpec(steps=4)
    spec = GuidanceSpec(weight=8.0, threshold=threshold)
    model = stage(painter, parameterization="x0", sampler=sampler, guidance=spec)
    keys, text = jax.random.split(jax.random.key(1), 2), tiny.text(2)
    found = generate(model, text, keys)
    assert np.abs(found).max() <= 1
    free = dataclasses.replace(model, guidance=GuidanceSpec(weight=8.0))
    assert np.abs(generate(free, text, keys)).max() > 1.2


def test_base_stage_refuses_a_low_resolution_video():
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="base stage .*low-resolution"):
        stage().generate({}, tiny.text(2), tiny.normal(0, 2, *SHAPE.thwc), keys)


# ---- with a real network -------------------------------------------------------------------------


def test_init_of_a_real_network_is_boxed_and_fits_the_batch():
    model = DiffusionStage(shape=SHAPE, network=tiny.network(tiny.ONE_LEVEL))
    spec = model.batch_spec(4, 5, 12)
    assert spec.video.shape == (4, 2, 4, 4, 3)
    assert spec.text.tokens.shape == (4, 5, 12) and spec.text.mask.dtype == bool
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, axes.Named))
    assert leaves and all(isinstance(leaf, axes.Named) for leaf in leaves)
    loss, metrics = jax.eval_shape(
        lambda params, data: model.loss(params, None, data, jax.random.key(0), train=True),
        params,
        spec,
    )
    assert loss.shape == () and loss.dtype == jnp.float32
    assert set(metrics) == {"text_dropped", "loss_noisy", "loss_middle", "loss_clean"}


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, message",
    [
        (dict(parameterization="score"), "parameterization 'score'.*eps, x0, v"),
        (dict(loss_weight="l2"), "loss weight 'l2'.*v_mse, eps_mse"),
        (dict(text_drop_rate=1.5), r"text_drop_rate is 1.5.*\[0, 1\]"),
    ],
)
def test_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        stage(**setting)


# ---- prompts without text ------------------------------------------------------------------------


def of_prompt(params, z, logsnr, cond):
    """Leans to its prompt, or to a number of its own where there is none, and to w."""
    weight = 0 if cond.guidance_weight is None else cond.guidance_weight.reshape(-1, 1, 1, 1, 1)
    return 0.1 * z + prompt_value(cond) + 0.123 + 0.01 * weight


@pytest.mark.parametrize("least", [None, 0.0, 0.25])
def test_guidance_has_no_effect_where_there_is_no_text(least):
    """Bit for bit, also beside a clip that is guided; a student is told the least it knows."""
    changes = {"parameterization": "x0", "sampler": SamplerSpec(kind="ddim", steps=2)}
    if least is not None:
        learned = Learned(weight_range=(least, 9.0), steps=2)
        changes |= {"guidance_input": True, "learned": learned}
    text = tiny.text(2)
    text = jax.tree.map(lambda x: x.at[1].set(False if x.dtype == bool else 0), text)
    keys = jax.random.split(jax.random.key(0), 2)

    def made(weight):
        model = stage(of_prompt, guidance=GuidanceSpec(weight=weight), **changes)
        return np.asarray(model.generate(None, text, None, keys))

    low, high = made(least or 0.0), made(7.0)
    np.testing.assert_array_equal(high[1], low[1])
    assert np.abs(high[0] - low[0]).max() > 0.01
