"""The closed vocabulary of axis names, and the initialisers that go with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.unet import VideoUNet
from vidgen.nn import axes, initializers
from vidgen.types import Conditioning, TextEmbedding


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"\['head'\].*nn/axes.py has \['batch', .*'heads'"):
        axes.check_names(("batch", "head"))
    with pytest.raises(ValueError, match="embde"):
        axes.partitioned(initializers.zeros, ("embde", "mlp"))
    with pytest.raises(ValueError, match="wide"):
        axes.constrain(jnp.zeros((1, 2)), "batch", "wide")
    with pytest.raises(ValueError, match="out"):
        axes.dense(4, ("embed", "out"), name="x")


def test_none_is_a_name_for_axes_that_are_never_split():
    axes.check_names((None, "mlp"))


@pytest.mark.parametrize("names", [("cond", "cond"), ("kernel", "kernel", "conv_in", "conv_out")])
def test_no_name_comes_twice(names):
    """Rules of flax and t5x refuse it."""
    with pytest.raises(ValueError, match=f"have the name '{names[0]}' twice"):
        axes.partitioned(initializers.zeros, names)


def test_parameter_and_activation_names_are_apart():
    assert not set(axes.PARAMETER_AXES) & set(axes.ACTIVATION_AXES)
    assert set(axes.AXES) == set(axes.PARAMETER_AXES) | set(axes.ACTIVATION_AXES)


def test_constrain_without_a_mesh_changes_nothing():
    x = jnp.arange(2.0 * 3 * 4 * 4 * 2).reshape(2, 3, 4, 4, 2)
    np.testing.assert_array_equal(axes.constrain_video(x), x)


def test_boxes_hold_the_value_and_its_names():
    box = axes.partitioned(initializers.ones, ("embed", "mlp"))(
        jax.random.key(0), (2, 3), jnp.float32
    )
    assert box.names == ("embed", "mlp")
    np.testing.assert_array_equal(box.unbox(), np.ones((2, 3)))


def test_dense_names_its_kernel_and_bias():
    params = axes.dense(3, ("embed", "mlp"), name="layer").init(
        jax.random.key(0), jnp.zeros((1, 2))
    )
    assert params["params"]["kernel"].names == ("embed", "mlp")
    assert params["params"]["bias"].names == ("mlp",)


EVERYTHING = VideoUNet(
    guidance_head=True,
    levels=(
        LevelSpec(width=16, blocks=1, stride=2, temporal="conv"),
        LevelSpec(
            width=24,
            blocks=2,
            stride=2,
            spatial="attention",
            text="attention",
            temporal="attention+conv",
            feed_forward=2,
            head_dim=8,
        ),
    ),
    cond_width=32,
    frame_positions=4,
    pixel_positions=8,
)


@pytest.mark.parametrize("norm", ["group", "channel"])
def test_every_axis_of_every_parameter_has_a_name(norm):
    b, t = 1, 2
    video = jnp.zeros((b, t, 8, 8, 3))
    cond = Conditioning(
        text=TextEmbedding(tokens=jnp.zeros((b, 3, 5)), mask=jnp.ones((b, 3), bool)),
        independent_frames=jnp.zeros(b, bool),
        low_res=video,
        aug_logsnr=jnp.zeros(b),
        known_frames=jnp.zeros((b, t), bool),
        guidance_weight=jnp.zeros(b),
    )
    init = EVERYTHING.clone(norm=norm).init
    params = jax.eval_shape(init, jax.random.key(0), video, jnp.zeros(b), cond)
    boxes = jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, axes.Named))
    assert len(boxes) > 60
    for path, box in boxes:
        where = jax.tree_util.keystr(path)
        assert isinstance(box, axes.Named), where
        assert len(box.names) == box.value.ndim, where
        assert box.value.dtype == jnp.float32, where
        axes.check_names(box.names)
        # Unnamed are the axes of sinusoids and Fourier features, which are our own numbers, and
        # those whose name another axis of the array has.
        scalars = ("logsnr", "aug_logsnr", "guidance_weight", "frame_position", "pixel_position")
        scalars += ("cond0", "cond1")  # from the conditioning vector to itself
        taps = [None, "kernel"]
        is_square = any([*box.names[i : i + 2]] == taps for i in (0, 1))
        assert None not in box.names or path[1].key in scalars or is_square, where
        assert len({*box.names} - {None}) == len(box.names) - box.names.count(None), where
        stacked = path[1].key[:-1] in ("down", "up")
        assert (box.names[0] == "layers") == stacked, where
