"""The losses of the game against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidgen.phenaki import adversarial
from vidgen.train.optimizers import SGD, LearningRate


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_undecided_logits():
    zeros = jnp.zeros((2, 3))
    np.testing.assert_allclose(adversarial.generator_loss(zeros), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(adversarial.discriminator_loss(zeros, zeros), 2 * np.log(2))


def test_losses_of_sure_logits_are_linear_and_finite():
    real, fake = jnp.array([[-200.0], [200.0]]), jnp.array([[200.0], [-200.0]])
    np.testing.assert_allclose(adversarial.discriminator_loss(real, fake), [400.0, 0.0])
    np.testing.assert_allclose(adversarial.generator_loss(fake), [0.0, 200.0])


def test_the_generator_keeps_its_gradient_where_it_loses():
    """Non-saturating: at logit -10 the slope is -1, not -e^-10."""
    slope = jax.grad(lambda x: adversarial.generator_loss(x)[0])(jnp.array([[-10.0]]))
    np.testing.assert_allclose(slope, -1.0, rtol=1e-4)


def test_r1_of_a_linear_discriminator_is_half_its_square():
    weight, clips = normal(0, 2, 3, 3, 1), normal(1, 5, 2, 3, 3, 1)

    def logits_of(video):
        return jnp.einsum("bthwc,thwc->b", video, weight)[:, None]

    found = adversarial.r1_penalty(logits_of, clips)
    np.testing.assert_allclose(found, np.full(5, 0.5 * np.sum(weight**2)), rtol=1e-5)


def test_r1_of_a_logit_a_frame_is_the_mean_over_frames():
    clips = normal(1, 2, 3, 4, 4, 1)

    def logits_of(video):
        return 0.5 * jnp.sum(video**2, axis=(2, 3, 4))

    expected = jnp.mean(0.5 * jnp.sum(clips**2, axis=(2, 3, 4)), axis=1)
    np.testing.assert_allclose(adversarial.r1_penalty(logits_of, clips), expected, rtol=1e-5)


def test_r1_has_a_gradient_for_the_discriminator():
    """d/dw of (w a)²/2 is w a²: the derivative of a derivative."""

    def penalty(w):
        def logits_of(video):
            return w * 3.0 * jnp.sum(video, axis=(1, 2, 3, 4))[:, None]

        return adversarial.r1_penalty(logits_of, jnp.ones((1, 1, 1, 1, 1)))[0]

    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(2.0), 2.0 * 9.0, rtol=1e-6)


@pytest.mark.parametrize("real, fake, expected", [(2.0, -2.0, 6.25 + 12.25), (-1.0, 3.0, 0.0)])
def test_lecam(real, fake, expected):
    anchors = {"real": jnp.float32(1.5), "fake": jnp.float32(-0.5)}
    found = adversarial.lecam_penalty(jnp.array([[real]]), jnp.array([[fake]]), anchors)
    np.testing.assert_allclose(found, [expected])


def test_lecam_does_not_move_the_averages():
    anchors = {"real": jnp.float32(1.5), "fake": jnp.float32(-0.5)}
    logits = jnp.array([[2.0]]), jnp.array([[-2.0]])
    slope = jax.grad(lambda a: adversarial.lecam_penalty(*logits, a)[0])(anchors)
    assert slope == {"real": 0.0, "fake": 0.0}


def test_anchors_under_gradient_descent_are_moving_averages():
    decay, real, fake = 0.9, normal(0, 30, 4, 2), normal(1, 30, 4, 2) - 3.0
    tx = SGD(learning_rate=LearningRate(peak=1 - decay)).build()
    anchors = {"real": jnp.float32(0.0), "fake": jnp.float32(0.0)}
    state, expected = tx.init(anchors), np.zeros(2)
    for r, f in zip(real, fake, strict=True):
        grads = jax.grad(lambda a, r=r, f=f: adversarial.anchor_loss(r, f, a))(anchors)
        updates, state = tx.update(grads, state, anchors)
        anchors = optax.apply_updates(anchors, updates)
        expected = decay * expected + (1 - decay) * np.array([np.mean(r), np.mean(f)])
    np.testing.assert_allclose([anchors["real"], anchors["fake"]], expected, rtol=1e-5)


def test_anchors_have_no_gradient_for_the_logits():
    anchors = {"real": jnp.float32(0.0), "fake": jnp.float32(0.0)}
    slope = jax.grad(adversarial.anchor_loss)(jnp.ones((2, 2)), jnp.ones((2, 2)), anchors)
    assert not np.any(slope)
