"""What may and what may not change the output of the video U-Net, at random parameters."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet as tiny
from flax import linen as nn

from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.unet import VideoUNet
from vidgen.types import null_text, null_text_where

ORDER = np.array([2, 0, 3, 1])


@pytest.fixture(scope="module")
def unet():
    """Two levels with every operator and positions."""
    return tiny.Compiled.of(tiny.network(frame_positions=8, pixel_positions=8), *tiny.inputs())


@pytest.fixture(scope="module")
def fresh():
    """The output and the initial parameters of a network with every operator."""
    net = tiny.network([dataclasses.replace(tiny.EVERY_OPERATOR, width=8)])
    return jax.jit(net.init_with_output)(jax.random.key(0), *tiny.inputs())


@pytest.fixture(scope="module")
def late():
    """The network of a later stage: all optional inputs, and the efficient order."""
    levels = tuple(dataclasses.replace(level, stride=2) for level in tiny.TWO_LEVELS)
    return tiny.Compiled.of(tiny.network(levels), *tiny.inputs(**tiny.extra_inputs()))


def far(a, b):
    """How much of the output has changed: the root mean square difference over that of `a`."""
    return np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2))


# ---- frames --------------------------------------------------------------------------------------


def test_independent_frames_may_be_permuted(unet):
    z, logsnr, cond = tiny.inputs(independent=True)
    found = unet(z, logsnr, cond)
    np.testing.assert_allclose(unet(z[:, ORDER], logsnr, cond), found[:, ORDER], atol=2e-5)


def test_frames_of_a_clip_may_not_be_permuted(unet):
    z, logsnr, cond = tiny.inputs()
    found = unet(z, logsnr, cond)
    assert far(unet(z[:, ORDER], logsnr, cond), found[:, ORDER]) > 0.05


def test_packed_images_are_denoised_as_if_alone(unet):
    z, logsnr, cond = tiny.inputs(independent=True)
    b, t = z.shape[:2]
    alone = jax.tree.map(lambda x: jnp.repeat(x, t, axis=0), (logsnr, cond))
    found = unet(z.reshape(b * t, 1, *z.shape[2:]), *alone).reshape(z.shape)
    np.testing.assert_allclose(unet(z, logsnr, cond), found, atol=2e-5)


@pytest.mark.parametrize("independent", [True, False])
def test_who_sees_the_last_frame(unet, independent):
    z, logsnr, cond = tiny.inputs(independent=independent)
    other = z.at[:, -1].set(tiny.normal(3, *z[:, -1].shape))
    before, after = unet(z, logsnr, cond)[:, :-1], unet(other, logsnr, cond)[:, :-1]
    if independent:
        np.testing.assert_array_equal(before, after)
    else:
        assert far(before, after) > 0.05


def test_only_temporal_branches_cross_frames(unet):
    """With those at their initial zero, an image model stays one."""
    temporal = ("temporal_conv/", "temporal_attention/out", "frame_position/")
    params = tiny.edit(
        unet.params, lambda name, x: 0 * x if any(part in name for part in temporal) else x
    )
    z, logsnr, cond = tiny.inputs()
    packed = cond.replace(independent_frames=jnp.ones(2, bool))
    np.testing.assert_array_equal(unet(z, logsnr, cond, params), unet(z, logsnr, packed, params))
    assert far(unet(z, logsnr, cond), unet(z, logsnr, packed)) > 0.05


def test_independent_and_joint_clips_share_a_batch(unet):
    z, logsnr, cond = tiny.inputs()
    mixed = cond.replace(independent_frames=jnp.array([True, False]))
    packed = cond.replace(independent_frames=jnp.array([True, True]))
    found = unet(z, logsnr, mixed)
    np.testing.assert_array_equal(found[0], unet(z, logsnr, packed)[0])
    np.testing.assert_array_equal(found[1], unet(z, logsnr, cond)[1])


# ---- a fresh network -----------------------------------------------------------------------------


def test_fresh_network_gives_zero(fresh):
    np.testing.assert_array_equal(fresh[0], np.zeros((2, 4, 8, 8, 3)))


def test_fresh_residual_branches_are_zero(fresh):
    last = ("conv2", "out", "taps", "film", "head")
    seen = set()

    def check(name, leaf):
        layer = name.split("/")[-2]
        if layer in last and not name.startswith("text_pool"):
            seen.add(layer)
            np.testing.assert_array_equal(leaf, 0)
        elif name.endswith("kernel"):
            assert np.std(leaf) > 0.05, name

    tiny.edit(jax.tree.map(np.asarray, tiny.nn.meta.unbox(fresh[1])), check)
    assert seen == set(last)


def test_stacked_blocks_start_differently(fresh):
    kernel = fresh[1]["params"]["down0"]["residual"]["conv1"]["kernel"].unbox()
    assert kernel.shape == (2, 3, 3, 8, 8)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01


# ---- examples and text ---------------------------------------------------------------------------


def test_examples_do_not_meet(unet):
    z, logsnr, cond = tiny.inputs()
    found = unet(z, logsnr, cond)
    other = unet(
        z.at[1].add(1.0),
        logsnr.at[1].add(3.0),
        cond.replace(
            text=cond.text.replace(tokens=cond.text.tokens.at[1].add(1.0)),
            independent_frames=jnp.array([False, True]),
        ),
    )
    np.testing.assert_array_equal(found[0], other[0])
    assert far(found[1], other[1]) > 0.1


def test_padded_tokens_do_not_matter(unet):
    z, logsnr, cond = tiny.inputs()
    assert not bool(cond.text.mask.all())
    tokens = jnp.where(cond.text.mask[:, :, None], cond.text.tokens, 77.0)
    other = cond.replace(text=cond.text.replace(tokens=tokens))
    np.testing.assert_array_equal(unet(z, logsnr, other), unet(z, logsnr, cond))


def test_null_prompt_drops_every_path_of_the_text(unet):
    z, logsnr, cond = tiny.inputs()
    unread = cond.replace(text=cond.text.replace(mask=jnp.zeros_like(cond.text.mask)))
    null = cond.replace(text=null_text(cond.text))
    dropped = cond.replace(text=null_text_where(jnp.ones(2, bool), cond.text))
    found = unet(z, logsnr, null)
    np.testing.assert_array_equal(unet(z, logsnr, unread), found)
    np.testing.assert_array_equal(unet(z, logsnr, dropped), found)


@pytest.mark.parametrize("silenced", ["text_attention/out", "text_pool/out"])
def test_both_paths_of_the_text_are_live(unet, silenced):
    params = tiny.edit(unet.params, lambda name, x: 0 * x if silenced in name else x)
    z, logsnr, cond = tiny.inputs()
    other = cond.replace(text=tiny.text(seed=8))
    assert far(unet(z, logsnr, cond, params), unet(z, logsnr, other, params)) > 0.02


def test_pixel_positions_tell_places_apart(unet):
    """Frames that repeat every 4 x 4 pixels: the features between borders need positions."""
    tile = tiny.normal(4, 2, 4, 4, 4, 3)
    z = jnp.tile(tile, (1, 1, 2, 2, 1))
    _, logsnr, cond = tiny.inputs()
    moved = tiny.edit(unet.params, lambda name, x: 0 * x if "pixel_position" in name else x)
    assert far(unet(z, logsnr, cond), unet(z, logsnr, cond, moved)) > 0.05


def test_noise_level_matters(unet):
    z, logsnr, cond = tiny.inputs()
    assert far(unet(z, logsnr, cond), unet(z, logsnr + 1, cond)) > 0.05


# ---- later stages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["low_res", "aug_logsnr", "known_frames", "guidance_weight"])
def test_optional_input_matters_where_it_should(late, name):
    z, logsnr, cond = tiny.inputs(**tiny.extra_inputs())
    value = getattr(cond, name)
    changed = value.at[1].set(~value[1] if value.dtype == bool else value[1] + 1)
    found, other = (late(z, logsnr, c) for c in (cond, cond.replace(**{name: changed})))
    np.testing.assert_array_equal(found[0], other[0])
    assert far(found[1], other[1]) > 0.02


def test_known_frames_are_marked_frame_by_frame(late):
    z, logsnr, cond = tiny.inputs(independent=True, **tiny.extra_inputs())
    other = cond.replace(known_frames=cond.known_frames.at[0, 2].set(True))
    found, other = late(z, logsnr, cond), late(z, logsnr, other)
    np.testing.assert_array_equal(found[0, [0, 1, 3]], other[0, [0, 1, 3]])
    assert far(found[0, 2], other[0, 2]) > 0.02


def test_efficient_order_runs_no_block_at_full_resolution(late):
    z, logsnr, cond = tiny.inputs(**tiny.extra_inputs())
    assert late.net.stride == 4
    assert late(z, logsnr, cond).shape == z.shape
    params = late.params["params"]
    assert params["down0_in"]["kernel"].shape == (3, 3, 16, 16)
    assert params["head"]["kernel"].shape == (3, 3, 2 * 16, 3)  # the stem beside the blocks


@pytest.mark.parametrize("silenced", [slice(0, 16), slice(16, 32)])
def test_head_of_the_efficient_order_reads_the_blocks_and_the_stem(late, silenced):
    params = tiny.edit(
        late.params, lambda name, x: x.at[:, :, silenced].set(0) if name == "head/kernel" else x
    )
    z, logsnr, cond = tiny.inputs(**tiny.extra_inputs())
    found, other = (late(z, logsnr + shift, cond, params) for shift in (0, 1))
    if silenced.start:  # the blocks are left: they know the noise level
        assert far(found, other) > 0.02
    else:  # the stem is left: it knows the pixels alone
        np.testing.assert_array_equal(found, other)
        assert far(found, late(z + 1, logsnr, cond, params)) > 0.02


# ---- how it is compiled --------------------------------------------------------------------------


REPEATED = (LevelSpec(width=8, blocks=3, temporal="attention", head_dim=8),)


@functools.cache
def repeated_params():
    """Of the network of `training`, however it is compiled."""
    return tiny.random_params(tiny.network(REPEATED), *tiny.inputs(t=2))


@functools.cache
def training(remat, unroll):
    """(output, gradient, bytes of working memory), always of the same parameters."""
    net = tiny.network(REPEATED, remat=remat, unroll=unroll)
    args, params = tiny.inputs(t=2), repeated_params()

    def loss(params):
        out = net.apply(params, *args)
        return jnp.mean(out**2), out

    compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(params).compile()
    gradient, out = jax.tree.map(np.asarray, compiled(params))
    return out, gradient, compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("remat, unroll", [("none", False), ("dots", True), ("full", False)])
def test_remat_and_scan_change_nothing(remat, unroll):
    expected, expected_gradient, _ = training("none", True)
    found, gradient, _ = training(remat, unroll)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    biggest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    assert biggest > 0.01
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * biggest),
        gradient,
        expected_gradient,
    )


def test_remat_saves_memory():
    assert training("full", False)[2] < 0.6 * training("none", False)[2]


def equations(jaxpr):
    """All equations of a jaxpr, those of inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_bfloat16_computes_in_half_but_keeps_parameters_and_head_in_float32():
    args = tiny.inputs()
    net = tiny.network(dtype="bfloat16")
    params = tiny.shapes(net, *args)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(net.apply)(params, *args)
    assert jaxpr.out_avals[0].dtype == jnp.float32
    convs, dots, exps = ([], [], [])
    kinds = {"conv_general_dilated": convs, "dot_general": dots, "exp": exps}
    for equation in equations(jaxpr.jaxpr):
        # Statistics of norms are products of the highest precision.
        statistics = str(equation.params.get("precision")).count("HIGHEST") == 2
        if equation.primitive.name in kinds and not statistics:
            kinds[equation.primitive.name].append(equation.invars[0].aval)
    assert [x.dtype.name for x in convs].count("float32") == 1  # the head
    assert len(convs) > 8
    assert {x.dtype.name for x in exps if x.ndim == 4} == {"float32"}  # the softmaxes
    half = [x.dtype.name == "bfloat16" for x in dots]
    assert np.mean(half) > 0.8


def test_bfloat16_is_close_to_float32():
    args = tiny.inputs(h=4, w=4)
    full = tiny.Compiled.of(tiny.network(tiny.ONE_LEVEL), *args)
    half = tiny.Compiled(tiny.network(tiny.ONE_LEVEL, dtype="bfloat16"), full.params)
    assert 1e-4 < far(full(*args), half(*args)) < 0.05


def test_a_loop_of_evaluations_gives_what_the_compiler_gives_without_its_library():
    """XLA:CPU had keys that frames share in one YNNPACK graph with the products: NaN, in a loop."""
    level = LevelSpec(width=16, blocks=1, temporal="attention", text="attention", head_dim=16)
    net = tiny.network((level,), norm="channel", patch=1, pool_queries=1, cond_width=16)
    z, logsnr, cond = tiny.inputs(1, 16, 16, 16)
    params = tiny.random_params(net, z, logsnr, cond)

    def twice(z, logsnr, cond):
        both = jax.tree.map(lambda x: jnp.stack([x, x]), (z, logsnr, cond))
        return jax.lax.map(lambda one: net.apply(params, *one), both)

    lowered = jax.jit(twice).lower(z, logsnr, cond)
    alone = lowered.compile(compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})
    expected = alone(z, logsnr, cond)
    np.testing.assert_allclose(lowered.compile()(z, logsnr, cond), expected, atol=1e-4)


# ---- sizes ---------------------------------------------------------------------------------------


def test_longer_and_wider_clips_than_trained():
    net = tiny.network(tiny.ONE_LEVEL, frame_positions=8)
    trained = tiny.Compiled.of(net, *tiny.inputs(h=4, w=4))
    found = trained(*tiny.inputs(t=7, h=4, w=6))
    assert found.shape == (2, 7, 4, 6, 3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("size", [(8, 12), (9, 8)])
def test_wrong_size_says_what_is_right(size):
    h, w = size
    net = tiny.network(patch=2, levels=(tiny.EVERY_OPERATOR, tiny.EVERY_OPERATOR))
    message = f"{h}x{w}.*multiples of 8"
    with pytest.raises(ValueError, match=message):
        tiny.shapes(net, *tiny.inputs(h=h, w=w))


@pytest.mark.parametrize("patch", [1, 2])
def test_many_levels(patch):
    block = dict(temporal="attention", head_dim=8)
    levels = [
        LevelSpec(width=8 * (i + 1), blocks=i + 1, stride=1 + (i > 0), **block) for i in range(4)
    ]
    net = tiny.network(levels, patch=patch)
    assert net.stride == 8 * patch
    args = tiny.inputs(b=1, t=3, h=16, w=32)
    out, params = nn.meta.unbox(jax.eval_shape(net.init_with_output, jax.random.key(0), *args))
    for i in range(4):
        for way in ("down", "up"):
            query = params["params"][f"{way}{i}"]["temporal_attention"]["query"]["kernel"]
            assert query.shape == (i + 1, 8 * (i + 1), i + 1, 8)
    assert params["params"]["head"]["kernel"].shape[-1] == 3 * patch**2
    assert out.shape == (1, 3, 16, 32, 3)


def test_width_may_change_between_levels_of_one_resolution():
    levels = [LevelSpec(width=8, blocks=1), LevelSpec(width=16, blocks=1)]
    args = tiny.inputs(h=5, w=7)
    init = tiny.network(levels).init_with_output
    assert jax.eval_shape(init, jax.random.key(0), *args)[0].shape == (2, 4, 5, 7, 3)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, choices",
    [
        (dict(norm="batch"), "'batch'.*group.*channel"),
        (dict(dtype="float16"), "'float16'.*float32.*bfloat16"),
        (dict(remat="some"), "'some'.*none.*products.*dots.*full"),
        (dict(levels=()), "levels is empty.*LevelSpec"),
    ],
)
def test_wrong_setting_lists_the_choices(setting, choices):
    with pytest.raises(ValueError, match=f"VideoUNet.*{choices}"):
        VideoUNet(**{"levels": tiny.ONE_LEVEL} | setting)


def test_pixel_skip_is_a_path_of_its_own():
    net = tiny.network(tiny.ONE_LEVEL, pixel_skip=True)
    z, logsnr, cond = tiny.inputs(low_res=tiny.normal(20, 2, 4, 8, 8, 3))
    whole = tiny.Compiled.of(net, z, logsnr, cond)

    @jax.jit  # compiles these two layers alone
    def fresh(key):
        params = nn.meta.unbox(net.init(key, z, logsnr, cond))["params"]
        return {name: params[name] for name in ("head", "pixel_skip")}

    own = fresh(jax.random.key(0))
    params = {"params": whole.params["params"] | own}
    np.testing.assert_array_equal(whole(z, logsnr, cond, params), 0)
    bias = np.array([1.0, 2.0, 3.0, 0.5, 0.5, 0.0], np.float32)
    own["pixel_skip"]["bias"] = jnp.asarray(bias)
    expected = np.asarray(z) * bias[:3] + np.asarray(cond.low_res) * bias[3:]
    np.testing.assert_allclose(whole(z, logsnr, cond, params), expected, rtol=1e-6)


def test_a_crop_gives_the_crop_of_the_whole_away_from_the_border():
    """As the last stage, which trains on crops: no statistic and no place of the frame is used."""
    level = LevelSpec(width=8, blocks=1, temporal="conv", text="attention", head_dim=8)
    levels = (level, dataclasses.replace(level, stride=2))
    net = tiny.network(levels, norm="channel", pixel_skip=True)
    z, logsnr, cond = tiny.inputs(
        1, 2, 64, 64, low_res=tiny.normal(20, 1, 2, 64, 64, 3), aug_logsnr=jnp.ones(1)
    )
    whole = tiny.Compiled.of(net, z, logsnr, cond)
    window = (slice(None), slice(None), slice(8, 56), slice(6, 54))
    crop = whole(z[window], logsnr, cond.replace(low_res=cond.low_res[window]))
    inner = (slice(None), slice(None), slice(20, 28), slice(20, 28))
    expected = whole(z, logsnr, cond)[window]
    np.testing.assert_allclose(crop[inner], expected[inner], rtol=1e-4, atol=1e-4)
    assert np.abs(crop - expected).max() > 0.01  # the border is seen
