"""What the compiler says of a sampling step, and compiling for devices that are not here."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
import toy_training as toy
from jax._src import compiler
from jax.experimental import topologies

from vidgen.diffusion import sampling
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.conditioning import SpatialUpsample
from vidgen.imagen.stage import DiffusionStage
from vidgen.imagen.unet import VideoUNet
from vidgen.nn import axes
from vidgen.plan import programs, tables
from vidgen.plan.estimate import Plan
from vidgen.text.encoder import NoText
from vidgen.train import chips
from vidgen.train.optimizers import AdamW, LearningRate
from vidgen.train.partitioning import Partitioner
from vidgen.train.trainer import Trainer
from vidgen.types import VideoShape

RULES = tuple((name, "data" if name == "batch" else None) for name in axes.AXES)


def stage(width=16, weight=0.0):
    level = LevelSpec(width=8, blocks=1, temporal="conv", text="attention", head_dim=8)
    return DiffusionStage(
        name="ssr3",
        shape=VideoShape(frames=4, height=16, width=width),
        network=VideoUNet(
            levels=(level,), cond_width=8, cond_layers=1, pool_queries=1, norm="channel"
        ),
        conditioner=SpatialUpsample(factor=2),
        guidance=GuidanceSpec(weight=weight),
        sampler=SamplerSpec(steps=3),
    )


def plan(model, **settings):
    trainer = Trainer(
        model=model,
        partitioner=Partitioner(rules=RULES, mesh_axes=("data",), mesh_shape=(1,), device_count=1),
        optimizer=AdamW(learning_rate=LearningRate(peak=1e-3)),
    )
    text = NoText(length=3, dim=8)
    return Plan(trainers=[trainer], text_encoder=text, batch_size=1, **settings)


def test_the_peak_is_said_and_grows_with_the_clip(capsys):
    reports = [plan(stage(w), sampling=True).report(brief=True) for w in (16, 64)]
    small, wide = (report["models"][0]["sampling"] for report in reports)
    assert (small["fits"], small["clips"], small["shape"]) == (True, 1, [4, 16, 16, 3])
    video = 4 * 16 * 16 * 3 * 4  # bytes of z, of the low-resolution video, of z afterwards, of x̂
    assert small["peak_bytes_per_device"] > 4 * video
    assert wide["peak_bytes_per_device"] > 3 * small["peak_bytes_per_device"]
    assert "compiling a sampling step of ssr3" in capsys.readouterr().err
    reports[0]["models"] *= 2
    text = tables.tables(reports[0], details=False)
    peak = f"{small['peak_bytes_per_device'] / 2**30:.3f} GiB"
    assert text.count(f"ssr3:  sampling step  1 x cpu  peak {peak}, there is ") == 2, text


def test_a_program_from_the_cache_says_the_same(monkeypatch):
    """Sizes and text, by which a program for a CPU need not be compiled anew."""

    def report():
        jax.clear_caches()  # of what this process compiled; files stay
        return plan(stage(), sampling=True).report(brief=True)["models"][0]["sampling"]

    first = report()
    monkeypatch.setattr(compiler, "backend_compile_and_load", lambda *_, **__: pytest.fail("anew"))
    assert report() == first and first["operations_per_device"] > 0


def test_the_step_that_is_planned_is_the_one_that_runs(monkeypatch):
    """The arguments are those with which `generate` calls the same program."""
    model, calls = stage(weight=2.0), []
    batch = model.batch_spec(1, 3, 8)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)
    program, planned = model.step_spec(params, 1, 3, 8)
    assert program is sampling.compiled_step
    params, text, low_res = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        (params, batch.text, jax.ShapeDtypeStruct((1, *model.input_shape.thwc), "float32")),
    )

    def called(*arguments):
        calls.append(arguments)
        return arguments[3]

    monkeypatch.setattr(sampling, "compiled_step", called)
    keys = jax.random.split(jax.random.key(0), 1)
    model.generate(params, text, low_res, keys, on_step=lambda *_: None)
    assert len(calls) == 3
    real = jax.tree.map(lambda x: (x.shape, x.dtype) if hasattr(x, "shape") else x, calls[0])
    mine = jax.tree.map(lambda x: (x.shape, x.dtype) if hasattr(x, "shape") else x, planned)
    assert jax.tree.leaves(mine) == jax.tree.leaves(real)


def test_the_steps_of_a_student_and_the_least_seconds_of_its_clip(monkeypatch):
    """Guidance costs it nothing; no device makes a clip faster than its slowest part."""
    rates = chips.Chip(flops=1e12, memory_rate=1e9, links=1e9, network=1e9)
    monkeypatch.setattr(chips, "of", lambda kind: rates)
    taught = plan(stage(weight=2.0), sampling=True).report(brief=True)["models"][0]
    report = plan(stage(weight=2.0), sampling=True, student_steps=4).report(brief=True)
    (model,) = report["models"]
    assert (taught["sampling_steps"], taught["evaluations"]) == (3, 6)
    assert (model["sampling_steps"], model["evaluations"]) == (4, 4)
    program = model["sampling"]
    seconds = program["bound"]["seconds"]
    assert seconds["compute"] == pytest.approx(program["operations_per_device"] / 1e12)
    assert seconds["memory"] == pytest.approx(program["memory_traffic_per_device"] / 1e9)
    assert program["seconds_per_clip"]["overlapped"] == 4 * max(seconds.values())
    assert program["seconds_per_clip"]["alone"] == pytest.approx(4 * sum(seconds.values()))
    text = tables.tables(report, details=True)
    least = f"{program['seconds_per_clip']['overlapped']:.3g}"
    assert re.search(rf"a clip, at least +{re.escape(least)} s", text), text
    assert "a step of 1 examples" not in text  # it is trained otherwise


def test_only_the_sampling_of_stages_is_planned_as_that_of_students():
    with pytest.raises(ValueError, match="leave out --compile, or it"):
        plan(stage(), sampling=True, compile=True, student_steps=8)
    with pytest.raises(ValueError, match="--student_steps=8 .*diffusion stages"):
        plan(toy.ToyModel(), student_steps=8)


def test_a_model_without_sampling_is_named():
    with pytest.raises(ValueError, match="ToyModel"):
        plan(toy.ToyModel(), sampling=True)


# Other devices -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Described:
    devices: list


def test_the_topology_is_what_is_compiled_for(monkeypatch):
    asked, compiled = [], []

    def describe(name, platform, **options):
        asked.append((name, platform, options))
        return Described(jax.devices())

    def compile_for(trainer, text_length, text_dim):
        compiled.append((trainer.partitioner, trainer.model.name, text_length, text_dim))
        return programs.Compiled({"clips": 1}, None, ())

    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    monkeypatch.setattr(programs, "compiled_sampling_step", compile_for)
    plan(stage(), sampling=True, topology="v5p:2x2x1").report(brief=True)
    ((partitioner, *rest),) = compiled
    assert partitioner.mesh.devices.tolist() == jax.devices()[:1] and rest == ["ssr3", 3, 8]
    assert isinstance(partitioner, programs.Elsewhere)
    assert programs.topology("v4:2x2x1") == jax.devices()
    megacore = {"chip_config_name": "megacore"}
    assert asked == [("v5p:2x2x1", "tpu", {}), ("v4:2x2x1", "tpu", megacore)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("JAX TPU support not installed; cannot"), r"pip install \"vidgen\[tpu\]\""),
        (RuntimeError("Invalid TPU external name: v99"), "refused by libtpu .*v99.*like v5p:2x2x1"),
    ],
)
def test_a_topology_that_is_not_to_be_had(monkeypatch, error, words):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ValueError, match=words):
        plan(stage(), sampling=True, topology="v99:1x1").report()


def test_a_topology_needs_something_to_compile():
    with pytest.raises(ValueError, match="add --sampling or --compile"):
        plan(stage(), topology="v5p:2x2x1")


def test_the_effort_of_the_compiler_is_for_one_report(monkeypatch):
    seen = []

    def noted(*_):
        seen.append(jax.config.jax_optimization_level)
        return programs.Compiled({"clips": 1}, None, ())

    monkeypatch.setattr(programs, "compiled_sampling_step", noted)
    plan(stage(), sampling=True, effort="O1").report(brief=True)
    plan(stage(), sampling=True).report(brief=True)
    assert seen == ["O1", "UNKNOWN"] and jax.config.jax_optimization_level == "UNKNOWN"
    with pytest.raises(ValueError, match="--effort=O9 .*O0, O1, O2, O3"):
        plan(stage(), sampling=True, effort="O9")


def test_a_partitioner_elsewhere_takes_all_devices_or_as_many_as_it_says():
    four = [object()] * 4
    mesh = Partitioner(rules=RULES, mesh_axes=("data",), mesh_shape=(-1,))
    assert programs.Elsewhere.of(mesh, four).sizes() == {"data": 4}
    two = dataclasses.replace(mesh, device_count=2)
    assert programs.Elsewhere.of(two, four).sizes() == {"data": 2}
    with pytest.raises(ValueError, match="device_count is 8; the topology has 4"):
        programs.Elsewhere.of(dataclasses.replace(mesh, device_count=8), four)


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        ("Ran out of memory in memory space hbm. Used 47.50G of 31.25G hbm. Exceeded", 47.5),
        ("memory required for HLO temporaries (38.25G) exceeds available HBM (31.25G).", 38.25),
    ],
)
def test_a_compiler_out_of_memory_says_how_much_it_wanted(error, needed):
    found = programs._sizes_in(f"RESOURCE_EXHAUSTED: {error}")
    assert found == (int(needed * 2**30), int(31.25 * 2**30))


def test_what_does_not_fit_is_reported(monkeypatch):
    class Program:
        jaxpr = None

        def trace(self, *arguments):
            return self

        def lower(self):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 2.00G of 1.00G hbm")

    monkeypatch.setattr(DiffusionStage, "step_spec", lambda self, *sizes: (Program(), ()))
    trainer = plan(stage()).trainers[0]
    found = programs.compiled_sampling_step(trainer, 3, 8).report
    assert found["fits"] is False and found["peak_bytes_per_device"] == 2 * 2**30
    assert programs._sizes_in("RESOURCE_EXHAUSTED: something else") == (None, None)
