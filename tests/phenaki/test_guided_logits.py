"""Guidance of a masked transformer: away from a prompt, and over a part of the decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_fakes as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.types import TextEmbedding, TextMix, null_text

CODES, GRID = tiny.CODES, tiny.GRID
FLAT = jnp.zeros((2, int(np.prod(GRID))), jnp.int32)


def spoken(params, tokens, text, valid):
    """Logits that are a number of the text; 0 where it has no token."""
    number = jnp.sum(jnp.where(text.mask[..., None], text.tokens, 0), (1, 2))
    ramp = jnp.arange(CODES) / CODES
    return number[:, None, None, None, None] * ramp + 0 * tokens[..., None].astype(jnp.float32)


def prompts(value, count=2):
    """`count` prompts of one token that sums to `value`; None has no token."""
    tokens = jnp.full((count, 1, 1), 0.0 if value is None else value)
    return TextEmbedding(tokens=tokens, mask=jnp.full((count, 1), value is not None))


def number(text, step=0, negative=None, steps=4, **guidance):
    """What the guided logits say, as the number that a text of its own would give them."""
    spec = GuidanceSpec(**{"weight": 2.0} | guidance)
    model = tiny.model(spoken, guidance=spec, sampler=DecodingSpec(steps=steps))
    fn = jax.jit(model.logits_fn(None, text, GRID, negative=negative))
    logits = np.asarray(fn(FLAT, jnp.int32(step)))
    np.testing.assert_allclose(logits[..., 0], 0, atol=1e-6)
    return logits[:, 0, -1] * CODES / (CODES - 1)


def test_a_negative_prompt_stands_where_no_text_was():
    """(1 + w) a - w b: 3 a without, 3 a - 2 b with."""
    a, b = prompts(1.5), prompts(0.25)
    np.testing.assert_allclose(number(a), 4.5, rtol=1e-5)
    np.testing.assert_allclose(number(a, negative=b), 4.0, rtol=1e-5)
    np.testing.assert_allclose(number(a, negative=null_text(a)), 4.5, rtol=1e-5)


def test_without_a_prompt_there_is_only_what_to_get_away_from():
    nothing, b = prompts(None), prompts(0.25)
    np.testing.assert_allclose(number(nothing, negative=b), -0.5, rtol=1e-5)
    np.testing.assert_array_equal(number(nothing), 0)


def test_both_prompts_of_a_transition_are_guided_away():
    a, c, b = prompts(1.0), prompts(2.0), prompts(0.5)
    mix = TextMix(first=a, second=c, weight=jnp.array([0.0, 0.25]))
    expected = [3 * 1 - 1, 0.75 * (3 * 1 - 1) + 0.25 * (3 * 2 - 1)]
    np.testing.assert_allclose(number(mix, negative=b), expected, rtol=1e-5)


def test_an_interval_of_the_steps():
    """Of 4 steps 1, 3/4, 1/2 and 1/4 are still to be made."""
    found = [number(prompts(1.0), step, interval=(0.25, 0.75))[0] for step in range(4)]
    np.testing.assert_allclose(found, [1, 3, 3, 1], rtol=1e-5)
    model = tiny.model(
        sampler=DecodingSpec(steps=4), guidance=GuidanceSpec(weight=1.0, interval=(0.25, 0.75))
    )
    assert model.evaluations == 6


def test_outside_of_the_interval_the_logits_are_those_without_guidance_bit_for_bit():
    """And one evaluation is made of them."""
    batch, seen = tiny.cached(2), []

    def function(params, tokens, text, valid):
        jax.debug.callback(lambda n: seen.append(n), len(tokens))
        return spoken(params, tokens, text, valid) + jnp.sin(tokens[..., None])

    def logits(step, **spec):
        model = tiny.model(
            function, sampler=DecodingSpec(steps=2), guidance=GuidanceSpec(weight=2.0, **spec)
        )
        fn = jax.jit(model.logits_fn(None, batch.text, GRID))
        made = fn(batch.tokens.reshape(2, -1), jnp.int32(step))
        jax.effects_barrier()
        return np.asarray(made)

    plain = tiny.model(function, guidance=GuidanceSpec(weight=0.0))
    alone = jax.jit(plain.logits_fn(None, batch.text, GRID))(
        batch.tokens.reshape(2, -1), jnp.int32(0)
    )
    jax.effects_barrier()
    seen.clear()
    np.testing.assert_array_equal(logits(0, interval=(0.0, 0.5)), alone)
    np.testing.assert_array_equal(logits(1, interval=(0.0, 0.5)), logits(1))
    assert seen == [2, 4, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rescale": 0.7}, "--guidance_rescale: maskgit"),
        ({"parallel": 0.0}, "--guidance_parallel: maskgit"),
        ({"norm": 0.1}, "--guidance_norm: maskgit"),
        ({"momentum": -0.5}, "--guidance_momentum: maskgit"),
        ({"interval": (0.2, 1.6)}, "--guidance_interval: maskgit .*not 1.6"),
    ],
)
def test_what_is_of_videos_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny.model(guidance=GuidanceSpec(weight=1.0, **settings))
