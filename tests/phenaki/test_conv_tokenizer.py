"""The convolutional tokenizer: causality in both halves, sizes, streaming, number formats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vidgen.nn import axes
from vidgen.phenaki.conv_tokenizer import Block, CausalConv3D

# 2 levels, 2 x 4 x 4 pixels to a latent.
TINY = CausalConv3D(widths=(8, 12), space=(2,), time=(2,), blocks=1, pixel_patch=2)
# 3 levels, 4 x 4 x 4: two strides in time, which have to agree about where steps begin.
DEEP = CausalConv3D(widths=(4, 6, 8), space=(2, 2), time=(2, 2), blocks=1, kernel="factorized")
KINDS = {"full": TINY, "factorized": DEEP}
PREFIXES = {TINY: (1, 2), DEEP: (1,)}  # each is compiled
each_kind = pytest.mark.parametrize("module", KINDS.values(), ids=KINDS)


def normal(seed, *shape):
    """Made by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def clip(module, steps, seed=0, batch=2):
    return normal(seed, batch, module.frames_of(steps), 8, 8, 3)


@functools.cache
def boxed(module):
    return jax.eval_shape(module.init, jax.random.key(0), clip(module, 2))


@functools.cache
def random_params(module):
    """No zeros anywhere, so that no branch is silent; kernels of about unit gain."""

    def fill(path, leaf):
        x = normal(sum(map(ord, str(path))), *leaf.shape)
        if path[-1].key == "kernel":
            return x / np.sqrt(np.prod(leaf.shape[:-1]))
        return 0.2 * x + (path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(fill, nn.meta.unbox(boxed(module)))


@functools.cache
def program(module, method):
    return jax.jit(functools.partial(module.apply, method=method))


def run(module, method, *args):
    return program(module, method)(random_params(module), *args)


def tokens(latents):
    """Which of the latents are positive."""
    powers = 2 ** np.arange(latents.shape[-1])
    return np.sum((np.asarray(latents) > 0) * powers, axis=-1)


def latents_like(module, steps, seed=3):
    return normal(seed, 2, *module.grid(module.frames_of(steps), 8, 8), module.features)


# ---- causality -----------------------------------------------------------------------------------


@each_kind
def test_later_frames_never_change_earlier_latents(module):
    video, s = clip(module, 3), module.strides[0]
    before = run(module, "encode", video)
    for step in range(3):
        after = run(module, "encode", video.at[:, step * s + 1 :].multiply(-2.0))
        np.testing.assert_array_equal(after[:, : step + 1], before[:, : step + 1])
    # Each frame is seen: the first of a step as well as its last.
    for frame in range(video.shape[1]):
        after = run(module, "encode", video.at[:, frame].multiply(-2.0))
        step = -(-frame // s)
        assert np.abs(after - before)[:, step].max() > 1e-3


@each_kind
def test_later_latents_never_change_earlier_frames(module):
    latents, s = latents_like(module, 3), module.strides[0]
    before = run(module, "decode", latents)
    for step in range(1, 3):
        after = run(module, "decode", latents.at[:, step:].multiply(-2.0))
        frames = 1 + (step - 1) * s
        np.testing.assert_array_equal(after[:, :frames], before[:, :frames])
        assert (np.abs(after - before)[:, frames:].max((0, 2, 3, 4)) > 1e-3).all()


@each_kind
def test_prefix_of_a_clip_has_the_prefix_of_its_latents(module):
    video = clip(module, 3)
    whole = run(module, "encode", video)
    for steps in PREFIXES[module]:
        part = run(module, "encode", video[:, : module.frames_of(steps)])
        np.testing.assert_allclose(part, whole[:, :steps], atol=2e-5)
        # So an image is encoded as the first frame of any clip, to the same tokens.
        np.testing.assert_array_equal(tokens(part), tokens(whole[:, :steps]))


@each_kind
def test_prefix_of_the_latents_has_the_prefix_of_the_frames(module):
    latents = latents_like(module, 3)
    whole = run(module, "decode", latents)
    for steps in PREFIXES[module]:
        part = run(module, "decode", latents[:, :steps])
        assert part.shape[1] == module.frames_of(steps)
        np.testing.assert_allclose(part, whole[:, : part.shape[1]], atol=2e-5)


@pytest.mark.parametrize("module, chunks", [(TINY, (1, 1, 1)), (DEEP, (2, 1))])
def test_chunks_equal_the_whole_clip(module, chunks):
    video, s = clip(module, 3), module.strides[0]
    latents = run(module, "encode", video)
    decoded = run(module, "decode", latents)
    read = write = None
    codes, frames, kept, start, first = [], [], [], 0, 0
    for steps in chunks:
        end = start + steps * s - (s - 1 if read is None else 0)
        code, read = run(module, "encode_chunk", video[:, start:end], read)
        chunk, write = run(module, "decode_chunk", latents[:, first : first + steps], write)
        start, first = end, first + steps
        codes.append(code)
        frames.append(chunk)
        kept.append(jax.tree.map(jnp.shape, (read, write)))
    np.testing.assert_allclose(jnp.concatenate(codes, 1), latents, atol=2e-5)
    np.testing.assert_allclose(jnp.concatenate(frames, 1), decoded, atol=2e-5)
    assert all(shapes == kept[0] for shapes in kept)  # what a stream keeps does not grow


def test_examples_do_not_mix():
    video = clip(TINY, 2)
    before = run(TINY, "__call__", video)
    after = run(TINY, "__call__", video.at[1].multiply(-2.0))
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3


# ---- sizes ---------------------------------------------------------------------------------------


def test_magvit_grid():
    module = CausalConv3D()
    assert module.strides == (4, 8, 8)
    assert module.grid(17, 128, 128) == (5, 16, 16)
    assert module.grid(1, 128, 96) == (1, 16, 12)
    assert module.features == 512


def test_grid_of_phenaki():
    """The strides that make a drop-in replacement of C-ViViT: test_vectors section 11."""
    module = CausalConv3D(time=(1, 1, 2))
    counts = {1: 256, 3: 512, 5: 768, 7: 1024, 11: 1536, 17: 2304, 21: 2816}
    for frames, tokens in counts.items():
        grid = module.grid(frames, 128, 128)
        assert np.prod(grid) == tokens and module.frames_of(grid[0]) == frames


@each_kind
def test_grid_tells_the_shape(module):
    for steps, height, width in ((1, 8, 8), (2, 16, 8)):
        video = jax.ShapeDtypeStruct((2, module.frames_of(steps), height, width, 3), jnp.float32)
        grid = module.grid(*video.shape[1:4])
        params = nn.meta.unbox(boxed(module))
        latents = jax.eval_shape(functools.partial(module.apply, method="encode"), params, video)
        assert latents.shape == (2, *grid, module.features)
        out = jax.eval_shape(module.apply, params, video)
        assert out.shape == video.shape and out.dtype == jnp.float32


@pytest.mark.parametrize(
    "size, message",
    [
        ((16, 128, 128), "frames .* 4; got 16.* 13 or 17"),
        ((3, 128, 128), "got 3.* 1 or 5"),
        ((0, 128, 128), "got 0.* 1\\."),
        ((5, 60, 128), "height .* 8; got 60.* 56 or 64"),
        ((5, 64, 3), "width .* 8; got 3.* 8\\."),
    ],
)
def test_grid_names_the_nearest_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        CausalConv3D().grid(*size)


def test_encode_checks_its_clip():
    with pytest.raises(ValueError, match="got 4, the nearest is 3 or 5"):
        jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 4, 8, 8, 3)))
    for frames in (0, 3):
        with pytest.raises(ValueError, match=f"multiple of 2; got {frames}"):
            run(TINY, "encode_chunk", jnp.zeros((2, frames, 8, 8, 3)), ())


# ---- network -------------------------------------------------------------------------------------


def test_latents_modulate_every_level_of_the_decoder():
    """With the way through the stem cut, the latents still reach the pixels: at their place."""
    params = jax.tree.map(lambda leaf: leaf, random_params(TINY))
    stem = params["params"]["decoder"]["stem"]
    params["params"]["decoder"]["stem"] = jax.tree.map(jnp.zeros_like, stem)
    for level in (0, 1):
        cut = jax.tree.map(lambda leaf: leaf, params)
        film = cut["params"]["decoder"][f"level{1 - level}_film"]
        film["film"] = jax.tree.map(jnp.zeros_like, film["film"])
        latents = latents_like(TINY, 3)
        before = program(TINY, "decode")(cut, latents)
        after = program(TINY, "decode")(cut, latents.at[:, 1].add(1.0))
        np.testing.assert_array_equal(after[:, :1], before[:, :1])
        assert np.abs(after - before)[:, 1:3].max() > 1e-3


@pytest.mark.parametrize("kernel", ["full", "factorized"])
def test_blocks_start_as_the_identity(kernel):
    x = normal(0, 1, 2, 4, 4, 6)
    (out, _), _ = jax.jit(Block(kernel).init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)


@functools.cache
def gradient(module):
    """Of the squared error of a reconstruction."""
    video = clip(module, 2)

    def loss(params):
        return jnp.mean((module.apply(params, video) - video) ** 2)

    return jax.jit(jax.grad(loss))(random_params(TINY))


def test_every_parameter_is_trained():
    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(TINY)):
        assert np.abs(grad).max() > 0, path


def test_every_axis_has_a_name():
    leaves = jax.tree.leaves(boxed(TINY), is_leaf=lambda x: isinstance(x, axes.Named))
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
        axes.check_names(leaf.names)


def test_remat_changes_nothing():
    same = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(same, gradient(TINY.clone(remat="full")), gradient(TINY))


def test_bfloat16():
    low, video = TINY.clone(dtype="bfloat16"), clip(TINY, 2)
    latents = run(TINY, "encode", video)
    rough = program(low, "encode")(random_params(TINY), video)
    assert rough.dtype == jnp.bfloat16
    error = rough.astype(jnp.float32) - latents
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(latents)
    assert program(low, "decode")(random_params(TINY), latents).dtype == jnp.float32
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(boxed(low))}
    assert dtypes == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(widths=()), "0 widths"),
        (dict(space=(2, 2)), "4 widths, 2 strides.* 3 in time"),
        (dict(time=(1, 2, 0)), "time is \\(1, 2, 0\\).*>= 1"),
        (dict(kernel="3x3"), "'3x3'.*full.*factorized"),
        (dict(norm="batch"), "'batch'.*group.*channel"),
        (dict(dtype="float16"), "'float16'"),
        (dict(blocks=-1), "blocks is -1"),
        (dict(pixel_patch=0), "pixel_patch is 0"),
    ],
)
def test_wrong_settings_say_so(changes, message):
    with pytest.raises(ValueError, match=message):
        CausalConv3D(**changes)


def test_lists_from_gin_are_taken():
    module = CausalConv3D(widths=[4, 8], space=[2], time=[1])
    assert module == CausalConv3D(widths=(4, 8), space=(2,), time=(1,))
    assert hash(module) is not None
