"""`vidgen plan --explain`: every reason for which an axis is cut or whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vidgen.plan import sharding
from vidgen.train.partitioning import Partitioner

RULES = (("embed", "fsdp"), ("mlp", ("fsdp", "tensor")), ("mlp", "tensor"), ("norm", None))


def boxed(**shapes):
    def leaf(names, *shape):
        return nn.Partitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)

    return {"net": {name: {"kernel": leaf(*value)} for name, value in shapes.items()}}


def told(path="kernel", shape=(1, 4, 2), rules=RULES, **shapes):
    partitioner = Partitioner(rules=rules, mesh_shape=shape)
    return sharding.explain(partitioner, boxed(**shapes), path, 8)


def test_cut_and_whole():
    (text,) = told(one=(("embed", "mlp", "norm", None), 8, 6, 3, 5))
    assert text.splitlines() == [
        "/net/one/kernel  (8, 6, 3, 5) float32, 2.812 KiB, 360 B on each of 8 device(s)",
        "  embed       8  4 parts over fsdp",
        "  mlp         6  2 parts over tensor",
        "  norm        3  whole: its rule says so",
        "  -           5  whole: it has no name",
    ]


def test_reasons():
    (text,) = told(one=(("mlp", "embed"), 8, 9))
    assert "mlp         8  8 parts over fsdp x tensor" in text
    assert "embed       9  whole: fsdp (4) does not divide it" in text
    (text,) = told(one=(("mlp", "embed"), 8, 8), rules=RULES[1:] + RULES[:1])
    assert "embed       8  whole: fsdp (4) cuts another axis" in text
    (text,) = told(one=(("embed",), 8), shape=(8, 1, 1))
    assert "embed       8  whole: fsdp has one device" in text


def test_paths():
    shapes = {"one": (("embed",), 8), "two": (("embed",), 8)}
    assert len(told("/", **shapes)) == 2 and len(told("net/two", **shapes)) == 1
    with pytest.raises(ValueError, match="--explain=thre: .* /net/one, /net/two,"):
        told("thre", **shapes)


def test_of_a_cascade_the_models_that_have_it_tell(vidgen):
    """Tiny's base model has temporal attention, the models after it do not."""
    cascade = "--gin_file=experiments/imagen_cascade_tiny.gin"
    status, out, err = vidgen("plan", cascade, "--explain=temporal_attention/")
    assert status == 0 and "/params/" in out, err
    status, out, err = vidgen("plan", cascade, "--explain=nowhere")
    assert (status, out) == (2, "") and "--explain=nowhere: no parameter has this" in err


def test_the_command(vidgen):
    flags = ["--gin_file=experiments/imagen_base_tiny.gin", "--gin_file=mesh/fsdp.gin"]
    status, out, err = vidgen(
        "plan", *flags, "--gin.Plan.device_count=8", "--explain=down0/residual/conv1"
    )
    assert status == 0, err
    assert "/params/down0/residual/conv1/kernel" in out and "parts over fsdp" in out
