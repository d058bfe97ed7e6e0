"""The weight file: how exact it is, what it replaces, and one sentence when it is not whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import toy_training as toy

from vidgen.train import weights
from vidgen.train.checkpoints import Checkpointer, CheckpointError
from vidgen.train.state import named_leaves


def params(seed=0, hidden=64):
    rng = np.random.default_rng(seed)
    shapes = {
        "params": {
            "conv": {"kernel": (3, 3, 32, hidden), "bias": (hidden,)},
            "small": {"kernel": (8, 8)},
            "norm": {"scale": (5000,)},
        }
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_large_kernels_keep_eight_bits_and_the_rest_half(tmp_path):
    given = params()
    weights.write(tmp_path, given, 7)
    found = weights.open_weights(tmp_path).restore_params()
    assert jax.tree.structure(found) == jax.tree.structure(given)
    before, after = named_leaves(given), named_leaves(found)
    for name in ("params/conv/bias", "params/small/kernel", "params/norm/scale"):
        half = np.asarray(before[name]).astype(np.float16)
        np.testing.assert_array_equal(after[name], half.astype(np.float32))
        assert after[name].dtype == np.float32
    kernel = np.asarray(before["params/conv/kernel"])
    step = np.abs(kernel).max(axis=2, keepdims=True) / 127
    error = np.abs(np.asarray(after["params/conv/kernel"]) - kernel)
    assert (error <= step * 0.501).all()
    assert error.max() > 0.4 * step.max()  # it is not stored in full
    assert (tmp_path / weights.FILE).stat().st_size < 0.95 * (1.3 * kernel.size + 2 * 5000)


def test_in_full_all_is_kept_to_the_bit(tmp_path):
    given = params()
    path = weights.write(tmp_path, given, 7, eight_bits=False)
    with weights.open_weights(tmp_path) as file:
        assert not file.in_eight_bits and file.latest_step() == 7
        jax.tree.map(np.testing.assert_array_equal, file.restore_params(), given)
    assert oct(path.stat().mode & 0o777) == oct(0o666 & ~weights._umask())
    with pytest.raises(ValueError, match="kernel .*single precision"):
        weights.write(tmp_path, {"kernel": jnp.array([jnp.inf])}, 2, eight_bits=False)
    assert [p.name for p in tmp_path.iterdir()] == [weights.FILE]  # nothing half-written


def test_the_file_is_one_of_safetensors(tmp_path):
    path = weights.write(tmp_path, params(), 7)
    tensors = safetensors.numpy.load_file(path)
    assert tensors["params/conv/kernel"].dtype == np.int8
    assert tensors["params/conv/kernel:largest"].shape == (3, 3, 1, 64)
    assert tensors["params/conv/bias"].dtype == np.float16


def test_eight_bits_are_copied_as_they_are(tmp_path):
    """Also where a rule of before chose other axes for them."""
    files = [weights.write(tmp_path / "one", params(), 7)]
    with weights.open_weights(tmp_path / "one") as file:
        assert file.in_eight_bits
        files.append(file.copy_to(tmp_path / "two"))
    one, two = map(safetensors.numpy.load_file, files)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert {x.dtype for x in two.values()} == {np.dtype("int8"), np.dtype("float16")}


def test_the_deflated_file_of_before_is_read(tmp_path):
    value = {"a/kernel": np.full((2, 2), 127, np.int8), "a/kernel:largest": np.full((1, 2), 0.5)}
    np.savez_compressed(tmp_path / weights.NPZ_FILE, step=np.asarray(3), **value)
    with weights.open_weights(tmp_path) as file:
        assert file.latest_step() == 3
        np.testing.assert_array_equal(file.restore_params()["a"]["kernel"], np.full((2, 2), 0.5))
    weights.write(tmp_path, {"b": jnp.ones(1)}, 4)
    assert weights.open_weights(tmp_path).latest_step() == 4  # the new one comes first


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_names_that_are_no_tree(tmp_path, names):
    arrays = {name: np.ones(1, np.float32) for name in names}
    safetensors.numpy.save_file(arrays, tmp_path / weights.FILE, {"step": "1"})
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*whole weight file"):
        weights.open_weights(tmp_path)


def test_a_kernel_on_the_grid_is_exact(tmp_path):
    grid = np.random.default_rng(0).integers(-127, 128, size=(64, 64)).astype(np.float32)
    grid[0] = 127  # the largest of every column
    weights.write(tmp_path, {"kernel": jnp.asarray(grid / 127)}, 1)
    (found,) = jax.tree.leaves(weights.open_weights(tmp_path).restore_params())
    np.testing.assert_allclose(found, grid / 127, rtol=1e-6)


def test_what_was_read_is_written_as_it_was(tmp_path):
    """Weights can be handed on from hand to hand."""
    given = params()
    for folder in ("one", "two", "three"):
        weights.write(tmp_path / folder, given, 7)
        given = weights.open_weights(tmp_path / folder).restore_params()
    one, three = (weights.open_weights(tmp_path / f).restore_params() for f in ("one", "three"))
    jax.tree.map(np.testing.assert_array_equal, one, three)


def test_the_inputs_of_attention_are_not_its_heads(tmp_path):
    """One of 96 inputs is a hundred times the others: its channels are coarser, no others."""
    kernel = np.random.default_rng(0).normal(size=(2, 96, 4, 16)).astype(np.float32)
    kernel[:, 0, 1] *= 100
    weights.write(tmp_path, {"query": {"kernel": jnp.asarray(kernel)}}, 1)
    (found,) = jax.tree.leaves(weights.open_weights(tmp_path).restore_params())
    error = np.abs(np.asarray(found) - kernel).max(axis=(0, 1, 3))
    assert error[1] > 0.1 and (np.delete(error, 1) < 0.02).all()


def test_small_and_large_values(tmp_path):
    tiny = np.full((64, 64), 3e-8, np.float32)
    tiny[1] = 1e-4
    weights.write(tmp_path, {"kernel": jnp.asarray(tiny)}, 1)
    (found,) = jax.tree.leaves(weights.open_weights(tmp_path).restore_params())
    np.testing.assert_allclose(found, tiny, atol=5e-7)
    weights.write(tmp_path, {"kernel": jnp.zeros((64, 64))}, 1)
    assert not np.any(weights.open_weights(tmp_path).restore_params()["kernel"])
    for bad in (1e5, np.nan):
        with pytest.raises(ValueError, match="kernel contains"):
            weights.write(tmp_path, {"kernel": jnp.full((64, 64), bad)}, 2)
    assert weights.open_weights(tmp_path).latest_step() == 1


def test_reads_like_checkpoints(tmp_path):
    weights.write(tmp_path, params(), 7)
    with weights.open_weights(tmp_path) as file:
        assert file.latest_step() == 7
        spec = file.stored_params(7)
        assert named_leaves(spec)["params/conv/kernel"].shape == (3, 3, 32, 64)
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), spec)
        assert {x.dtype.name for x in jax.tree.leaves(file.restore_params(half))} == {"bfloat16"}
        with pytest.raises(FileNotFoundError, match="step 8 .* 7 alone"):
            file.restore_params(step=8)
        other = jax.eval_shape(lambda: params(hidden=32))
        with pytest.raises(CheckpointError, match=r"conv/bias is \(64,\) there and \(32,\) here"):
            file.restore_params(other)


def test_weights_lie_where_they_are_asked_to(tmp_path):
    trainer = toy.make_trainer()
    abstract = trainer.abstract_state(toy.spec()).params
    state = trainer.init_state(jax.random.key(0), toy.spec())
    weights.write(tmp_path, state.params, 0)
    found = weights.open_weights(tmp_path).restore_params(abstract)
    for wanted, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(found), strict=True):
        assert leaf.sharding == wanted.sharding


def test_checkpoints_come_before_a_weight_file(tmp_path):
    weights.write(tmp_path, params(), 7)
    trainer = toy.make_trainer()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(9, trainer.init_state(jax.random.key(0), toy.spec()))
    with weights.open_weights(tmp_path) as found:
        assert found.latest_step() == 9


def test_what_is_no_weight_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints"):
        weights.open_weights(tmp_path)
    path = weights.write(tmp_path, params(), 7)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*whole weight file .*again"):
        weights.open_weights(tmp_path)
    path.write_text("")
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*whole weight file"):
        weights.open_weights(tmp_path)
