"""The plan of a model small enough to be counted by hand.

Tests of vidgen/plan/memory.py too.
"""

import dataclasses
import json
import re

import compiled_programs
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vidgen.model import Model
from vidgen.plan.estimate import Plan, count_by_module
from vidgen.plan.memory import shard_bytes
from vidgen.text.encoder import NoText
from vidgen.train.optimizers import Adafactor, AdamW, LearningRate
from vidgen.train.partitioning import Partitioner
from vidgen.train.trainer import Trainer
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"), ("pixels", None))
SHAPE = VideoShape(frames=2, height=4, width=4, fps=3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoLayers(Model):
    """Pixels [c=3] to 8 hidden to 3, one product a pixel each; parameters 24 + 8 + 24 = 56."""

    name: str = "base"
    shape: VideoShape = SHAPE
    published_parameters: float | None = 50.0

    def init(self, key, batch):
        def box(shape, names):
            return nn.LogicallyPartitioned(jax.random.normal(key, shape), names)

        up = {"kernel": box((3, 8), ("pixels", "mlp")), "bias": box((8,), ("embed",))}
        return {"params": {"net": {"up": up, "down": {"kernel": box((8, 3), ("mlp", "pixels"))}}}}

    def loss(self, params, frozen, batch, key, *, train):
        net = params["params"]["net"]
        hidden = jnp.tanh(batch.video @ net["up"]["kernel"] + net["up"]["bias"])
        return jnp.mean((hidden @ net["down"]["kernel"] - batch.video) ** 2), {}

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        spec = jax.ShapeDtypeStruct
        return VideoBatch(
            video=spec((batch_size, *self.shape.thwc), jnp.float32),
            text=TextEmbedding(
                tokens=spec((batch_size, text_length, text_dim), jnp.float32),
                mask=spec((batch_size, text_length), bool),
            ),
            independent_frames=spec((batch_size,), bool),
        )


def trainer(mesh_shape=(-1, 1, 1), model=None, optimizer=None, **settings) -> Trainer:
    rate = LearningRate(peak=1e-3)
    return Trainer(
        model=model or TwoLayers(),
        partitioner=Partitioner(rules=RULES, mesh_shape=mesh_shape),
        optimizer=optimizer or AdamW(learning_rate=rate),
        **settings,
    )


def plan(*trainers, batch_size=8, **settings) -> Plan:
    text = NoText(length=5, dim=7)
    return Plan(
        trainers=trainers or (trainer(),), text_encoder=text, batch_size=batch_size, **settings
    )


def test_everything_on_one_device_by_hand():
    (model,) = plan(device_count=1).report()["models"]
    assert model["name"] == "base"
    assert model["parameters"] == 3 * 8 + 8 + 8 * 3
    assert model["published_parameters"] == 50
    assert model["output_shape"] == [2, 4, 4, 3]
    assert model["modules"] == {"net/down": 24, "net/up": 32}
    batch = 8 * (2 * 4 * 4 * 3 * 4 + 5 * 7 * 4 + 5 + 1)
    params = 56 * 4
    counters = 2 * 4  # AdamW's, and its learning rate's
    assert model["bytes_per_device"] == {
        "parameters": params,
        "optimizer_state": 2 * params + counters,
        "averaged_parameters": params,
        "gradients": params,
        "batch": batch,
        "total": 5 * params + counters + batch,
    }
    assert model["notes"] == []


def test_flops_by_hand():
    (model,) = plan().report()["models"]
    layer = 2 * (2 * 4 * 4) * 3 * 8  # one of the two products, for one example
    assert model["flops_forward_per_example"] == 2 * layer
    # Backwards: two weight gradients and dL/d(hidden); the video needs none.
    assert model["flops_per_step_per_example"] == (2 + 3) * layer
    assert model["flops_per_step"] == 8 * 5 * layer


def test_a_mesh_that_is_not_here_splits_what_its_rules_say():
    (model,) = plan(trainer((-1, 2, 4)), device_count=16).report()["models"]
    assert model["mesh"] == {"data": 2, "fsdp": 2, "tensor": 4}
    # Kernels split 4 ways (mlp on tensor), the bias 2 ways (embed on fsdp); the batch 4 ways.
    own = 4 * (24 // 4 + 8 // 2 + 24 // 4)
    found = model["bytes_per_device"]
    assert found["parameters"] == found["gradients"] == found["averaged_parameters"] == own
    assert found["optimizer_state"] == 2 * own + 2 * 4
    assert found["batch"] == 2 * (2 * 4 * 4 * 3 * 4 + 5 * 7 * 4 + 5 + 1)


def test_an_axis_that_does_not_divide_is_noted():
    (model,) = plan(trainer((1, 1, 3))).report()["models"]
    assert model["devices"] == 3
    assert model["bytes_per_device"]["parameters"] == 56 * 4
    assert any("mlp (8) replicated" in note for note in model["notes"])


@pytest.mark.parametrize("mesh_shape, devices", [((2, 3, 1), 6), ((-1, 5, 1), 5)])
def test_the_mesh_shape_says_how_many_devices(mesh_shape, devices):
    (model,) = plan(trainer(mesh_shape), batch_size=30).report()["models"]
    assert model["devices"] == devices


def test_no_averaging_no_bytes():
    (model,) = plan(trainer(ema_decay=None)).report()["models"]
    assert model["bytes_per_device"]["averaged_parameters"] == 0


def test_factored_moments_are_smaller():
    rate = LearningRate(peak=1e-3)
    adafactor = Adafactor(learning_rate=rate, momentum=None, min_factored_size=2)
    (model,) = plan(trainer(optimizer=adafactor), device_count=1).report()["models"]
    # Rows and columns of two 3 x 8 kernels, the bias in full; plus placeholders and counters.
    state = model["bytes_per_device"]["optimizer_state"]
    assert 4 * (2 * (3 + 8) + 8) <= state < 4 * 56


def test_several_models_are_a_list():
    second = trainer(model=TwoLayers(name="ssr1", published_parameters=None))
    models = plan(trainer(), second).report()["models"]
    assert [model["name"] for model in models] == ["base", "ssr1"]
    assert models[1]["published_parameters"] is None


def test_json_is_one_object(capsys):
    run = plan(as_json=True)
    run()
    assert json.loads(capsys.readouterr().out) == run.report()


def test_table_says_the_same(capsys):
    plan(trainer((1, 1, 3)))()
    text = capsys.readouterr().out
    for part in (
        "base: 56 parameters (+12.0% against the published 50)",
        "output  2 x 4 x 4 x 3 at 3 fps",
        "3 device(s): data 1, fsdp 1, tensor 3",
        "net/up    32  57.1%",
        "a step of 8 examples",
        "note: ",
    ):
        assert part in text, text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_compile_reports_what_the_real_step_needs(capsys):
    run = plan(trainer((1, 1, 1)), compile=True)
    (model,) = run.report()["models"]
    assert model["fits"] is True
    found = model["bytes_per_device"]
    # State and batch are the step's arguments; the new state takes the old one's place.
    held = found["parameters"] + found["optimizer_state"] + found["averaged_parameters"]
    assert held < model["peak_bytes_per_device"] < 100 * (held + found["batch"])
    # The layer after the first needs its activations in the backward pass.
    assert 0 < model["temporary_bytes_per_device"] <= model["peak_bytes_per_device"] - held
    assert "compiling" in capsys.readouterr().err
    run()
    assert re.search(r"temporary +\d.*\n +fits +yes", capsys.readouterr().out)


def test_what_does_not_fit_is_said(monkeypatch, capsys):
    monkeypatch.setattr("vidgen.plan.programs.memory_of", lambda device, devices: 100)
    run = plan(trainer((1, 1, 1)), compile=True)
    assert run.report()["models"][0]["fits"] is False
    run()
    out = capsys.readouterr().out
    assert re.search(r"fits +no\n", out)


def test_nothing_is_allocated():
    large = TwoLayers(shape=VideoShape(frames=10_000, height=10_000, width=10_000))
    (model,) = plan(trainer(model=large), batch_size=1024).report()["models"]
    assert model["bytes_per_device"]["batch"] > 10**16


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="Plan.batch_size is 0"):
        plan(batch_size=0)
    with pytest.raises(ValueError, match="trainers is empty"):
        Plan(trainers=(), text_encoder=NoText(length=1, dim=1), batch_size=1)
    with pytest.raises(ValueError, match="batch of 3 .* 2 devices"):
        plan(trainer((2, 1, 1)), batch_size=3).report()


def test_modules_are_two_names_deep():
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    tree = {"a": {"b": {"c": {"w": leaf}, "w": leaf}}, "d": {"w": leaf}, "w": leaf}
    assert count_by_module(tree) == {"a/b": 12, "d": 6, "w": 6}
    assert count_by_module({"params": tree}) == {"a/b": 12, "d": 6, "w": 6}


@pytest.mark.parametrize(
    "spec, expected",
    [
        (PartitionSpec(), 4 * 6 * 8),
        (PartitionSpec("x"), 4 * 3 * 8),
        (PartitionSpec(None, ("x", "y")), 4 * 6 * 1),
        (PartitionSpec("y", "x"), 4 * 2 * 4),
    ],
)
def test_shard_bytes(spec, expected):
    array = jax.ShapeDtypeStruct((6, 8), jnp.float32)
    assert shard_bytes(array, spec, {"x": 2, "y": 4}) == expected


PROGRAM = """
import importlib.util, math, sys
import jax
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
sys.modules["helpers"] = helpers
spec.loader.exec_module(helpers)
trainer = helpers.trainer((2, 2, 2))
run = helpers.plan(trainer)
(model,) = run.report()["models"]
state = trainer.abstract_state(trainer.model.batch_spec(8, 5, 7))
real = sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)
)
found = model["bytes_per_device"]
planned = found["parameters"] + found["optimizer_state"] + found["averaged_parameters"]
assert planned + 4 == real, (planned, real)  # 4: the step counter
"""


@pytest.mark.multidevice
def test_bytes_are_those_of_the_trainer_on_eight_devices(warm, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    flags = compiled_programs.xla_flags(8)
    done = warm(tmp_path / "program.py", __file__, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
