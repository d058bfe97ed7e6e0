"""C-ViViT: what must not flow back in time, token counts, sizes, streams, published parameters.

Tests of vidgen/phenaki/autoencoder.py too.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vidgen.phenaki.cvivit import CViViT, from_patches, to_patches

PATCH = (2, 4, 4)


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(**changes):
    layers = {"spatial_layers": 1, "temporal_layers": 2}
    return CViViT(**{"patch": PATCH, "width": 8, "mlp": 12, "heads": 2} | layers | changes)


def shapes(module, frames=3, size=8):
    video = jnp.zeros((1, frames, size, size, 3))
    return nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), video))


def random_params(module):
    """Parameters without zeros, so that no branch is silent."""
    leaves, tree = jax.tree.flatten(shapes(module))
    return tree.unflatten([0.4 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@functools.partial(jax.jit, static_argnames=("module", "method"))
def run(module, params, *args, method):
    return module.apply(params, *args, method=method)


@pytest.fixture(scope="module")
def params():
    return random_params(network())


@pytest.fixture(scope="module")
def video():
    """Two clips of seven frames, not square."""
    return normal(0, 2, 7, 8, 12, 3)


@pytest.fixture(scope="module")
def latents(params, video):
    return run(network(), params, video, method="encode")


@pytest.fixture(scope="module")
def decoded(params, latents):
    return run(network(), params, latents, method="decode")


# ---- nothing flows back in time ------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_later_frames_never_change_earlier_latents(params, video, latents, steps):
    frames = network().frames_of(steps)
    changed = video.at[:, frames:].set(1 - 3 * video[:, frames:])
    found = run(network(), params, changed, method="encode")
    np.testing.assert_array_equal(found[:, :steps], latents[:, :steps])
    assert np.abs(found - latents)[:, steps:].max(-1).min() > 1e-4  # all later ones do change


def test_earlier_frames_do_change_later_latents(params, video, latents):
    found = run(network(), params, video.at[:, 0].mul(-1), method="encode")
    assert np.abs(found - latents).max((0, 2, 3, 4)).min() > 1e-4


@pytest.mark.parametrize("steps", [1, 2])
def test_latents_of_a_prefix_are_the_prefix_of_the_latents(params, video, latents, steps):
    found = run(network(), params, video[:, : network().frames_of(steps)], method="encode")
    np.testing.assert_allclose(found, latents[:, :steps], atol=1e-5)
    # Arithmetic of another shape may round otherwise, but far from where a token would change.
    codes = np.asarray(normal(9, 64, 8))
    tokens = [np.argmax(np.asarray(x) @ codes.T, -1) for x in (found, latents[:, :steps])]
    np.testing.assert_array_equal(*tokens)


@pytest.mark.parametrize("steps", [1, 3])
def test_later_latents_never_change_earlier_frames(params, latents, decoded, steps):
    changed = latents.at[:, steps:].set(1 - 3 * latents[:, steps:])
    found = run(network(), params, changed, method="decode")
    frames = network().frames_of(steps)
    np.testing.assert_array_equal(found[:, :frames], decoded[:, :frames])
    assert np.abs(found - decoded)[:, frames:].max((0, 2, 3, 4)).min() > 1e-4


def test_a_prefix_of_the_latents_gives_the_prefix_of_the_clip(params, latents, decoded):
    found = run(network(), params, latents[:, :1], method="decode")
    np.testing.assert_allclose(found, decoded[:, :1], atol=1e-5)


def test_window_bounds_what_is_seen_of_the_past(params, video):
    # Two layers that see one step back: step 3 knows steps 1 ... 3, so frames 1 ... 6.
    module = network(window=1)
    found = run(module, params, video, method="encode")
    changed = run(module, params, video.at[:, 0].mul(-1), method="encode")
    np.testing.assert_array_equal(found[:, 3], changed[:, 3])
    assert np.abs(found - changed)[:, 2].max() > 1e-4


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames, tokens", [(1, 256), (3, 512), (5, 768), (7, 1024), (11, 1536), (17, 2304), (21, 2816)]
)
def test_token_counts(frames, tokens):
    grid = CViViT().grid(frames, 128, 128)
    assert grid[1:] == (16, 16) and math.prod(grid) == tokens
    assert CViViT().frames_of(grid[0]) == frames


def test_token_count_of_small_patches():
    assert CViViT(patch=(2, 4, 4)).grid(17, 64, 64) == (9, 16, 16)


def test_two_fifths_fewer_tokens_than_per_frame():
    per_frame = CViViT(patch=(1, 8, 8), temporal_layers=0).grid(10, 128, 128)
    assert math.prod(per_frame) == 2560
    assert math.prod(CViViT().grid(11, 128, 128)) / 2560 == 0.6


@pytest.mark.parametrize(
    "size, message",
    [
        ((12, 64, 64), "got 12.* 11 or 13"),
        ((0, 64, 64), r"got 0.* 1\."),
        ((3, 60, 64), "height .* 8; got 60.* 56 or 64"),
        ((3, 64, 4), r"width .* 8; got 4.* 8\."),
    ],
)
def test_sizes_that_do_not_fit(size, message):
    with pytest.raises(ValueError, match=message):
        CViViT().grid(*size)


def test_encode_checks_the_size(params):
    with pytest.raises(ValueError, match="got 4, the nearest is 3 or 5"):
        network().apply(params, jnp.zeros((1, 4, 8, 8, 3)), method="encode")


def test_shapes(latents, decoded, video):
    assert latents.shape == (2, 4, 2, 3, network().features)
    assert decoded.shape == video.shape


def test_patches_and_back():
    x = normal(0, 2, 4, 6, 8, 3)
    patches = to_patches(x, (2, 3, 4))
    assert patches.shape == (2, 2, 2, 2, 72)
    block = x[1, 2:4, 3:6, 4:8].reshape(-1)
    np.testing.assert_array_equal(patches[1, 1, 1, 1], block)
    np.testing.assert_array_equal(from_patches(patches, (2, 3, 4)), x)


def test_published_size():
    tree = shapes(CViViT(), frames=3, size=16)["params"]
    sizes = {half: sum(x.size for x in jax.tree.leaves(tree[half])) for half in tree}
    assert sizes == {
        "encoder": pytest.approx(25.5e6, rel=0.02),
        "decoder": pytest.approx(25.5e6, rel=0.02),
    }


def test_parameters_are_the_same_for_an_image():
    assert shapes(network(), frames=1) == shapes(network(), frames=5, size=16)


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, chunks", [(None, (1, 4, 2)), (1, (3, 2, 2))])
def test_chunks_equal_the_whole(params, video, chunks, window):
    module = network(window=window)
    whole = run(module, params, video, method="encode")
    frames = run(module, params, whole, method="decode")
    encoder = decoder = None
    latents, out, done = [], [], 0
    for count in chunks:
        chunk = video[:, done : done + count]
        found, encoder = run(module, params, chunk, encoder, method="encode_chunk")
        part, decoder = run(module, params, found, decoder, method="decode_chunk")
        latents, out, done = [*latents, found], [*out, part], done + count
        if window is not None:
            assert encoder.positions <= window and decoder.positions <= window
    np.testing.assert_allclose(np.concatenate(latents, 1), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(out, 1), frames, atol=1e-5)


def test_later_chunks_have_whole_patches(params, video):
    apply = functools.partial(network().apply, params, method="encode_chunk")
    _, state = jax.eval_shape(apply, video[:, :1])
    with pytest.raises(ValueError, match="multiple of 2; got 3, the nearest is 2 or 4"):
        jax.eval_shape(apply, video[:, :3], state)


# ---- convolutions at full resolution -------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth():
    """A network with them, and its parameters."""
    module = network(pixel_width=4, pixel_blocks=2)
    return module, random_params(module)


def test_without_them_the_parameters_are_the_paper_s():
    names = str(jax.tree.structure(shapes(network())))
    assert "pixels" not in names and "stem" not in names


def test_chunks_through_convolutions_equal_the_whole(smooth, video):
    module, params = smooth
    whole = run(module, params, video[:, :3], method="encode")
    frames = run(module, params, whole, method="decode")
    first, state = run(module, params, video[:, :1], None, method="encode_chunk")
    later, _ = run(module, params, video[:, 1:3], state, method="encode_chunk")
    np.testing.assert_allclose(np.concatenate([first, later], 1), whole, atol=1e-4)
    one, state = run(module, params, first, None, method="decode_chunk")
    two, _ = run(module, params, later, state, method="decode_chunk")
    np.testing.assert_allclose(np.concatenate([one, two], 1), frames, atol=1e-3)


def test_convolutions_cross_the_borders_of_patches(smooth):
    # Without a transformer each patch of the plain network stands alone.
    layers = {"spatial_layers": 0, "temporal_layers": 0}
    still = jnp.zeros((1, 1, 8, 8, 3))
    changed = still.at[:, :, 3, 3].set(1.0)  # the corner pixel of the first patch

    def reach(module):
        params = random_params(module)
        out = [run(module, params, x, method="__call__") for x in (still, changed)]
        return np.abs(out[1] - out[0])[0, 0, 4:, 4:].max()

    assert reach(network(**layers)) == 0
    assert reach(network(**layers, pixel_width=4)) > 1e-3


# ---- the per-frame tokenizer ---------------------------------------------------------------------


def test_per_frame_tokenizer(video):
    module = network(patch=(1, 4, 4), temporal_layers=0)
    params = random_params(module)
    whole = run(module, params, video[:, :4], method="__call__")
    assert whole.shape == video[:, :4].shape
    shuffled = jnp.array([2, 0, 3, 1])
    found = run(module, params, video[:, shuffled], method="__call__")
    np.testing.assert_array_equal(found, whole[:, shuffled])
    chunk, state = run(module, params, video[:, :1], None, method="encode_chunk")
    run(module, params, chunk, state, method="decode_chunk")


# ---- how it is run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def value_and_grad(params):
    video = normal(0, 1, 3, 8, 8, 3)

    @functools.cache
    def of(remat, unroll):
        module = network(remat=remat, unroll=unroll)

        def loss(params):
            out = module.apply(params, video)
            return jnp.sum(out**2 * jnp.sin(jnp.arange(out.size).reshape(out.shape)))

        return jax.jit(jax.value_and_grad(loss))(params)

    return of


@pytest.mark.parametrize("remat, unroll", [("full", False), ("none", True), ("full", True)])
def test_remat_and_unroll_change_nothing(value_and_grad, remat, unroll):
    plain, found = value_and_grad("none", False), value_and_grad(remat, unroll)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, found)


def test_every_parameter_learns(value_and_grad):
    _, grads = value_and_grad("none", False)
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) > 0


def test_bfloat16(params, video, decoded):
    module = network(dtype="bfloat16")
    latents = run(module, params, video, method="encode")
    out = run(module, params, latents, method="decode")
    assert latents.dtype == jnp.bfloat16 and out.dtype == jnp.float32
    assert np.sqrt(np.mean((out - decoded) ** 2) / np.mean(decoded**2)) < 0.05
    _, state = run(module, params, video[:, :1], None, method="encode_chunk")
    assert state.k.dtype == jnp.bfloat16


def test_wrong_dtype_says_so():
    with pytest.raises(ValueError, match="'float16'; choose one of"):
        shapes(network(dtype="float16"))
