"""Estimates of ways to train, by hand on a model of three matrices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy_training as toy
import ways_to_train as ways

from vidgen.config import gin_utils
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.unet import VideoUNet
from vidgen.nn import axes
from vidgen.plan import bound, candidates
from vidgen.plan.candidates import Candidate, Corrections
from vidgen.train.partitioning import Partitioner
from vidgen.types import VideoShape


def parameters():
    model = toy.ToyModel()
    batch = model.batch_spec(1, toy.LENGTH, toy.DIM)
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
    return sum(4 * leaf.size for leaf in jax.tree.leaves(boxed))


def way(mesh="mesh/fsdp.gin", shape=(1, 1, 1), batch=4, remat="none", microbatches=1):
    return Candidate(mesh, shape, batch, remat, microbatches)


def test_every_way_is_tried_once():
    found = list(ways.estimator().candidates(chips=4, batch=8))
    assert len(set(found)) == len(found)
    assert {x.shape for x in found if x.shape[2] == 1} == {(4, 1, 1), (2, 2, 1), (1, 4, 1)}
    assert {x.shape for x in found if x.shape[2] == 4} == {(1, 1, 4)}
    assert {x.batch for x in found} == {8, 4, 2} and {x.remat for x in found} == set(
        ways.WORK.flops
    )
    for x in found:
        data, fsdp, tensor = x.shape
        assert data * fsdp * tensor == 4 and x.batch % (data * fsdp * x.microbatches) == 0
        assert x.mesh == ("mesh/fsdp.gin" if tensor == 1 else "mesh/fsdp_tensor.gin")  # no rows
    # (4, 1, 1), (2, 2, 1), (1, 4, 1): 8 in 1 or 2, 4 in 1
    assert sum(x.shape[2] == 1 and x.remat == "full" for x in found) == 3 * 3


def test_slices_follow_each_other_along_data():
    found = list(ways.estimator(slices=2).candidates(chips=8, batch=8))
    assert {x.shape[0] for x in found} == {2, 4, 8}


def test_one_device_by_hand():
    found = ways.estimator().estimate(way())
    params = parameters()
    counters = 2 * 4
    assert found.state == 5 * params + counters  # with moments, an average and gradients
    assert found.peak == found.state + 4 * 8000
    seconds = found.bound["seconds"]
    assert seconds["compute"] == pytest.approx(4 * 100 / 1e6)
    memory = 2 * found.state + params * 1.5 + 4 * 2 * 8000
    assert seconds["memory"] == pytest.approx(memory / 1e6)
    assert seconds["links"] == seconds["network"] == 0


def test_what_runs_again_costs_time_and_saves_memory():
    none, full = (ways.estimator().estimate(way(remat=remat)) for remat in ("none", "full"))
    assert full.bound["seconds"]["compute"] == pytest.approx(4 * 140 / 1e6)
    assert full.peak - full.state == 4 * (1000 + 8000 / 8) < none.peak - none.state


def test_microbatches_gather_again_and_hold_less():
    two_devices = functools.partial(way, shape=(1, 2, 1))
    one, two = (ways.estimator().estimate(two_devices(microbatches=m)) for m in (1, 2))
    assert two.peak - two.state == (one.peak - one.state) / 2
    inputs = 2 * 4 * 4 + toy.DIM
    cut = 4 * (inputs * 16 + 16 + 16 * 32)  # by embed; what begins with mlp is whole
    summed = parameters() - cut
    # Over all devices, gathers and scattered sums are all-reduces, of twice the bytes.
    assert one.bound["seconds"]["links"] == pytest.approx((2 * 3 * cut / 2 + summed) / 1e6)
    assert two.bound["seconds"]["links"] == pytest.approx((2 * 6 * cut / 2 + summed) / 1e6)


def test_gathers_over_a_part_of_the_devices_are_gathers():
    links = [
        ways.estimator().estimate(way(shape=(data, 2, 1), batch=4 * data)).bound["seconds"]["links"]
        for data in (1, 2)
    ]
    inputs = 2 * 4 * 4 + toy.DIM
    cut = 4 * (inputs * 16 + 16 + 16 * 32)
    share = parameters() - cut / 2
    assert links[0] - links[1] == pytest.approx((3 * cut / 2 - share) / 1e6)


def rows_estimator(model):
    partitioner = {name: unet_mesh(name) for name in candidates.MESHES}
    work = ways.WORK
    return candidates.Estimator(ways.trainer(model), partitioner, (3, 8), work, ways.CHIP, 1)


def unet_mesh(name):
    with gin_utils.session([name]):
        return gin_utils.build(gin_utils.named_by("MESH"))


@pytest.mark.parametrize("height, devices", [(8, {2, 4, 8}), (12, {2, 4}), (3, set())])
def test_rows_are_cut_where_all_levels_have_enough_of_them(height, devices):
    shape = VideoShape(frames=2, height=height, width=8)
    model = dataclasses.replace(stage(), shape=shape)
    candidate = rows_estimator(model).candidates(chips=8, batch=8)
    space = [x for x in candidate if x.mesh == candidates.SPACE]
    assert {x.shape[2] for x in space} == devices
    assert all("space" in str(x) and "tensor" not in str(x) for x in space)


def test_rows_over_devices_by_hand():
    estimates = rows_estimator(stage())
    one = estimates.estimate(way(shape=(4, 1, 1), batch=4))
    four = estimates.estimate(way(candidates.SPACE, shape=(1, 1, 4), batch=1))
    assert four.state == one.state  # every device has all parameters
    assert four.peak - four.state == (one.peak - one.state) / 4
    seconds = [x.bound["seconds"] for x in (one, four)]
    assert seconds[1]["compute"] == pytest.approx(seconds[0]["compute"] / 4)
    copies = 8000 * 2 * 3.5 / 4 - 8000 * 2  # of an example's rows with those of neighbors
    assert seconds[1]["memory"] - seconds[0]["memory"] == pytest.approx(copies / 1e6)
    borders = 4000 * 4 / 8  # of 8 rows one from either neighbor, in both passes
    assert seconds[1]["links"] - seconds[0]["links"] == pytest.approx(borders / 1e6)


def test_a_network_between_slices_sums_what_each_chip_has():
    found = ways.estimator(slices=2).estimate(way(shape=(2, 2, 1), batch=4))
    alone = ways.estimator().estimate(way(shape=(1, 2, 1), batch=4))
    own = (alone.state - 2 * 4) / 5
    assert found.bound["seconds"]["network"] == pytest.approx(own / 1e5)
    assert found.bound["seconds"]["links"] == pytest.approx(alone.bound["seconds"]["links"])


def test_what_was_compiled_corrects_its_own_kind_first():
    plans, first = ways.estimator(), way()
    before = plans.estimate(first)
    program = {"peak_bytes_per_device": before.state + 2 * 4 * 8000}
    program["bound"] = {"seconds": dict(before.bound["seconds"]) | {"compute": 0.001}}
    plans.correct(first, program)
    after = plans.estimate(first)
    assert after.peak == pytest.approx(program["peak_bytes_per_device"])
    assert after.bound["seconds"]["compute"] == pytest.approx(0.001)
    other = plans.estimate(way(remat="full"))  # what is known of none is better than nothing
    assert other.peak - other.state == pytest.approx(2 * 4 * (1000 + 8000 / 8))
    plans.correct(way(remat="full"), {"peak_bytes_per_device": other.state + 4 * 2000})
    assert plans.estimate(way(remat="full")).peak == pytest.approx(other.state + 4 * 2000)
    assert plans.estimate(first).peak == pytest.approx(after.peak)


def test_a_peak_that_the_compiler_does_not_say_is_more_than_was_thought():
    plans = ways.estimator()
    before = plans.estimate(way())
    plans.correct(way(), {"peak_bytes_per_device": None})
    assert plans.estimate(way()).peak == pytest.approx(2 * before.peak)


def test_corrections_without_any_are_one():
    assert Corrections().of("peak", ("mesh/fsdp.gin", "none")) == 1.0


def stage(remat="full"):
    level = LevelSpec(width=8, blocks=2, temporal="conv", text="attention", head_dim=8)
    return DiffusionStage(
        name="base",
        shape=VideoShape(frames=2, height=8, width=8),
        network=VideoUNet(
            levels=(level,), cond_width=8, cond_layers=1, pool_queries=1, norm="channel"
        ).clone(remat=remat),
    )


def test_the_work_of_an_example_is_read_off_its_program():
    rules = tuple((name, "data" if name == "batch" else None) for name in axes.AXES)
    here = Partitioner(rules=rules, mesh_axes=("data",), mesh_shape=(1,), device_count=1)
    found = candidates.work_of(dataclasses.replace(ways.trainer(stage()), partitioner=here), (3, 8))
    assert found.model_flops == found.flops["none"] <= found.flops["dots"] < found.flops["full"]
    assert found.kept["full"] < found.kept["dots"] <= found.kept["products"] < found.kept["none"]
    video = np.prod((2, 8, 8, 3)) * 4
    assert found.kept["full"] > video


def test_a_model_without_the_setting_has_one_way_to_compute():
    assert bound.networks_with_remat(toy.ToyModel()) == {}
    assert bound.with_remat(stage(), "dots").network.remat == "dots"
