"""Perceptual distances on real sprite clips: what they order, what they refuse, what they need."""

import compiled_programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.ndimage import gaussian_filter

from vidgen.assets import downloads
from vidgen.data.video import transforms
from vidgen.phenaki import perceptual
from vidgen.phenaki.perceptual import ImagePerceptual, VideoPerceptual
from vidgen.sprites import sprites
from vidgen.types import VideoShape

BLURS, NOISES = (0.5, 1.0, 2.0), (0.05, 0.2, 0.5)


@pytest.fixture(scope="module")
def clips():
    """Three sprite clips, 5 x 32 x 32."""
    source = sprites.Sprites(shape=VideoShape(frames=5, height=32, width=32))
    videos = [source.load(i, np.random.default_rng(i)).video for i in range(3)]
    return transforms.to_float(np.stack(videos))


@pytest.fixture(scope="module")
def damaged(clips):
    """The clips blurred in space, more and more, then with more and more noise."""
    noise = np.random.default_rng(0).standard_normal(clips.shape).astype(np.float32)
    blurred = [gaussian_filter(clips, (0, 0, sigma, sigma, 0)) for sigma in BLURS]
    return {"blur": blurred, "noise": [clips + sigma * noise for sigma in NOISES]}


@pytest.fixture(scope="module")
def image():
    """What compares frames of clips: one compiled program."""
    distance = ImagePerceptual()
    run = jax.jit(distance.__call__, compiler_options=compiled_programs.RUNS_LONG)
    params = distance.load()
    return lambda a, b: run(params, a.reshape(-1, 32, 32, 3), b.reshape(-1, 32, 32, 3))


@pytest.fixture(scope="module")
def video():
    distance = VideoPerceptual()
    run = jax.jit(distance.__call__, compiler_options=compiled_programs.RUNS_LONG)
    params = distance.load()
    return lambda a, b: run(params, a, b)


@pytest.fixture(params=["image", "video"])
def distance(request):
    return request.getfixturevalue(request.param)


def test_equal_pictures_are_at_distance_zero(distance, clips):
    np.testing.assert_array_equal(distance(clips, clips), 0.0)


def test_the_order_of_the_pair_changes_nothing(distance, clips, damaged):
    there, back = distance(clips, damaged["blur"][1]), distance(damaged["blur"][1], clips)
    np.testing.assert_allclose(there, back, rtol=1e-5)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_more_damage_is_further_away(distance, clips, damaged, kind):
    steps = np.stack([distance(clips, worse) for worse in damaged[kind]])
    assert (steps[0] > 1e-4).all()
    assert (np.diff(steps, axis=0) > 0).all()  # for every picture


def test_each_pair_has_its_own_distance(distance, clips, damaged):
    mixed = np.concatenate([clips[:1], damaged["noise"][2][1:]])
    found = distance(clips, mixed).reshape(3, -1)
    assert (found[0] == 0).all() and (found[1:] > 0).all()


def test_video_sees_motion_that_frames_do_not_have(video, clips):
    """A still clip has good frames; far from the moving one it is all the same."""
    still = np.repeat(clips[:, :1], 5, axis=1)
    slightly = clips + 0.004
    assert (video(clips, still) > 5 * video(clips, slightly)).all()


def closed_form(a, b):
    unit_a, unit_b = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in (a, b))
    return ((unit_a - unit_b) ** 2).sum(-1).reshape(len(a), -1).mean(1)


def test_the_distance_is_that_of_unit_vectors():
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 3, 3, 5), "y": (2, 4, 2, 2, 3), "z": (2, 6)}
    a, b = ({k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in "ab")
    as_jax = [jax.tree.map(jnp.asarray, x) for x in (a, b)]
    expected = sum(closed_form(a[name], b[name]) for name in shapes)
    np.testing.assert_allclose(perceptual._distance(*as_jax), expected, rtol=1e-5)
    opposite = {"x": -as_jax[0]["x"]}
    found = perceptual._distance({"x": as_jax[0]["x"]}, opposite)
    np.testing.assert_allclose(found, 4.0, rtol=1e-5)


@pytest.mark.parametrize(
    "one, shape",
    [
        (ImagePerceptual(layers=("conv1", "fire3")), (2, 12, 12, 3)),
        (VideoPerceptual(layers=("Mixed_3b",)), (1, 3, 12, 12, 3)),
    ],
    ids=["image", "video"],
)
def test_gradients_are_finite_and_not_zero(one, shape):
    """Also for a black picture, all of whose features are alike."""
    real = jax.random.uniform(jax.random.key(0), shape, minval=-1, maxval=1)
    fake = jnp.full_like(real, -1.0)
    slope = jax.jit(jax.grad(lambda x, p: one(p, x, real).sum()))
    params = one.load()
    for x in (fake, real[..., ::-1, :]):
        found = slope(x, params)
        assert np.isfinite(found).all() and (np.abs(found).max((-3, -2, -1)) > 0).all()
    np.testing.assert_allclose(slope(real, params), 0.0, atol=1e-6)  # the minimum


def test_size_scales_the_shorter_side():
    x = jnp.zeros((2, 5, 16, 24, 3), jnp.bfloat16)
    scaled = perceptual._scaled(x, 64)
    assert scaled.shape == (2, 5, 64, 96, 3) and scaled.dtype == jnp.float32
    assert perceptual._scaled(x, None).shape == x.shape
    ramp = jnp.linspace(-1.0, 1.0, 8).reshape(1, 8, 1, 1) * jnp.ones((1, 8, 8, 3))
    np.testing.assert_allclose(perceptual._scaled(ramp, 4)[0, :, 0, 0].mean(), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: ImagePerceptual(network="vgg"), "network is 'vgg'.*squeezenet, vgg16"),
        (lambda: ImagePerceptual(network="vgg16"), "network='vgg16', weights=None"),
        (lambda: ImagePerceptual(weights="a.pth"), "network='squeezenet', weights='a.pth'"),
        (lambda: ImagePerceptual(layers=("relu1_2",)), "ImagePerceptual.layers: .* conv1, fire2"),
        (lambda: ImagePerceptual(size=0), "ImagePerceptual.size is 0"),
        (lambda: VideoPerceptual(layers=("Mixed_4g",)), "'Mixed_4g'.*Conv3d_1a_7x7"),
        (lambda: VideoPerceptual(layers=()), "VideoPerceptual.layers is empty"),
    ],
)
def test_wrong_settings_are_named(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_wrong_shapes_are_named():
    frames, video = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 3, 8, 8, 3))
    with pytest.raises(ValueError, match=r"got \(2, 8, 8, 3\) and \(1, 8, 8, 3\)"):
        ImagePerceptual()({}, frames, frames[:1])
    with pytest.raises(ValueError, match=r"got \(2, 3, 8, 8, 3\) and \(2, 2, 8, 8, 3\)"):
        VideoPerceptual()({}, video, video[:, :2])
    with pytest.raises(ValueError, match="at least 3 x 3 pixels"):
        ImagePerceptual()({}, frames[:, :2], frames[:, :2])
    with pytest.raises(ValueError, match="at least 9 frames"):
        VideoPerceptual(layers=("logits",), size=224)({}, video, video)


def test_vgg_takes_the_users_file(tmp_path):
    """Weights of one tap in the middle of the window: the first channel is passed on to the end."""
    widths = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for index, inner, outer in zip(indices, widths, widths[1:], strict=False):
        weight = np.zeros((outer, inner, 3, 3), np.float16)
        weight[0, 0, 1, 1], weight[1, 0, 1, 1] = 1.0, 0.5
        state[f"features.{index}.weight"] = weight
        state[f"features.{index}.bias"] = np.full(outer, 0.01, np.float16)
    safetensors.numpy.save_file(state, tmp_path / "vgg16.safetensors")
    one = ImagePerceptual(network="vgg16", weights=str(tmp_path / "vgg16.safetensors"))
    params = one.load()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    a = np.random.default_rng(0).uniform(0.5, 1, (2, 16, 16, 3)).astype(np.float32)
    red, green = a * [0.5, 1, 1], a * [1, 0.5, 1]
    run = jax.jit(one.__call__)
    assert (np.asarray(run(params, a, red.astype(np.float32))) > 1e-3).all()
    np.testing.assert_allclose(run(params, a, green.astype(np.float32)), 0.0, atol=1e-6)


def test_missing_weights_are_asset_errors(tmp_path, monkeypatch):
    one = ImagePerceptual(network="vgg16", weights=str(tmp_path / "none.pth"))
    with pytest.raises(downloads.AssetError, match=r"none\.pth'.* no file.*squeezenet"):
        one.load()

    def nowhere(name):
        raise downloads.AssetError(f"no {name}")

    monkeypatch.setattr(downloads, "locate", nowhere)
    with pytest.raises(downloads.AssetError, match="no squeezenet"):
        ImagePerceptual(required=False).load()
    with pytest.raises(downloads.AssetError, match="no i3d"):
        VideoPerceptual().load()


def test_a_pickle_in_place_of_vgg_is_refused(tmp_path):
    (tmp_path / "vgg16.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"vgg16\.pth .*refused: .*os\.system"):
        ImagePerceptual(network="vgg16", weights=str(tmp_path / "vgg16.pth")).load()
