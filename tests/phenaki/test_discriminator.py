"""The discriminator: what a logit depends on, its sizes; the losses against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidgen.nn import axes
from vidgen.phenaki import discriminator
from vidgen.phenaki.discriminator import Discriminator, half
from vidgen.train.optimizers import SGD, LearningRate

CLIPS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 8, 3)), jnp.float32)


@functools.cache
def made(dims="2d", **settings):
    """A small one with its parameters, and its compiled call."""
    module = Discriminator(dims=dims, **{"width": 4, "max_width": 8} | settings)
    variables = jax.jit(module.init)(jax.random.key(1), CLIPS)
    return jax.jit(module.apply), variables


# ---- half size -----------------------------------------------------------------------------------


def test_half_of_a_ramp():
    """(1, 3, 3, 1) / 8 around each pair; the border goes on as it ends."""
    found = half(jnp.arange(6.0)[None], (1,))
    np.testing.assert_allclose(found, [[0.625, 2.5, 4.375]])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_half_keeps_a_constant_and_rounds_up(size):
    found = half(jnp.full((2, size, 4), 3.0), (1,))
    np.testing.assert_array_equal(found, np.full((2, max(1, -(-size // 2)), 4), 3.0))


def test_half_removes_the_finest_pattern():
    """It would alias to a constant if every second value was taken."""
    x = jnp.tile(jnp.array([1.0, -1.0]), 8)[None]
    np.testing.assert_allclose(half(x, (1,))[:, 1:-1], 0.0, atol=1e-7)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 9])
def test_half_and_its_slope_are_a_matrix_and_its_transpose(size):
    """Row i has (1, 3, 3, 1) / 8 at 2i - 1 ... 2i + 2; what lies outside counts at the border."""
    kept = -(-size // 2)
    matrix = np.zeros((kept, size), np.float32)
    for i in range(kept):
        for place, weight in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1), strict=True):
            matrix[i, np.clip(place, 0, size - 1)] += weight / 8
    found, pull = jax.vjp(lambda x: half(x, (1,)), jnp.eye(size)[None])
    np.testing.assert_allclose(found[0], matrix, atol=1e-7)
    np.testing.assert_allclose(pull(jnp.eye(kept, size)[None])[0][0], matrix.T @ np.eye(kept, size))


# ---- logits --------------------------------------------------------------------------------------


def test_2d_has_a_logit_for_each_frame_that_sees_no_other():
    apply, variables = made("2d")
    whole = apply(variables, CLIPS)
    assert whole.shape == (2, 3) and np.std(whole) > 0
    for i in range(3):
        np.testing.assert_allclose(apply(variables, CLIPS[:, i : i + 1])[:, 0], whole[:, i], 1e-5)


def test_3d_has_one_logit_that_sees_all_frames():
    apply, variables = made("3d")
    assert apply(variables, CLIPS).shape == (2, 1)
    slope = jax.grad(lambda x: jnp.sum(apply(variables, x)))(CLIPS)
    assert np.all(np.any(np.asarray(slope) != 0, axis=(2, 3, 4)))
    backwards = apply(variables, CLIPS[:, ::-1])
    assert np.all(np.abs(backwards - apply(variables, CLIPS)) > 1e-4)


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_examples_do_not_see_each_other(dims):
    apply, variables = made(dims)
    both = apply(variables, CLIPS)
    np.testing.assert_allclose(apply(variables, CLIPS[:1]), both[:1], rtol=1e-5)


@pytest.mark.parametrize("dims, frames", [("2d", 1), ("2d", 5), ("3d", 1), ("3d", 6)])
def test_parameters_fit_any_number_of_frames(dims, frames):
    apply, variables = made(dims)
    clips = jnp.ones((2, frames, 8, 8, 3))
    assert apply(variables, clips).shape == (2, frames if dims == "2d" else 1)


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_r1_can_be_trained_on(dims):
    apply, variables = made(dims)

    @jax.jit
    def slope(variables):
        def penalty(v):
            return jnp.sum(discriminator.r1_penalty(lambda x: apply(v, x), CLIPS))

        return jax.grad(penalty)(variables)

    for path, leaf in jax.tree_util.tree_leaves_with_path(slope(variables)):
        assert np.isfinite(leaf).all()
        # It is linear between the kinks of its activations: a bias moves those alone.
        assert np.any(np.asarray(leaf) != 0) == ("kernel" in jax.tree_util.keystr(path)), path


def test_half_precision_keeps_float32_parameters_and_logits():
    apply, variables = made(dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = apply(variables, CLIPS)
    assert logits.dtype == jnp.float32
    exact, same = made()
    np.testing.assert_allclose(logits, exact(same, CLIPS), atol=0.1)


# ---- sizes ---------------------------------------------------------------------------------------


def test_channels_of_the_published_size():
    """StyleGAN with channel multiplier 1 at 128 pixels: 128, 256, then 512 down to 4x4."""
    video = jax.ShapeDtypeStruct((1, 1, 128, 128, 3), jnp.float32)
    found = jax.eval_shape(Discriminator().init, jax.random.key(0), video)
    params = jax.tree.map(lambda x: x.value, found, is_leaf=lambda x: isinstance(x, axes.Named))
    kernels = {name: x["kernel"].shape for name, x in params["params"].items()}
    widths = [kernels[f"level{i}_conv2"][-1] for i in range(5)]
    assert widths == [256, 512, 512, 512, 512] and "level5_conv2" not in kernels
    assert kernels["pixels"] == (3, 128) and kernels["hidden"] == (4 * 4 * 512, 512)


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_every_axis_has_a_name(dims):
    boxed = jax.eval_shape(Discriminator(dims=dims, width=4).init, jax.random.key(0), CLIPS)
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, axes.Named))
    assert all(isinstance(x, axes.Named) and len(x.names) == x.value.ndim for x in leaves)
    assert all(name in (None, *axes.PARAMETER_AXES) for x in leaves for name in x.names)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"dims": "4d"}, "3d"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"width": 600}, "max_width"),
        ({"frames_per_clip": 0}, "frames_per_clip is 0"),
        ({"frames_per_clip": 1, "dims": "3d"}, "3d"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Discriminator(**settings)


# ---- the losses of the game ----------------------------------------------------------------------


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_undecided_logits():
    zeros = jnp.zeros((2, 3))
    np.testing.assert_allclose(discriminator.generator_loss(zeros), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(discriminator.discriminator_loss(zeros, zeros), 2 * np.log(2))


def test_losses_of_sure_logits_are_linear_and_finite():
    real, fake = jnp.array([[-200.0], [200.0]]), jnp.array([[200.0], [-200.0]])
    np.testing.assert_allclose(discriminator.discriminator_loss(real, fake), [400.0, 0.0])
    np.testing.assert_allclose(discriminator.generator_loss(fake), [0.0, 200.0])


def test_the_generator_keeps_its_gradient_where_it_loses():
    """Non-saturating: at logit -10 the slope is -1, not -e^-10."""
    slope = jax.grad(lambda x: discriminator.generator_loss(x)[0])(jnp.array([[-10.0]]))
    np.testing.assert_allclose(slope, -1.0, rtol=1e-4)


def test_r1_of_a_linear_discriminator_is_half_its_square():
    weight, clips = normal(0, 2, 3, 3, 1), normal(1, 5, 2, 3, 3, 1)

    def logits_of(video):
        return jnp.einsum("bthwc,thwc->b", video, weight)[:, None]

    found = discriminator.r1_penalty(logits_of, clips)
    np.testing.assert_allclose(found, np.full(5, 0.5 * np.sum(weight**2)), rtol=1e-5)


def test_r1_of_a_logit_a_frame_is_the_mean_over_frames():
    clips = normal(1, 2, 3, 4, 4, 1)

    def logits_of(video):
        return 0.5 * jnp.sum(video**2, axis=(2, 3, 4))

    expected = jnp.mean(0.5 * jnp.sum(clips**2, axis=(2, 3, 4)), axis=1)
    np.testing.assert_allclose(discriminator.r1_penalty(logits_of, clips), expected, rtol=1e-5)


def test_r1_has_a_gradient_for_the_discriminator():
    """d/dw of (w a)²/2 is w a²: the derivative of a derivative."""

    def penalty(w):
        def logits_of(video):
            return w * 3.0 * jnp.sum(video, axis=(1, 2, 3, 4))[:, None]

        return discriminator.r1_penalty(logits_of, jnp.ones((1, 1, 1, 1, 1)))[0]

    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(2.0), 2.0 * 9.0, rtol=1e-6)


@pytest.mark.parametrize("real, fake, expected", [(2.0, -2.0, 6.25 + 12.25), (-1.0, 3.0, 0.0)])
def test_lecam(real, fake, expected):
    anchors = {"real": jnp.float32(1.5), "fake": jnp.float32(-0.5)}
    found = discriminator.lecam_penalty(jnp.array([[real]]), jnp.array([[fake]]), anchors)
    np.testing.assert_allclose(found, [expected])


def test_lecam_does_not_move_the_averages():
    anchors = {"real": jnp.float32(1.5), "fake": jnp.float32(-0.5)}
    logits = jnp.array([[2.0]]), jnp.array([[-2.0]])
    slope = jax.grad(lambda a: discriminator.lecam_penalty(*logits, a)[0])(anchors)
    assert slope == {"real": 0.0, "fake": 0.0}


def test_anchors_under_gradient_descent_are_moving_averages():
    decay, real, fake = 0.9, normal(0, 30, 4, 2), normal(1, 30, 4, 2) - 3.0
    tx = SGD(learning_rate=LearningRate(peak=1 - decay)).build()
    anchors = {"real": jnp.float32(0.0), "fake": jnp.float32(0.0)}
    state, expected = tx.init(anchors), np.zeros(2)
    for r, f in zip(real, fake, strict=True):
        grads = jax.grad(lambda a, r=r, f=f: discriminator.anchor_loss(r, f, a))(anchors)
        updates, state = tx.update(grads, state, anchors)
        anchors = optax.apply_updates(anchors, updates)
        expected = decay * expected + (1 - decay) * np.array([np.mean(r), np.mean(f)])
    np.testing.assert_allclose([anchors["real"], anchors["fake"]], expected, rtol=1e-5)


def test_anchors_have_no_gradient_for_the_logits():
    anchors = {"real": jnp.float32(0.0), "fake": jnp.float32(0.0)}
    slope = jax.grad(discriminator.anchor_loss)(jnp.ones((2, 2)), jnp.ones((2, 2)), anchors)
    assert not np.any(slope)
