"""Inception-v3 of the Frechet inception distance against PyTorch's, and files that are not it.

The golden numbers are torch-fidelity 0.4.0's network in PyTorch 2.13 and float64, on the weights of
`closed_form`: mean and projection (on fixed pseudo-random numbers) of each layer.
"""

import closed_form
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_files
from inception_files import GOLDEN, shapes, tensor

from vidgen.pretrained import inception, layers, weight_files


def cheap_file(path, **changes):
    """A file of the published names whose tensors repeat one number; None leaves one out."""
    sizes = shapes() | {name.replace("__", "."): size for name, size in changes.items()}
    one = np.ones(1, np.float32)
    state = {
        name: torch_files.Tensor(one, size, (0,) * len(size))
        for name, size in sizes.items()
        if size is not None
    }
    return torch_files.save(state, path)


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch_files.save({name: tensor(name, shape) for name, shape in shapes().items()}, path)
    found = inception.load_params(path)
    path.unlink()  # 96 MB
    return found


def images():
    """A sawtooth along the diagonals, and noise; neither is square."""
    h, w = 139, 171
    sawtooth = (np.indices((h, w, 3)).sum(0) % 17) / 8 - 1
    return np.stack([sawtooth, closed_form.scatter("image", (h, w, 3))]).astype(np.float32)


@pytest.fixture(scope="module")
def found(params):
    """All layers."""
    return jax.device_get(jax.jit(inception.features)(params, images()))


def test_every_layer_agrees_with_pytorch(found):
    assert tuple(GOLDEN["features"]) == inception.LAYERS
    for name, golden in GOLDEN["features"].items():
        feature = found[name].astype(np.float64)
        assert feature.shape == tuple(golden["shape"])
        pattern = closed_form.scatter(name, feature.shape)
        projection = (feature * pattern).sum() / np.sqrt(feature.size)
        tolerance = 2e-5 * feature.std()
        assert abs(feature.mean() - golden["mean"]) < tolerance, name
        assert abs(projection - golden["projection"]) < tolerance, name


def test_pool_and_logits_follow_from_the_last_block(found):
    pool = found["Mixed_7c"].mean((1, 2), dtype=np.float64)
    np.testing.assert_allclose(found["pool"], pool, rtol=1e-5)
    weight, bias = (tensor(name, shapes()[name]).flat for name in ("fc.weight", "fc.bias"))
    expected = pool @ weight.reshape(1008, 2048).T + bias
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)


def test_layers_at_the_size_of_the_distance(params):
    size = inception.TRAINED_PIXELS
    found = jax.eval_shape(inception.features, params, jnp.zeros((1, size, size, 3)))
    sizes = {name: feature.shape[1:] for name, feature in found.items()}
    assert sizes["MaxPool_1"] == (73, 73, 64)
    assert sizes["MaxPool_2"] == (35, 35, 192)
    assert sizes["Mixed_6e"] == (17, 17, 768)
    assert sizes["Mixed_7c"] == (8, 8, 2048)
    assert (sizes["pool"], sizes["logits"]) == ((2048,), (1008,))
    smallest = jnp.zeros((1, inception.MIN_PIXELS, inception.MIN_PIXELS + 8, 3))
    assert jax.eval_shape(inception.features, params, smallest)["Mixed_7c"].shape[1:3] == (1, 1)


def test_mean_pools_count_only_what_is_there():
    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)
    found = layers.mean_pool(x, (3, 3))[0, :, :, 0]
    np.testing.assert_allclose(found, [[3.0, 3.5, 4.0], [3.0, 3.5, 4.0]])
    np.testing.assert_allclose(layers.mean_pool(x, (1, 3))[0, 0, :, 0], [1.5, 2.0, 2.5])


def test_a_safetensors_file_is_read_too(tmp_path):
    path = tmp_path / "inception.safetensors"
    ones = {name: np.ones(shape, np.float16) for name, shape in shapes().items()}
    safetensors.numpy.save_file(ones, path)
    found = inception.load_params(path)
    assert found["logits"]["kernel"].dtype == np.float32
    assert found["logits"]["kernel"].shape == (2048, 1008)
    assert found["Mixed_6b.branch7x7_2"]["kernel"].shape == (1, 7, 128, 128)
    # one over the deviation; and beta - mean over the deviation
    np.testing.assert_allclose(found["Conv2d_3b_1x1"]["kernel"], 1.001**-0.5, rtol=1e-6)
    np.testing.assert_allclose(found["Conv2d_3b_1x1"]["bias"], 1 - 1.001**-0.5, rtol=1e-3)
    path.unlink()


def test_the_file_of_torchvision_is_named(tmp_path):
    path = cheap_file(tmp_path / "tv.pth", fc__weight=(1000, 2048), fc__bias=(1000,))
    with pytest.raises(ValueError, match=r"tv\.pth .*torchvision's .*1000 classes.* pt_inception"):
        inception.load_params(path)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"Mixed_6c__branch7x7_2__bn__bias": None},
            r"Mixed_6c\.branch7x7_2\.bn\.bias .*\(160,\), .*missing",
        ),
        ({"Conv2d_1a_3x3__conv__weight": None, "fc__bias": None}, r"Conv2d_1a_3x3\.conv.* missing"),
        (
            {"Mixed_7b__branch3x3_2a__conv__weight": (384, 384, 3, 1)},
            r"Mixed_7b\.branch3x3_2a\.conv.*\(384, 384, 3, 1\)",
        ),
        ({"fc__weight": (10, 2048)}, r"fc\.weight .*\(1008, 2048\), .*\(10, 2048\)"),
    ],
)
def test_the_first_wrong_tensor_is_named(tmp_path, changes, said):
    path = cheap_file(tmp_path / "other.pth", **changes)
    with pytest.raises(weight_files.WeightFileError, match=f"no Inception-v3 of 2015.*{said}"):
        inception.load_params(path)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"at least 75 x 75 .* 75 x 74:"):
        inception.features({}, jnp.zeros((1, 75, 74, 3)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth .*No such file"):
        inception.load_params(tmp_path / "none.pth")
