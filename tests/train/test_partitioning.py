"""Rules, meshes and shardings; the mesh itself is exercised on eight devices in test_trainer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy
from jax.sharding import PartitionSpec as P

from vidgen.train.partitioning import Partitioner, unbox

RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"), ("kernel", None))


def boxed(shape, names):
    return {"layer": {"w": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, "float32"), names)}}


def place(shape, names, rules=RULES, mesh_shape=(2, 2, 2)):
    return Partitioner(rules=rules, mesh_shape=mesh_shape).placements(boxed(shape, names), 8)[0]


def test_names_become_mesh_axes():
    found = place((3, 4, 8), ("kernel", "embed", "mlp"))
    assert found.spec == P(None, "fsdp", "tensor")
    assert found.path == "['layer']['w']" and found.note == ""


def test_earlier_rules_win_a_mesh_axis():
    rules = (("mlp", "fsdp"), ("embed", "fsdp"))
    found = place((4, 8), ("embed", "mlp"), rules)
    assert found.spec == P(None, "fsdp")
    assert "embed (4) replicated" in found.note


def test_second_rule_of_a_name_is_its_alternative():
    rules = (("mlp", ("fsdp", "tensor")), ("mlp", "tensor"))
    assert place((8,), ("mlp",), rules).spec == P(("fsdp", "tensor"))
    assert place((6,), ("mlp",), rules).spec == P("tensor")


def test_axis_that_does_not_divide_is_replicated_with_a_note():
    found = place((3, 8), ("embed", "mlp"))
    assert found.spec == P(None, "tensor")
    assert "embed (3) replicated" in found.note
    assert place((3, 8), ("embed", "mlp"), mesh_shape=(-1, 1, 1)).note == ""


def test_unknown_name_is_an_error_that_names_the_parameter():
    with pytest.raises(ValueError, match=r"\['layer'\]\['w'\].*'emebd'.*embed"):
        place((4, 8), ("emebd", "mlp"))


def test_wrong_number_of_names():
    with pytest.raises(ValueError, match="shape"):
        place((4, 8), ("embed",))


def test_parameter_without_names_is_replicated_with_a_note():
    partitioner = Partitioner(rules=RULES)
    found = partitioner.placements({"w": jax.ShapeDtypeStruct((4,), "float32")}, 8)[0]
    assert found.spec == P() and "no logical axis names" in found.note


@pytest.mark.parametrize(
    "shape, count, expected",
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((1, 1, 4), 4, (1, 1, 4)),
    ],
)
def test_free_size_takes_what_is_left(shape, count, expected):
    assert tuple(Partitioner(rules=RULES, mesh_shape=shape).sizes(count).values()) == expected


@pytest.mark.parametrize("shape, count", [((-1, 3, 1), 8), ((2, 2, 1), 8), ((16, 1, 1), 8)])
def test_mesh_that_does_not_fit_the_devices(shape, count):
    with pytest.raises(ValueError, match=f"does not make {count} device"):
        Partitioner(rules=RULES, mesh_shape=shape).sizes(count)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"mesh_shape": (-1, -1, 1)}, r"\(-1, -1, 1\).*one may be -1"),
        ({"mesh_shape": (0, 1, 1)}, r"\(0, 1, 1\).*>= 1"),
        ({"mesh_shape": (1, 1)}, r"\('data', 'fsdp', 'tensor'\).*\(1, 1\)"),
        ({"rules": (("embed", "model"),)}, r"axis 'model'.*\('data', 'fsdp', 'tensor'\)"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Partitioner(**({"rules": RULES} | settings))


def test_too_many_devices_asked_for():
    with pytest.raises(ValueError, match="device_count is 1000; there are"):
        _ = Partitioner(rules=RULES, device_count=1000).mesh


def test_lists_from_gin_are_accepted():
    partitioner = Partitioner(rules=[["batch", ["data", "fsdp"]]], mesh_shape=[-1, 1, 1])
    assert partitioner.batch_sharding().spec == P(("data", "fsdp"))
    assert hash(partitioner) == hash(Partitioner(rules=(("batch", ("data", "fsdp")),)))


def test_what_sampling_is_given_lies_as_its_axes_say():
    """Video as the network's own activations; all else by its rows alone."""
    rules = (("batch", "data"), ("frames", None), ("width", "fsdp"), *RULES)
    rules += (("height", "fsdp"), ("channels", "tensor"))
    partitioner = Partitioner(rules=rules, mesh_shape=(1, 1, 1), device_count=1)
    assert partitioner.sampling_sharding((2, 4, 8, 8, 3)).spec == P(
        "data", None, None, "fsdp", "tensor"
    )
    assert partitioner.sampling_sharding((2, 5, 7)).spec == P("data", None, None)
    assert partitioner.sampling_sharding((2,)).spec == P("data")


def test_batch_sizes_of_devices_that_are_not_here():
    partitioner = Partitioner(rules=RULES, mesh_shape=(-1, 2, 2))
    assert partitioner.batch_ways(16) == 8
    partitioner.check_batch_size(24, 16)
    with pytest.raises(ValueError, match="batch of 12 .* 8 devices"):
        partitioner.check_batch_size(12, 16)


def test_batch_needs_a_rule():
    with pytest.raises(ValueError, match='no .*rule for "batch"'):
        Partitioner(rules=(("embed", None),)).batch_sharding()


def test_global_batch_holds_the_local_data():
    batch = toy.batch()
    found = Partitioner(rules=RULES).to_global(batch)
    assert isinstance(found.video, jax.Array)
    np.testing.assert_array_equal(found.video, batch.video)


def constrained(x):
    return nn.with_logical_constraint(x * 2.0, ("batch", "embed"))


def test_constraints_reach_the_program_only_inside_the_contexts():
    partitioner = Partitioner(rules=RULES)
    x = jnp.ones((8, 4))
    assert "sharding_constraint" in partitioner.jit(constrained).lower(x).as_text()
    assert "sharding_constraint" not in jax.jit(constrained).lower(x).as_text()
    # Calling traces in the same contexts as lowering; the jaxpr shows it too.
    assert "sharding_constraint" in str(partitioner.jit(constrained).trace(x).jaxpr)
    np.testing.assert_array_equal(partitioner.jit(constrained)(x), x * 2)


def test_unbox_leaves_plain_trees_alone():
    x = np.ones(3)
    assert unbox({"a": nn.LogicallyPartitioned(x, ("embed",)), "b": x}) == {"a": x, "b": x}


def test_indivisible_axis_survives_initialisation():
    """Linen's own constraint would refuse a 3-long axis; the partitioner replicates it."""
    rules = (("batch", "data"), ("embed", "fsdp"), ("mlp", None), ("pixels", "fsdp"))
    trainer = toy.make_trainer(rules=rules)
    state = trainer.init_state(jax.random.key(0), toy.spec())
    assert state.params["out_kernel"].shape == (32, 32)
