"""A small masked model learns two kinds of clips by their prompts, and samples them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import token_fakes as tiny

from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.maskgit import MaskGIT
from vidgen.train.partitioning import unbox
from vidgen.types import TextEmbedding, TokenBatch

STEPS, BATCH = 250, 32


def text_of(kind):
    """A one-token prompt, which says 0 or 1."""
    tokens = jnp.broadcast_to(2.0 * kind[:, None, None] - 1, (len(kind), *tiny.TEXT))
    sign = jnp.where(jnp.arange(tiny.TEXT[1]) % 2, tokens, -tokens)  # survives a LayerNorm
    mask = jnp.broadcast_to(jnp.arange(tiny.TEXT[0]) == 0, (len(kind), tiny.TEXT[0]))
    return TextEmbedding(tokens=sign, mask=mask)


def batch(key):
    """Clips of one code: 0 or 1 where the prompt says 0, 2 or 3 where it says 1."""
    kind, either = jax.random.bernoulli(key, 0.5, (2, BATCH)).astype(jnp.int32)
    tokens = jnp.broadcast_to((2 * kind + either)[:, None, None, None], (BATCH, *tiny.GRID))
    nothing = jnp.zeros(BATCH, bool)
    return TokenBatch(tokens=tokens, text=text_of(kind), independent_frames=nothing)


@pytest.mark.learning
def test_prompts_are_followed_and_clips_agree_with_themselves():
    model = tiny.model(
        MaskGIT(**tiny.SIZES | {"width": 32, "mlp": 32}),
        sampler=DecodingSpec(steps=6, temperature=1.0),
        guidance=GuidanceSpec(weight=1.0),
    )
    optimizer = optax.adam(5e-3)

    @jax.jit
    def train(key):
        def step(carry, key):
            params, state = carry
            data_key, loss_key = jax.random.split(key)

            def loss(params):
                return model.loss(params, None, batch(data_key), loss_key, train=True)[0]

            value, gradient = jax.value_and_grad(loss)(params)
            update, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, update), state), value

        params = unbox(model.init(key, batch(key)))
        start = (params, optimizer.init(params))
        (params, _), losses = jax.lax.scan(step, start, jax.random.split(key, STEPS))
        return params, losses

    params, losses = train(jax.random.key(0))
    assert losses[0] == pytest.approx(np.log(tiny.CODES), abs=0.3)
    # Only where everything is masked is there something that cannot be known, one bit of it.
    assert losses[-50:].mean() < 0.3

    kind = jnp.arange(32) % 2
    tokens = jnp.zeros((32, *tiny.GRID), jnp.int32)
    keys = jax.random.split(jax.random.key(1), 32)
    found = model.sample_tokens(params, text_of(kind), tokens, tokens > 0, keys)
    found = np.asarray(found).reshape(32, -1)
    follows = found // 2 == np.asarray(kind)[:, None]
    assert follows.mean() > 0.97
    agrees = (found == np.median(found, axis=1, keepdims=True)).mean()
    assert agrees > 0.9
    assert len(set(found[:, 0].tolist())) == 4  # all four clips, not one of each kind
