"""The seven stages at their published sizes: what the paper says of each (papers.md A1, A2, A4)."""

import dataclasses
import math

import jax
import pytest

from vidgen.config import gin_utils
from vidgen.imagen.conditioning import SpatialUpsample, TemporalUpsample
from vidgen.plan import memory
from vidgen.plan.estimate import Plan
from vidgen.train.partitioning import unbox
from vidgen.train.train import Train
from vidgen.types import STAGES, VideoShape

PUBLISHED = dict(zip(STAGES, (5.6e9, 1.7e9, 1.4e9, 1.2e9, 780e6, 630e6, 340e6), strict=True))
FRAMES = dict(zip(STAGES, (16, 32, 32, 32, 64, 128, 128), strict=True))
HEIGHTS = dict(zip(STAGES, (24, 24, 48, 192, 192, 192, 768), strict=True))
WIDTHS = dict(zip(STAGES, (40, 40, 80, 320, 320, 320, 1280), strict=True))
RATES = dict(zip(STAGES, (3, 6, 6, 6, 12, 24, 24), strict=True))
PIXELS = dict(
    zip(STAGES, (15360, 30720, 122880, 1966080, 3932160, 7864320, 125829120), strict=True)
)


@pytest.fixture(scope="module")
def stages():
    with gin_utils.session(["runs/plan.gin", "experiments/imagen_cascade_paper.gin"]):
        plan = gin_utils.build(Plan)
        unused = set(gin_utils.unused_bindings())
    # There is no one model: these are for runs of one, and for the plan of captions.
    assert set(unused) == {
        "MODEL",
        "CLIP_SHAPE",
        "TRAIN_SHAPE",
        "vidgen.train.trainer.Trainer.model",
        "vidgen.plan.text_encoding.TextPlan.text_encoder",
        "vidgen.plan.text_encoding.TextPlan.batch_size",
    }
    assert (plan.text_encoder.length, plan.text_encoder.dim) == (64, 4096)
    return {trainer.model.name: trainer.model for trainer in plan.trainers}


@pytest.fixture(scope="module")
def parameters(stages):
    """Parameters of the modules of each stage; a clip of 2 x 64 x 64 pixels has as many as a whole
    one, and every stage is built of blocks for any."""

    def counted(stage):
        small = VideoShape(frames=2, height=64, width=64)
        batch = dataclasses.replace(stage, train_shape=small).batch_spec(1, 64, 4096)
        params = unbox(jax.eval_shape(stage.init, jax.random.key(0), batch))["params"]
        return {
            name: sum(math.prod(x.shape) for x in jax.tree.leaves(module))
            for name, module in params.items()
        }

    return {name: counted(stage) for name, stage in stages.items()}


def test_parameters_are_those_published(stages, parameters):
    found = {name: sum(modules.values()) for name, modules in parameters.items()}
    assert tuple(found) == STAGES
    for name, published in PUBLISHED.items():
        assert stages[name].published_parameters == published
        assert found[name] == pytest.approx(published, rel=0.02), name
    assert sum(found.values()) == pytest.approx(11.6e9, rel=0.02)
    assert sum(PUBLISHED.values()) == pytest.approx(11.65e9)


def test_clips_are_those_published(stages):
    for name, stage in stages.items():
        shape = stage.shape
        assert (shape.frames, shape.height, shape.width) == (
            *(FRAMES[name], HEIGHTS[name], WIDTHS[name]),
        )
        assert shape.fps == RATES[name]
        assert shape.frames / shape.fps == pytest.approx(16 / 3)
        assert shape.frames * shape.height * shape.width == PIXELS[name]


def test_each_stage_takes_what_the_one_before_gives(stages):
    assert stages["base"].input_shape is None
    for before, after in zip(STAGES, STAGES[1:], strict=False):
        assert stages[after].input_shape == stages[before].shape
    for name in STAGES[1:]:
        kind = TemporalUpsample if name.startswith("tsr") else SpatialUpsample
        assert isinstance(stages[name].conditioner, kind)


def test_operators_are_those_published(stages):
    """Temporal attention in the base alone, convolutions over time elsewhere; attention in space
    in the base and the first two spatial models; text in all."""
    uses = {name: stage.network.operators for name, stage in stages.items()}
    by_operator = {
        operator: {name for name in STAGES if uses[name][operator]} for operator in uses["base"]
    }
    assert by_operator == {
        "spatial attention": {"base", "ssr1", "ssr2"},
        "temporal attention": {"base"},
        "temporal conv": set(STAGES) - {"base"},
        "text attention": set(STAGES),
    }
    for name in STAGES[1:]:  # over time on every level
        assert len(uses[name]["temporal conv"]) == len(stages[name].network.levels)


@pytest.mark.parametrize("name", ["ssr1", "ssr2", "tsr2", "tsr3", "ssr3"])
def test_the_efficient_order(stages, parameters, name):
    """No block at full resolution, and most parameters at the lowest ones (Imagen)."""
    network = stages[name].network
    assert network.patch * network.levels[0].stride >= 2
    widths = [level.width for level in network.levels]
    assert widths == sorted(widths)
    low = range(len(widths) - 2, len(widths))
    counts = parameters[name]
    share = sum(counts[f"{way}{i}"] for way in ("down", "up") for i in low) / sum(counts.values())
    assert share > 0.7


def test_the_last_stage_is_the_same_on_crops_and_on_frames(stages):
    stage = stages["ssr3"]
    network, crop = stage.network, stage.train_shape
    assert network.norm == "channel" and not network.operators["spatial attention"]
    assert network.pixel_positions == network.frame_positions == 0
    assert (crop.height, crop.width) == (256, 256) and crop.frames < stage.shape.frames
    assert crop.height % network.stride == crop.width % network.stride == 0
    for name in STAGES[:-1]:
        assert stages[name].train_shape == stages[name].shape


def test_sampling_is_as_published(stages):
    for name, stage in stages.items():
        assert stage.sampler.steps == (256 if name == "base" else 128)
        weights = stage.guidance.weights(stage.sampler.steps)
        oscillates = name in ("base", "tsr1", "ssr1")
        assert set(weights.tolist()) == ({15.0, 1.0} if oscillates else {6.0}), name
        assert stage.guidance.threshold == ("static" if name == "ssr3" else "dynamic")
        assert stage.text_drop_rate == 0.1
        assert stage.parameterization == "v"


def test_every_shape_fits_its_network(stages):
    for name, stage in stages.items():
        assert stage.network.dtype == "bfloat16" and stage.network.remat == "full"
        assert not stage.network.unroll
        for shape in (stage.shape, stage.train_shape):
            assert shape.height % stage.network.stride == 0, name
            assert shape.width % stage.network.stride == 0, name


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", ["tiny", "demo", "paper"])
def test_what_is_planned_is_what_is_trained(size, name):
    """The stage of the whole cascade is that of its own experiment."""
    with gin_utils.session(["runs/plan.gin", f"experiments/imagen_cascade_{size}.gin"]):
        trainers = gin_utils.build(Plan).trainers
    (planned,) = (trainer.model for trainer in trainers if trainer.model.name == name)
    files = ["runs/train.gin", f"experiments/imagen_{name}_{size}.gin"]
    with gin_utils.session(files, ["MODEL_DIR='m'"]):
        trained = gin_utils.build(Train).trainer.model
    assert planned == trained


def test_what_the_last_stage_holds_on_a_chip_is_the_same_on_64_and_on_1024():
    """Cut over 64; its levels are too narrow for 1,024, over which a quarter would stay whole."""
    with gin_utils.session(["runs/plan.gin", "experiments/imagen_ssr3_paper.gin"]):
        (trainer,) = gin_utils.build(Plan).trainers
    batch = trainer.model.batch_spec(1024, 64, 4096)
    boxed = trainer.boxed_params(trainer.model.batch_spec(1, 64, 4096))

    def state(*shape):
        mesh = dataclasses.replace(trainer.partitioner, mesh_shape=shape)
        own = dataclasses.replace(trainer, partitioner=mesh)
        held = memory.bytes_per_device(own, boxed, batch, math.prod(shape))["bytes_per_device"]
        return held["total"] - held["batch"]

    assert state(1, 64, 1) == state(16, 64, 1) < state(1, 1024, 1) / 10
