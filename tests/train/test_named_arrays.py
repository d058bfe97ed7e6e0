"""Trees from names, and checkpoints as t5x lays them out.

Tests of vidgen/train/t5x_weights.py too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vidgen.train import named_arrays, t5x_weights
from vidgen.train.checkpoint_errors import CheckpointError
from vidgen.train.weights import open_weights

TREE = {"params": {"stem": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}}


def test_a_tree_of_names():
    assert named_arrays.nested({"a/b": 1, "a/c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    for names in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(TypeError, match="another tensor"):
            named_arrays.nested(dict.fromkeys(names, 1))


@pytest.fixture(params=[True, False], ids=["ocdbt", "folders"])
def run(request, tmp_path):
    """Two checkpoints of the kind that t5x writes with orbax, in either layout."""
    for step in (3, 12):
        tree = jax.tree.map(lambda x, step=step: x + step, TREE)
        state = {"target": tree, "state": {"step": np.array(step), "param_states": {"0": tree}}}
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=request.param)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(tmp_path / f"checkpoint_{step}" / "state", state)
    (tmp_path / "checkpoint_99.orbax-checkpoint-tmp").mkdir()
    return tmp_path


def test_the_weights_of_a_run_of_t5x(run):
    assert t5x_weights.steps(run) == [3, 12] and t5x_weights.steps(run / "none") == []
    with open_weights(run) as reader:
        assert reader.latest_step() == 12
        jax.tree.map(np.testing.assert_array_equal, reader.restore_params(), _plus(12))
        jax.tree.map(np.testing.assert_array_equal, reader.restore_params(step=3), _plus(3))
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), TREE)
        assert reader.restore_params(half)["params"]["stem"]["kernel"].dtype == jnp.bfloat16
        with pytest.raises(FileNotFoundError, match=r"step 4 .*\[3, 12\]"):
            reader.stored_params(4)
        other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, 4), x.dtype), TREE)
        with pytest.raises(CheckpointError, match=r"is \(2, 3\) there and \(2, 4\) here"):
            reader.restore_params(other)


def _plus(step):
    return jax.tree.map(lambda x: x + step, TREE)


def test_a_checkpoint_without_weights(tmp_path):
    (tmp_path / "checkpoint_1").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint_1 .*no weights .*t5x"):
        open_weights(tmp_path).stored_params()
