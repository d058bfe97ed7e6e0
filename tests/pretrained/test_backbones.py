"""The feature networks against published numbers and PyTorch's; weight files good and hostile.

Tests of vidgen/pretrained/i3d.py, vidgen/pretrained/layers.py,
vidgen/pretrained/squeezenet.py, vidgen/pretrained/vgg.py, vidgen/pretrained/weight_files.py too.
"""

import functools
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_files

from vidgen.assets import downloads
from vidgen.pretrained import i3d, layers, squeezenet, vgg, weight_files


def pattern(*shape):
    """What the golden numbers were taken on: a sawtooth along the diagonals, in [-1, 1]."""
    return ((np.indices(shape).sum(0) % 17) / 8 - 1).astype(np.float32)


@functools.cache
def params(network):
    return network.load_params(downloads.locate(network.ASSET))


def shapes(network, *shape):
    """Layer -> shape, without computing anything."""
    outline = jax.eval_shape(network.features, params(network), jnp.zeros(shape))
    return {name: feature.shape for name, feature in outline.items()}


def test_i3d_gives_the_published_logits():
    wanted = jax.jit(lambda p, x: i3d.features(p, x, ["logits"]))
    logits = wanted(params(i3d), pattern(1, 16, 224, 224, 3))["logits"]
    np.testing.assert_allclose(logits[0, :5], [13.8138, -3.0581, 1.7468, 3.9105, 2.0984], atol=2e-3)
    np.testing.assert_allclose(logits.sum(), 1.9306, atol=2e-2)


def test_squeezenet_agrees_with_pytorch():
    """PyTorch 2.13 on the same weights: first five logits, sum of all, the largest."""
    first, total, best = [3.49895, 0.0, 5.74908, 0.0, 18.54313], 15432.66, 789
    features = jax.jit(squeezenet.features)(params(squeezenet), pattern(1, 64, 64, 3))
    logits = features["logits"][0]
    np.testing.assert_allclose(logits[:5], first, atol=1e-3)
    np.testing.assert_allclose(logits.sum(), total, rtol=1e-4)
    assert int(logits.argmax()) == best


def test_i3d_layers_halve_time_and_space_rounding_up():
    found = jax.eval_shape(
        lambda p, x: i3d.features(p, x, i3d.LAYERS[:-1]),
        params(i3d),
        jnp.zeros((2, 11, 64, 48, 3)),
    )
    sizes = {name: feature.shape for name, feature in found.items()}
    assert sizes["Mixed_3c"] == (2, 6, 8, 6, 480)
    assert sizes["Mixed_4f"] == (2, 3, 4, 3, 832)
    assert sizes["Mixed_5c"] == (2, 2, 2, 2, 1024)
    assert sizes["pool"] == (2, 1024)


@pytest.mark.parametrize("shape", [(1, 8, 224, 224, 3), (1, 16, 224, 192, 3)])
def test_i3d_logits_of_too_little_video_are_refused(shape):
    said = f"has {shape[1]} of {shape[2]} x {shape[3]}"
    with pytest.raises(ValueError, match=f"9 frames of 193 x 193 .*{said}"):
        shapes(i3d, *shape)


def test_nothing_after_the_wanted_layer_is_computed():
    def convolutions(wanted):
        x = jnp.zeros((1, 5, 32, 32, 3))
        program = jax.make_jaxpr(lambda p, x: i3d.features(p, x, wanted))(params(i3d), x)
        return str(program).count("conv_general_dilated[")

    assert convolutions(["Conv3d_2c_3x3"]) == 3
    assert convolutions(["Conv3d_2c_3x3", "Mixed_3b"]) == 3 + 6


def test_squeezenet_pools_hang_over_the_far_edge():
    assert shapes(squeezenet, 1, 227, 227, 3)["fire9"] == (1, 14, 14, 512)
    assert shapes(squeezenet, 1, 3, 3, 3)["fire9"] == (1, 1, 1, 512)
    x = jnp.arange(4.0).reshape(1, 4, 1, 1)
    found = layers.max_pool(x, (3, 1), (2, 1), "CEIL")
    np.testing.assert_array_equal(found.ravel(), [2.0, 3.0])


def test_folding_is_the_normalisation_behind_the_convolution():
    rng = np.random.default_rng(0)
    mean, bias, scale = rng.normal(size=(3, 4))
    kernel, variance = rng.normal(size=(1, 1, 3, 4)), rng.uniform(1, 2, 4)
    x = rng.normal(size=(1, 2, 2, 3)).astype(np.float32)
    part = layers.fold_norm(kernel, mean, variance, bias, scale)
    found = layers.conv(jnp.asarray(x), part["kernel"], part["bias"])
    plain = x @ kernel[0, 0]
    expected = (plain - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("wanted, said", [(["fire10"], "no layer 'fire10'"), ([], "no layer is")])
def test_an_unknown_layer_lists_the_layers(wanted, said):
    with pytest.raises(ValueError, match=f"{said}.*: conv1, fire2"):
        squeezenet.features(params(squeezenet), jnp.zeros((1, 8, 8, 3)), wanted)


@pytest.mark.parametrize("network, size", [(squeezenet, 2), (vgg, 15)])
def test_images_that_are_too_small_are_refused(network, size):
    with pytest.raises(ValueError, match=f"at least .* {size} x {size}:"):
        network.features({}, jnp.zeros((1, size, size, 3)))


# --- VGG-16 out of a user's file -----------------------------------------------------------------

VGG_CONVOLUTIONS = (
    *((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128)),
    *((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    *((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    *((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)


@pytest.fixture(scope="module")
def vgg_state():
    """VGG-16 as torchvision saves it; its later weights repeat one number, to be small."""
    rng = np.random.default_rng(0)
    state = {}
    for index, inner, outer in VGG_CONVOLUTIONS:
        size = (outer, inner, 3, 3)
        if index in (0, 2):
            weight = torch_files.Tensor(rng.normal(size=size).astype(np.float32) / 20, size)
        else:
            weight = torch_files.Tensor(np.float32([1 / (9 * inner)]), size, (0, 0, 0, 0))
        state[f"features.{index}.weight"] = weight
        bias = np.full(outer, 0.01 * index, np.float32)
        state[f"features.{index}.bias"] = torch_files.Tensor(bias, (outer,))
    state["classifier.0.weight"] = torch_files.Tensor(np.zeros(6, np.float32), (2, 3))
    return state


def reference_relu1_2(state, x):
    """The first two convolutions of VGG-16, one window at a time."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((x + 1) / 2 - mean) / deviation
    for index in (0, 2):
        weight, bias = (state[f"features.{index}.{part}"] for part in ("weight", "bias"))
        kernel = weight.flat.reshape(weight.size)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
        x = np.maximum(np.einsum("hwcij,ocij->hwo", windows, kernel) + bias.flat, 0)
    return x


@pytest.mark.parametrize("save", [torch_files.save, torch_files.save_legacy])
def test_vgg_reads_a_file_of_pytorch(vgg_state, tmp_path, save):
    found = vgg.load_params(save(vgg_state, tmp_path / "vgg16.pth"))
    assert tuple(found) == vgg.LAYERS
    assert found["relu5_3"]["kernel"].shape == (3, 3, 512, 512)
    x = pattern(1, 16, 16, 3)
    feature = jax.jit(lambda p, x: vgg.features(p, x, ["relu1_2"]))(found, x)["relu1_2"]
    np.testing.assert_allclose(feature[0], reference_relu1_2(vgg_state, x[0]), atol=1e-4)


def test_vgg_layers_and_sizes(vgg_state, tmp_path):
    found = vgg.load_params(torch_files.save(vgg_state, tmp_path / "vgg16.pth"))
    outline = jax.eval_shape(vgg.features, found, jnp.zeros((1, 64, 32, 3)))
    sizes = [outline[name].shape for name in vgg.PERCEPTUAL]
    expected = [(1, 64 >> i, 32 >> i, c) for i, c in enumerate((64, 128, 256, 512, 512))]
    assert sizes == expected


def test_a_file_that_is_no_vgg_says_what_is_wrong(vgg_state, tmp_path):
    del (state := dict(vgg_state))["features.5.bias"]
    path = torch_files.save(state, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"features\.5\.bias .*\(128,\), .*missing"):
        vgg.load_params(path)
    safetensors.numpy.save_file(
        {"features.0.weight": np.zeros((96, 3, 7, 7), np.float32)}, tmp_path / "other.safetensors"
    )
    with pytest.raises(ValueError, match=r"no VGG-16 .*\(96, 3, 7, 7\)"):
        vgg.load_params(tmp_path / "other.safetensors")


# --- weight files --------------------------------------------------------------------------------


class Evil:
    """What a hostile file holds: unpickled by Python, it would run a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"echo ran > {self.marker}",)


def hostile_zip(path, payload):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", payload)
    return path


def hostile_legacy(path, payload):
    path.write_bytes(payload)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path, protocol):
    payload = pickle.dumps({"a": Evil(tmp_path / "ran")}, protocol)
    (tmp_path / "evil.ckpt").write_bytes(payload)
    for read, path in (
        (weight_files.read_arrays, tmp_path / "evil.ckpt"),
        (weight_files.read_tensors, hostile_zip(tmp_path / "zip.pth", payload)),
        (weight_files.read_tensors, hostile_legacy(tmp_path / "old.pth", payload)),
    ):
        with pytest.raises(weight_files.WeightFileError, match=r"asks for \w+\.system"):
            read(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(payload)
    assert (tmp_path / "ran").exists()  # it was hostile


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "numpy.ndarray.tofile"])
def test_no_other_name_is_looked_up(tmp_path, name):
    module, _, attribute = name.partition(".")
    (tmp_path / "a.pkl").write_bytes(
        pickle.PROTO + b"\x04" + b"".join(
            pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode()
            for part in (module, attribute)
        ) + pickle.STACK_GLOBAL + pickle.STOP
    )  # fmt: skip
    with pytest.raises(weight_files.WeightFileError, match=f"asks for {name}"):
        weight_files.read_arrays(tmp_path / "a.pkl")


def test_arrays_of_both_numpy_generations_are_read(tmp_path):
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [np.float64(2.0) * np.ones(2)]}
    now = pickle.dumps(tree, 3)
    assert b"numpy._core.multiarray" in now
    for data in (now, now.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
        (tmp_path / "a.pkl").write_bytes(data)
        found = weight_files.read_arrays(tmp_path / "a.pkl")
        np.testing.assert_array_equal(found["a"], tree["a"])
        np.testing.assert_array_equal(found["b"][0], tree["b"][0])


@pytest.mark.parametrize("save", [torch_files.save, torch_files.save_legacy])
def test_views_and_shared_storages_are_read(tmp_path, save):
    flat = np.arange(12, dtype=np.float32)
    state = {
        "a": torch_files.Tensor(flat, (3, 4)),
        "turned": torch_files.Tensor(flat, (4, 3), (1, 4)),
        "part": torch_files.Tensor(flat, (2,), offset=5),
        "count": torch_files.Tensor(np.array([7]), ()),
    }
    state["turned"].flat = state["part"].flat = state["a"].flat
    found = weight_files.read_tensors(save(state, tmp_path / "a.pth"))
    np.testing.assert_array_equal(found["a"], flat.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], flat.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [5, 6])
    assert found["count"] == 7 and found["count"].dtype == np.int64
    assert list(weight_files.read_tensors(tmp_path / "a.pth", "t")) == ["turned"]


@pytest.mark.parametrize(
    "tensor",
    [
        {"size": (3, 5)},
        {"size": (3, 4), "offset": 1},
        {"size": (2,), "stride": (-1,)},
        {"size": (2,), "offset": -1},
        {"size": (-2,), "stride": (1,)},
        {"size": (2, 2), "stride": (1,)},
    ],
    ids=str,
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, tensor):
    state = {"a": torch_files.Tensor(np.zeros(12, np.float32), **tensor)}
    with pytest.raises(weight_files.WeightFileError, match="damaged at tensor 'a'"):
        weight_files.read_tensors(torch_files.save(state, tmp_path / "a.pth"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])
    return path


def test_damaged_and_foreign_files_are_named(tmp_path):
    state = {"a": torch_files.Tensor(np.zeros(12, np.float32), (12,))}
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    foreign = tmp_path / "foreign.pth"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("a.txt", "hello")
    nested = torch_files.save({"state_dict": dict(state)}, tmp_path / "nested.pth")
    for path, said in (
        (tmp_path / "text.pth", "readable weight file"),
        (tmp_path / "text.safetensors", "safetensors file"),
        (foreign, r"zip .*data\.pkl"),
        (nested, r"no state dict .*torch\.save"),
        (cut(torch_files.save(state, tmp_path / "cut.pth")), "readable weight file"),
        (cut(torch_files.save_legacy(state, tmp_path / "old.pth")), "damaged at tensor 'a'"),
    ):
        with pytest.raises(weight_files.WeightFileError, match=f"{path.name} .*{said}"):
            weight_files.read_tensors(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth .*No such file"):
        weight_files.read_tensors(tmp_path / "none.pth")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 9, 12), (1, 8, 7)])
def test_a_thin_convolution_is_what_xla_calls_so(stride, shape):
    def random(*shape):
        return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)

    for frames in (1, 6, 9):
        video, kernel, bias = random(2, frames, *shape[1:], 3), random(7, 3, 5, 3, 4), random(4)
        want = layers.conv(video, kernel, bias, stride=stride)
        found = layers.thin_conv(video, kernel, bias, stride=stride)
        np.testing.assert_allclose(found, want, atol=1e-4)
