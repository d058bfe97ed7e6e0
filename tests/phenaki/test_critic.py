"""The critic: what is labelled how, and what it does to sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_fakes as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.model import Model
from vidgen.phenaki.critic import CriticModel
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.maskgit import MaskGIT, TokenCritic

CODES, GRID = tiny.CODES, tiny.GRID


def fills_with(code):
    """A masked model that is sure of one code."""
    return lambda params, tokens, text, valid: jnp.broadcast_to(
        50.0 * jax.nn.one_hot(code, CODES), (*tokens.shape, CODES)
    )


def odds_by_token(odds):
    """A critic that looks at the token alone."""
    return lambda params, tokens, text, valid: jnp.array(odds)[tokens]


def critic(code, odds, **settings):
    return CriticModel(
        model=tiny.model(fills_with(code), **settings),
        network=tiny.Fake(function=odds_by_token(odds)),
    )


def loss_of(model, batch):
    frozen = {"tokenizer": jnp.int32(0), "maskgit": None}
    loss, metrics = model.loss(None, frozen, batch, jax.random.key(0), train=True)
    return float(loss), {name: float(mean.value()) for name, mean in metrics.items()}


def threes(b=4, independent=False):
    return tiny.cached(b, independent, tokens=jnp.full((b, *GRID), 3))


@pytest.mark.parametrize("batch", [tiny.cached, tiny.videos])
def test_a_critic_that_knows_nothing(batch):
    loss, _ = loss_of(critic(3, [0.0] * CODES), batch(4))
    assert loss == pytest.approx(np.log(2), rel=1e-5)


def test_a_sampled_token_that_is_the_true_one_is_real():
    """Cross-entropy of log-odds 1.5: log(1 + e^-1.5) if real, log(1 + e^1.5) if not."""
    odds = [1.5] * CODES
    loss, metrics = loss_of(critic(3, odds), threes())
    assert loss == pytest.approx(np.log1p(np.exp(-1.5)), rel=1e-5)
    assert metrics["real"] == 1 and metrics["accuracy"] == 1
    loss, metrics = loss_of(critic(5, odds), threes())
    assert loss == pytest.approx(np.log1p(np.exp(1.5)), rel=1e-5)
    assert metrics["real"] == 0 and metrics["accuracy"] == 0


@pytest.mark.parametrize("independent", [False, True])
def test_tokens_that_were_given_or_do_not_exist_have_no_label(independent):
    """The critic is wrong on every 3, all of them given, and right on every sampled 5."""
    odds = [0.0, 0.0, 0.0, -40.0, 0.0, -40.0]
    loss, metrics = loss_of(critic(5, odds), threes(independent=independent))
    assert loss == pytest.approx(0, abs=1e-6) and metrics["accuracy"] == 1


def test_the_text_is_dropped_as_for_the_masked_model():
    seen = []

    def note(params, tokens, text, valid):
        seen.append(text)
        return tiny.uniform(params, tokens, text, valid)

    def noted_odds(params, tokens, text, valid):
        return note(params, tokens, text, valid)[..., 0]

    masked = tiny.model(note, text_drop_rate=0.5)
    _, metrics = loss_of(
        CriticModel(model=masked, network=tiny.Fake(function=noted_odds)), threes(200)
    )
    jax.tree.map(np.testing.assert_array_equal, *seen)
    dropped = 1 - np.asarray(seen[0].mask.any(1)).mean()
    assert dropped == pytest.approx(0.5, abs=0.1) == metrics["text_dropped"]


def test_in_sampling_it_replaces_the_confidence():
    """The masked model is surest of its first, wrong token; the critic has it drawn again."""

    def improves(params, tokens, text, valid):
        blank = jnp.all(tokens == CODES, axis=(1, 2, 3), keepdims=True)
        at = jnp.zeros(tokens.shape, bool).at[:, 0, 0, 0].set(True)
        sure = jnp.where(at, 6.0, 5.0)[..., None]
        return sure * jax.nn.one_hot(jnp.where(blank & at, 5, 3), CODES)

    spec = DecodingSpec(steps=4, temperature=0.0, sample_temperature=0.0)
    masked = tiny.model(improves, sampler=spec, guidance=GuidanceSpec(weight=0.0))
    judge = CriticModel(model=masked, network=tiny.Fake(function=odds_by_token([9.0] * 5 + [-9.0])))
    batch, known = tiny.cached(1), jnp.zeros((1, *GRID), bool)
    scores_fn = judge.scores_fn(None, batch.text, GRID)
    flat = jnp.array([[3] * 11 + [5]])
    np.testing.assert_allclose(
        scores_fn(flat, jnp.int32(0))[0, 10:], jax.nn.log_sigmoid(jnp.array([9.0, -9.0]))
    )
    keys = jax.random.split(jax.random.key(0), 1)
    alone, judged = (
        masked.sample_tokens(None, batch.text, batch.tokens, known, keys, scores_fn=function)
        for function in (None, scores_fn)
    )
    assert np.asarray(alone).ravel().tolist() == [5] + [3] * 11
    assert np.asarray(judged).ravel().tolist() == [3] * 12


def test_it_trains_like_any_model():
    masked = tiny.model(MaskGIT(**tiny.SIZES))
    model = CriticModel(model=masked, network=TokenCritic(**tiny.SIZES))
    assert isinstance(model, Model) and model.shape == tiny.SHAPE
    spec = model.batch_spec(2, *tiny.TEXT)
    params, frozen = (jax.eval_shape(one.init, jax.random.key(0), spec) for one in (model, masked))
    frozen = {"tokenizer": jnp.int32(0), "maskgit": frozen}

    def loss(params, frozen, batch):
        return model.loss(params, frozen, batch, jax.random.key(0), train=True)[0]

    gradient = jax.eval_shape(jax.grad(loss), params, frozen, spec)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


def test_codes_must_agree():
    with pytest.raises(ValueError, match="critic has 8 codes.* 6; .*network.codes"):
        CriticModel(model=tiny.model(), network=tiny.Fake(function=tiny.uniform, codes=8))
