"""Training and sampling of the masked model against closed forms, with networks known exactly.

Tests of vidgen/phenaki/token_batch.py too.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_fakes as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.model import Model
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.maskgit import MaskGIT
from vidgen.types import TextEmbedding, TextMix, TokenBatch, VideoBatch, null_text

CODES, GRID = tiny.CODES, tiny.GRID
MASK = CODES


def loss_of(model, batch, frozen=None, seed=0):
    loss, metrics = model.loss(None, frozen, batch, jax.random.key(seed), train=True)
    return float(loss), {name: float(mean.value()) for name, mean in metrics.items()}


def seen_by_the_network(batch, **settings):
    """(metrics, what the network was called with) of one loss."""
    seen = {}

    def note(params, tokens, text, valid):
        seen.update(tokens=tokens, text=text, valid=valid)
        return tiny.uniform(params, tokens, text, valid)

    loss, metrics = loss_of(tiny.model(note, **settings), batch)
    return metrics, seen


def scores(right, wrong=0.0):
    """Logits that have `right` at code 3 where the token is masked, `wrong` where it is not."""

    def function(params, tokens, text, valid):
        size = jnp.where(tokens == MASK, right, wrong)
        return size[..., None] * jax.nn.one_hot(3, CODES)

    return function


def all_threes(b=4, independent=False):
    return tiny.cached(b, independent, tokens=jnp.full((b, *GRID), 3))


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("independent", [False, True, [True, False, True, False]])
def test_a_network_that_knows_nothing(smoothing, independent):
    """log k, whatever is masked, valid or smoothed."""
    model = tiny.model(label_smoothing=smoothing)
    assert loss_of(model, tiny.cached(4, independent))[0] == pytest.approx(np.log(CODES), abs=1e-5)


def test_only_masked_tokens_are_scored():
    loss, metrics = loss_of(tiny.model(scores(right=30.0, wrong=-30.0)), all_threes())
    assert loss == pytest.approx(0, abs=1e-6) and metrics["accuracy"] == 1
    loss, metrics = loss_of(tiny.model(scores(right=-30.0, wrong=30.0)), all_threes())
    assert loss == pytest.approx(30 + np.log(CODES - 1), rel=1e-5) and metrics["accuracy"] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing(smoothing):
    """q = (1 - s) on the token and s/K on all, the token included."""
    model = tiny.model(scores(right=2.0), label_smoothing=smoothing)
    logp = np.array([2.0, *[0.0] * (CODES - 1)])
    logp -= np.log(np.exp(logp).sum())
    q = np.full(CODES, smoothing / CODES)
    q[0] += 1 - smoothing
    assert loss_of(model, all_threes())[0] == pytest.approx(-(q * logp).sum(), rel=1e-5)


def test_every_example_counts_alike_however_much_of_it_is_masked():
    """Errors that belong to the row: their plain mean."""

    def function(params, tokens, text, valid):
        row = jnp.arange(len(tokens)).reshape(-1, 1, 1, 1, 1)
        return -1.0 * row * jax.nn.one_hot(3, CODES) * jnp.ones((*tokens.shape, 1))

    error = [np.log(CODES - 1 + np.exp(-row)) + row for row in range(8)]
    loss, metrics = loss_of(tiny.model(function), all_threes(8))
    assert loss == pytest.approx(np.mean(error), rel=1e-5)
    assert metrics["loss_many_masked"] != metrics["loss_few_masked"]


def test_the_mask_is_what_the_network_is_told():
    batch = tiny.cached(64)
    metrics, seen = seen_by_the_network(batch)
    masked = np.asarray(seen["tokens"] == MASK)
    np.testing.assert_array_equal(np.asarray(seen["tokens"])[~masked], batch.tokens[~masked])
    assert metrics["masked"] == pytest.approx(masked.mean(), rel=1e-5)
    assert metrics["masked"] == pytest.approx(2 / np.pi + 0.5 / 12, abs=0.08)
    assert masked.reshape(64, -1).any(1).all()
    metrics, _ = seen_by_the_network(batch, min_mask_rate=1.0)
    assert metrics["masked"] == 1


class FirstOfEach(tiny.Pixels):
    """Tokens 0, 1 and 2 hold the brightness of frames 0, 1 and 3, the first of their own."""

    def encode(self, params, video):
        first = video[..., 0][:, jnp.array([0, 1, 3]), ::4, ::4]
        return jnp.round((first + 1) * 100).astype(jnp.int32)

    def decode(self, params, tokens):
        frames = tokens[:, jnp.array([0, 1, 1, 2, 2])].repeat(4, axis=2).repeat(4, axis=3)
        return jnp.broadcast_to(frames[..., None] / 100 - 1, (len(tokens), *tiny.SHAPE.thwc))


def test_what_is_visible_has_been_decoded_backwards_before():
    """Frames 0 1 2 3 4: backwards coded as 4 3 3 1 1, whose reverse has tokens 1 1 3, not 0 1 3."""
    frames = (jnp.arange(5) / 100 - 1)[:, None, None, None]
    clips = dataclasses.replace(
        tiny.videos(8),
        video=jnp.broadcast_to(frames, (8, *tiny.SHAPE.thwc)),
        independent_frames=jnp.arange(8) == 1,
    )
    seen, losses = {}, {}

    def right_about_the_true_ones(params, tokens, text, valid):
        seen["tokens"] = tokens
        true = jnp.array([0, 1, 3])[:, None, None] * jnp.ones(GRID, int)
        return 60.0 * jax.nn.one_hot(jnp.broadcast_to(true, tokens.shape), CODES)

    for rate in (0.0, 0.5):
        model = tiny.model(right_about_the_true_ones, tokenizer=FirstOfEach(), decoded_rate=rate)
        losses[rate] = loss_of(model, clips, {"tokenizer": None})[0]
        for example, tokens in enumerate(np.asarray(seen["tokens"])):
            decoded = rate and example < 4 and example != 1  # that one is a set of images
            codes = [0, 0, 0] if example == 1 else [1, 1, 3] if decoded else [0, 1, 3]
            for visible, code in zip(tokens, codes, strict=True):
                assert set(visible.ravel().tolist()) <= {MASK, code}
    assert losses[0.5] == losses[0.0] == pytest.approx(0, abs=1e-6)


def test_what_has_been_decoded_needs_frames():
    with pytest.raises(ValueError, match=r"decoded_rate is 0\.25"):
        tiny.model(decoded_rate=0.25, batches="tokens")


# ---- images --------------------------------------------------------------------------------------


def test_of_images_only_the_first_frame_exists():
    independent = [True, False, True]
    metrics, seen = seen_by_the_network(tiny.cached(3, independent), min_mask_rate=1.0)
    valid = np.zeros((3, *GRID), bool)
    valid[:, 0] = valid[1] = True
    np.testing.assert_array_equal(seen["valid"], valid)
    np.testing.assert_array_equal(seen["tokens"] == MASK, valid)
    assert metrics["masked"] == 1  # of those that exist


def test_an_image_of_a_full_size_clip_has_256_tokens():
    batch = tiny.cached(2, True, tokens=jnp.zeros((2, 6, 16, 16), int))
    _, seen = seen_by_the_network(batch, min_mask_rate=1.0)
    np.testing.assert_array_equal((seen["tokens"] == MASK).sum((1, 2, 3)), [256, 256])


@functools.cache
def real():
    """(model, parameters, jitted loss and gradient) with a real network."""
    model = tiny.model(MaskGIT(**tiny.SIZES))
    batch = tiny.cached(2)
    params = tiny.lively(model.network, batch.tokens, batch.text)

    def loss(params, batch, frozen):
        return model.loss(params, frozen, batch, jax.random.key(3), train=False)[0]

    return model, params, jax.jit(jax.value_and_grad(loss))


def test_images_ignore_what_is_past_the_first_frame():
    """Neither the loss nor the gradient changes, bit for bit; of a clip both do."""
    _, params, value_and_grad = real()
    batch = tiny.cached(2, True)
    other = batch.replace(tokens=batch.tokens.at[:, 1:].set((batch.tokens[:, 1:] + 1) % CODES))
    one, two = (value_and_grad(params, data, None) for data in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    clips = [data.replace(independent_frames=jnp.zeros(2, bool)) for data in (batch, other)]
    assert len({float(value_and_grad(params, data, None)[0]) for data in (*clips, batch)}) == 3


# ---- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("independent", [False, [True, False, False, True]])
def test_tokens_made_on_the_fly_and_beforehand_give_the_same(independent):
    """The tokenizer is called with its own frozen parameters."""
    videos, shift = tiny.videos(4, independent), jnp.int32(2)
    tokens = tiny.Pixels().encode(shift, videos.video)
    cached = TokenBatch(
        tokens=tokens, text=videos.text, independent_frames=videos.independent_frames
    )
    model = tiny.model(scores(right=1.0))
    assert loss_of(model, videos, {"tokenizer": shift}) == loss_of(model, cached)
    assert loss_of(model, videos, {"tokenizer": jnp.int32(0)}) != loss_of(model, cached)


def test_narrow_integers_will_do():
    batch = tiny.cached(4)
    narrow = batch.replace(tokens=batch.tokens.astype(jnp.uint16))
    model = tiny.model(scores(right=1.0))
    assert loss_of(model, narrow) == loss_of(model, batch)


# ---- text ----------------------------------------------------------------------------------------


def test_text_is_dropped_as_often_as_asked_and_for_the_network():
    batch = tiny.cached(3000)
    metrics, seen = seen_by_the_network(batch, text_drop_rate=0.25)
    text = seen["text"]
    kept = np.asarray(text.mask.any(1))
    assert 1 - kept.mean() == pytest.approx(0.25, abs=0.03)
    assert metrics["text_dropped"] == pytest.approx(1 - kept.mean(), abs=1e-6)
    for found, given in ((text.tokens, batch.text.tokens), (text.mask, batch.text.mask)):
        np.testing.assert_array_equal(found[kept], given[kept])
        assert not np.asarray(found[~kept]).any()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_text_is_always_or_never_dropped(rate):
    metrics, seen = seen_by_the_network(tiny.cached(50), text_drop_rate=rate)
    assert metrics["text_dropped"] == rate
    np.testing.assert_array_equal(seen["text"].mask.any(1), [rate == 0] * 50)


def test_of_captions_for_every_frame_the_first_counts():
    batch = tiny.cached(4)
    frames = jax.tree.map(lambda x: jnp.stack([x, 0 * x, 0 * x], axis=1), batch.text)
    _, seen = seen_by_the_network(batch.replace(text=frames), text_drop_rate=0.0)
    jax.tree.map(np.testing.assert_array_equal, seen["text"], batch.text)


# ---- sampling ------------------------------------------------------------------------------------


def noted(calls):
    """Logits that depend on the text and the tokens; the sizes of its batches go to `calls`."""

    def function(params, tokens, text, valid):
        calls.append(len(tokens))
        weight = (text.tokens * text.mask[..., None]).sum((1, 2)).reshape(-1, 1, 1, 1, 1)
        ramp = jnp.arange(CODES) * (1.0 + jnp.arange(tokens[0].size).reshape(*GRID, 1))
        return jnp.sin(ramp + weight) + 0.1 * tokens[..., None]

    return function


def test_without_guidance_the_logits_are_the_conditional_ones_bit_for_bit():
    calls, batch = [], tiny.cached(2)
    function = noted(calls)
    model = tiny.model(function, guidance=GuidanceSpec(weight=0.0))
    flat = batch.tokens.reshape(2, -1)
    found = model.logits_fn(None, batch.text, GRID)(flat, jnp.int32(0))
    assert calls == [2] and model.evaluations == 24
    expected = function(None, batch.tokens, batch.text, None).reshape(2, -1, CODES)
    np.testing.assert_array_equal(found, expected)


def test_guidance():
    """(1 + λ) l(text) - λ l(no text), both halves in one batch."""
    calls, batch = [], tiny.cached(2)
    function = noted(calls)
    model = tiny.model(function, sampler=DecodingSpec(steps=12), guidance=GuidanceSpec(weight=2.5))
    flat = batch.tokens.reshape(2, -1)
    found = model.logits_fn(None, batch.text, GRID)(flat, jnp.int32(0))
    assert calls == [4] and model.evaluations == 24
    cond, uncond = (
        function(None, batch.tokens, text, None).reshape(2, -1, CODES)
        for text in (batch.text, null_text(batch.text))
    )
    np.testing.assert_allclose(found, 3.5 * cond - 2.5 * uncond, rtol=1e-4, atol=1e-4)


def real_network(weight):
    """(model, params) of a transformer whose logits depend on the text."""
    model = tiny.model(MaskGIT(**tiny.SIZES), guidance=GuidanceSpec(weight=weight))
    batch = tiny.cached(1)
    return model, tiny.lively(model.network, batch.tokens, batch.text)


def prompt(seed, length, padding=0.0):
    """One prompt of so many tokens, and what stands where there are none."""
    tokens = jax.random.normal(jax.random.key(seed), (1, 8, tiny.TEXT[1]))
    mask = jnp.arange(8)[None] < length
    return TextEmbedding(tokens=jnp.where(mask[..., None], tokens, padding), mask=mask)


def log_probabilities(weight, first, second, mix):
    """What the network thinks of every token of a clip that is all masked."""
    model, params = real_network(weight)
    text = first if mix is None else TextMix(first=first, second=second, weight=jnp.array([mix]))
    tokens = jnp.full((1, int(np.prod(GRID))), MASK)
    logits = _logits(model, params, text, tokens)
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, text, tokens):
    return model.logits_fn(params, text, GRID)(tokens, jnp.int32(0))


def divergence(p, q):
    """KL(p || q) in nats, mean over the tokens."""
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("weight, lengths", [(0.0, (7, 3)), (2.0, (3, 7))])
def test_a_transition_passes_from_one_prompt_to_the_other(weight, lengths):
    """Each quarter of the way takes a good part of the divergence, a hundredth next to nothing."""
    a, b = prompt(0, lengths[0]), prompt(1, lengths[1])
    mixes = [0.0, 0.01, 0.25, 0.5, 0.75, 1.0]
    found = [log_probabilities(weight, a, b, mix) for mix in mixes]
    alone = [log_probabilities(weight, text, text, None) for text in (a, b)]
    np.testing.assert_allclose(found[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(found[-1], alone[1], atol=1e-5)
    whole = divergence(*alone[::-1]), divergence(*alone)
    assert min(whole) > 0.03  # the text matters
    from_a = [divergence(p, alone[0]) / whole[0] for p in found]
    from_b = [divergence(p, alone[1]) / whole[1] for p in found]
    assert from_a == sorted(from_a) and from_b == sorted(from_b)[::-1]
    assert from_a[1] < 0.01 and from_b[1] > 0.9
    assert max(from_a[3], from_b[3]) < 0.9 and min(np.diff(from_a)) > 0 > max(np.diff(from_b))
    # In log space, the mixture is the normed product of powers.
    product = 0.75 * alone[0] + 0.25 * alone[1]
    product -= np.log(np.exp(product).sum(-1, keepdims=True))
    np.testing.assert_allclose(found[2], product, atol=1e-5)


def test_padding_does_not_matter_to_a_transition():
    found = [
        log_probabilities(2.0, prompt(0, 3, padding), prompt(1, 7, padding), 0.5)
        for padding in (0.0, 9.0)
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_transition_is_one_batch():
    calls = []
    model = tiny.model(noted(calls), guidance=GuidanceSpec(weight=1.0))
    batch = tiny.cached(2)
    text = TextMix(first=batch.text, second=batch.text, weight=jnp.array([0.5, 0.5]))
    mixed = model.logits_fn(None, text, GRID)(batch.tokens.reshape(2, -1), jnp.int32(0))
    alone = model.logits_fn(None, batch.text, GRID)(batch.tokens.reshape(2, -1), jnp.int32(0))
    assert calls == [8, 4]
    np.testing.assert_allclose(mixed, alone, rtol=1e-5, atol=1e-5)


def sample(model, params, batch, known, keys=None, **options):
    keys = jax.random.split(jax.random.key(7), len(known)) if keys is None else keys
    return model.sample_tokens(params, batch.text, batch.tokens, known, keys, **options)


KNOWN = {
    "text to video": lambda known: known,
    "image to video": lambda known: known.at[:, 0].set(True),
    "continuation": lambda known: known.at[:, :2].set(True),
    "in between": lambda known: known.at[:, 0].set(True).at[:, -1].set(True),
    "inpainting": lambda known: known.at[:, :, 0].set(True),
}


def test_all_tasks_are_one_call_with_different_known_tokens():
    batch = tiny.cached(2)
    model = tiny.model(scores(right=30.0), sampler=DecodingSpec(steps=3))
    for task in KNOWN.values():
        known = task(jnp.zeros((2, *GRID), bool))
        found = sample(model, None, batch, known)
        np.testing.assert_array_equal(found, jnp.where(known, batch.tokens, 3))


def test_what_does_not_exist_comes_out_as_it_went_in():
    batch = tiny.cached(2)
    seen = []

    def function(params, tokens, text, valid):
        seen.append(valid)
        return scores(right=30.0)(params, tokens, text, valid)

    model = tiny.model(function, sampler=DecodingSpec(steps=3))
    valid = jnp.zeros((2, *GRID), bool).at[:, 0].set(True)
    found = sample(model, None, batch, jnp.zeros_like(valid), valid=valid)
    np.testing.assert_array_equal(found, jnp.where(valid, 3, batch.tokens))
    assert seen[0].shape == (4, *GRID)  # guided: twice


def test_a_clip_does_not_depend_on_its_neighbors_nor_on_how_it_is_run():
    model, params, _ = real()
    model = dataclasses.replace(
        model, sampler=DecodingSpec(steps=3), guidance=GuidanceSpec(weight=2.0)
    )
    batch, keys = tiny.cached(2), jax.random.split(jax.random.key(7), 2)
    known = jnp.zeros((2, *GRID), bool).at[:, 0, 0].set(True)
    whole = sample(model, params, batch, known, keys)
    one = jax.tree.map(lambda x: x[1:], batch)
    np.testing.assert_array_equal(sample(model, params, one, known[1:], keys[1:]), whole[1:])
    said = []
    stepwise = sample(model, params, batch, known, keys, on_step=lambda *s: said.append(s))
    np.testing.assert_array_equal(stepwise, whole)
    assert [now[:2] for now in said] == [(1, 3), (2, 3), (3, 3)]


# ---- as others see it ----------------------------------------------------------------------------


@pytest.mark.parametrize(("batches", "kind"), [("videos", VideoBatch), ("tokens", TokenBatch)])
@pytest.mark.parametrize("captions", [1, 5])
def test_shapes_of_a_batch(batches, kind, captions):
    model = tiny.model(MaskGIT(**tiny.SIZES), batches=batches)
    assert isinstance(model, Model)
    spec = model.batch_spec(3, *tiny.TEXT, captions_per_clip=captions)
    data = tiny.videos(3) if kind is VideoBatch else tiny.cached(3)
    if captions == 5:
        text = jax.tree.map(lambda x: jnp.stack([x] * 5, axis=1), data.text)
        data = data.replace(text=text)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), spec) == jax.tree.map(
        lambda x: (x.shape, x.dtype), data
    )
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    frozen = {"tokenizer": jnp.int32(0)}
    loss = functools.partial(model.loss, key=jax.random.key(0), train=True)
    value, _ = jax.eval_shape(loss, params, frozen, spec)
    assert value.shape == () and value.dtype == jnp.float32


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_program_of_a_sampling_step(guidance):
    model = tiny.model(
        MaskGIT(**tiny.SIZES), sampler=DecodingSpec(steps=5), guidance=GuidanceSpec(weight=guidance)
    )
    params = jax.eval_shape(model.init, jax.random.key(0), model.batch_spec(2, *tiny.TEXT))
    program, arguments = model.step_spec(params, 2, *tiny.TEXT)
    (tokens, masked), filled = program.trace(*arguments).out_info
    assert tokens.shape == masked.shape == filled.shape == (2, 12) and masked.dtype == bool
    assert model.sampler.steps == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosines"}, "Unknown mask schedule 'cosines'"),
        ({"batches": "frames"}, "batches is 'frames'.*videos, tokens"),
        ({"min_mask_rate": 1.5}, "min_mask_rate is 1.5"),
        ({"text_drop_rate": -0.1}, "text_drop_rate is -0.1"),
        (
            {"tokenizer": tiny.Pixels(codes=8)},
            "6 codes .*tokenizer 8.*MaskGIT.codes=8",
        ),
        (
            {"network": tiny.Fake(function=tiny.uniform, cross=False)},
            "weight is 1.0, but .* no text",
        ),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny.model(**settings)


def test_a_network_without_text():
    """It trains on batches that have text, and samples unguided."""
    model = tiny.model(
        MaskGIT(**tiny.SIZES, cross=False),
        sampler=DecodingSpec(steps=2),
        guidance=GuidanceSpec(weight=0.0),
    )
    spec = model.batch_spec(2, *tiny.TEXT)
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    text = TextEmbedding(tokens=spec.text.tokens, mask=spec.text.mask)
    logits = jax.eval_shape(
        lambda p, t, x: model.logits_fn(p, t, GRID)(x, jnp.int32(0)),
        params, text, jax.ShapeDtypeStruct((2, 12), jnp.int32),
    )  # fmt: skip
    assert logits.shape == (2, 12, CODES)
