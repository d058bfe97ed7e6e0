"""Real programs for TPUs, by the compiler in libtpu; there is no TPU here."""

import json

import jax
import jax.numpy as jnp
import pytest
import tpu_programs
from places import HELPERS

from vidgen.plan import programs

TINY = "--gin_file=experiments/phenaki_maskgit_tiny.gin --compile --effort=O0"
COMMANDS = {
    "fits": f"{TINY} --gin_file=mesh/fsdp.gin --topology=v5e:2x2",
    "two slices": f"{TINY} --gin_file=mesh/fsdp.gin --topology=v5e:2x2*2 "
    "--gin.MESH_SHAPE='(2, -1, 1)'",
    "slices across": f"{TINY} --gin_file=mesh/fsdp.gin --topology=v5e:2x2*2",
    "v4": f"{TINY} --gin_file=mesh/fsdp.gin --topology=v4:2x2x1",
    "v6e": f"{TINY} --gin_file=mesh/fsdp.gin --topology=v6e:2x2",
    "fit": f"{TINY.replace('--compile ', '')} --fit --chips=v5p:4 --compiles=1",
    "no such": f"{TINY} --topology=v99:2x2",
}


@pytest.fixture(scope="module")
def plans(warm):
    program = [HELPERS / "fork_for_tpu.py", HELPERS / "plans_for_tpu.py"]
    done = warm(*program, *COMMANDS.values(), TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


def model(plan):
    assert plan["status"] == 0, plan["errors"]
    return plan["report"]["models"][0]


def test_a_step_that_fits(plans):
    found = model(plans["fits"])
    assert found["compiled_for"] == "4 x TPU v5 lite, effort O0" and found["fits"] is True
    held = found["bytes_per_device"]["total"] - found["bytes_per_device"]["gradients"]
    assert held < found["peak_bytes_per_device"] < 2**30
    assert found["device_bytes"] == 16 * 2**30
    # At the least, each device receives what it does not have of the parameters.
    missing = 3 * found["bytes_per_device"]["parameters"]
    assert sum(found["collective_bytes_per_device"].values()) > 0.5 * missing


def test_its_operations_are_those_of_the_package(plans):
    """Counted on the jaxpr and in the compiled program, which leaves products with padding out."""
    for name, devices in (("fits", 4), ("two slices", 8)):
        found = model(plans[name])
        assert found["operations_per_device"] * devices == pytest.approx(
            found["flops_per_step"], rel=0.01
        )
        assert found["memory_traffic_per_device"] > found["bytes_per_device"]["total"]
        assert 0 < found["bound"]["mfu_alone"] < found["bound"]["mfu_overlapped"] < 1


def test_two_slices(plans):
    found = model(plans["two slices"])
    assert found["fits"] is True and found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    received, own = found["collective_bytes_per_device"], found["bytes_per_device"]["gradients"]
    assert own <= received["between slices"] < 4 * own  # small arrays are padded to whole tiles
    assert found["bound"]["waits_for"] == "network"


def test_the_search_for_the_best_way(plans):
    assert plans["fit"]["status"] == 0, plans["fit"]["errors"]
    found = plans["fit"]["report"]
    best = found["best"]
    assert found["compiled"] == 1 < found["candidates"] and found["lost"]
    assert best["compiled"] and best["report"]["fits"] and best["batch"] <= 8
    assert best["bound"]["mfu_alone"] > 0
    assert "--gin.MaskGIT.remat=" in best["flags"] and best["report"]["compiled_for"].startswith(
        "4 x"
    )
    assert {row["compiled"] for row in found["lost"]} == {False}


@pytest.mark.parametrize("generation", ["v4", "v6e"])  # README plans for v5p
def test_our_settings_of_the_compiler_are_good_for(plans, generation):
    found = model(plans[generation])
    assert found["fits"] is True and found["mesh"]["fsdp"] == 4
    assert found["compiled_for"].endswith(", effort O0")


def test_what_cannot_be_planned_is_one_sentence(plans):
    for name, words in (
        ("slices across", "the 8 devices are in 2 slices"),
        ("no such", "--topology=v99:2x2 is refused by libtpu"),
    ):
        plan = plans[name]
        assert plan["status"] == 2 and plan["errors"].splitlines()[-1].startswith("vidgen: error")
        assert words in plan["errors"]


# ---- tests/helpers/tpu_programs.py ---------------------------------------------------------------


def said_by(program):
    stats = program.memory_analysis()
    return stats.argument_size_in_bytes, stats.temp_size_in_bytes


def test_what_is_kept_is_what_the_compiler_said_of_just_this_program(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    asked = []

    def compiler(lowered, platform):
        asked.append(lowered)
        program = lowered.compile()
        return program, program.as_text()

    compile_or_read = tpu_programs.kept(compiler)
    lowered = None
    for number, function in enumerate((jnp.sin, jnp.cumsum), 1):
        lowered = jax.jit(function).lower(jnp.ones(3))
        program, text = compiler(lowered, "tpu")
        for _ in range(2):
            found, again = compile_or_read(lowered, "tpu")
            assert (said_by(found), again) == (said_by(program), text)
        assert len(asked) == 2 * number
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--other")
    compile_or_read(lowered, "tpu")
    with programs.effort("O0"):
        compile_or_read(lowered, "tpu")
    compile_or_read(lowered, "cpu")
    assert len(asked) == 7
