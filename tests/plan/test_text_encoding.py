"""Where captions are best encoded, in closed form and by the command."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from vidgen.cli import main
from vidgen.config import gin_utils
from vidgen.plan import programs
from vidgen.plan.text_encoding import TextPlan
from vidgen.text.encoder import CachedEncoder, NoText
from vidgen.text.t5 import T5
from vidgen.text.t5_network import Size
from vidgen.train.chips import CHIPS
from vidgen.train.partitioning import Partitioner

SIZE = Size(width=8, layers=2, heads=2, mlp=16, head_dim=4, vocabulary=32)
LENGTH = 4
# Of a token: four products with 8 x 8 and three with 8 x 16, each layer twice for the multiply-add,
# and the attention of 4 tokens to 4.
WORK = 2 * 2 * LENGTH * (4 * 8 * 8 + 3 * 8 * 16) + 2 * 2 * 2 * 2 * LENGTH * LENGTH * 4
CHIP = CHIPS["TPU v5"]


@pytest.fixture
def chips(monkeypatch):
    """Eight v5p of two hosts."""
    devices = [SimpleNamespace(device_kind="TPU v5", process_index=n // 4) for n in range(8)]
    monkeypatch.setattr(programs, "topology", lambda name: devices)


def plan(mesh=None, **settings):
    encoder = CachedEncoder(encoder=T5(size=SIZE, length=LENGTH, mesh=mesh))
    given = {"batch_size": 6, "captions": 1000, "topology": "v5p:2x2x2"}
    return TextPlan(text_encoder=encoder, **given | settings)


def fsdp():
    with gin_utils.session(["mesh/fsdp.gin"]):
        return gin_utils.build(Partitioner)


def test_operations_and_bytes(chips):
    found = plan(epochs=2.5, tokens=3.0, dtype="bfloat16").report()
    beside, cache = found["ways"]["beside"], found["ways"]["cache"]
    assert (beside["encoded"], cache["encoded"]) == (2500, 1000)
    assert (beside["flops"], cache["flops"]) == (2500 * WORK, 1000 * WORK)
    row = 2 + 3 * (2 + 2 * 8) + 16  # a count, three places and states, a key
    assert cache["stored_bytes"] == 1000 * row and cache["moved_bytes"] == 3500 * row
    assert found["parameters"] == SIZE.parameters
    assert (beside["bytes_per_device"], cache["bytes_per_device"]) == (4 * SIZE.parameters, 0)
    assert (beside["stored_bytes"], beside["moved_bytes"]) == (0, 0)


def test_chip_seconds(chips):
    """Of weights so small that they are read as fast as they are used, four chips a host wait."""
    found = plan(epochs=2.0, tokens=3.0).report()["ways"]
    weights = 4 * SIZE.parameters
    a_batch = max(3 * WORK / CHIP.flops, weights / CHIP.memory_rate)
    assert found["beside"]["chip_seconds"] == pytest.approx(4 * a_batch * 2000 / 3)
    a_batch = max(64 * WORK / CHIP.flops, weights / CHIP.memory_rate)
    moved = 3000 * (2 + 3 * (2 + 4 * 8) + 16) / CHIP.network
    assert found["cache"]["chip_seconds"] == pytest.approx(4 * a_batch * 1000 / 64 + moved)


def test_a_mesh_cuts_the_weights_over_the_chips_of_a_host_and_gathers_them(chips):
    found = plan(fsdp()).report()["ways"]["beside"]
    weights = 4 * SIZE.parameters
    assert found["bytes_per_device"] == -(-weights // 4)
    a_batch = max(weights / CHIP.memory_rate, 0.75 * weights / CHIP.links)
    assert found["chip_seconds"] == pytest.approx(4 * a_batch * 1000 / 3)


def test_the_cheaper_way_turns_with_the_epochs(chips):
    """T5-XXL: read once, the cache only costs its traffic; read often, it saves all but one."""
    xxl = dataclasses.replace(plan(), text_encoder=T5(dtype="bfloat16"), batch_size=128)
    once = dataclasses.replace(xxl, job_batch_size=64).report()
    often = dataclasses.replace(xxl, epochs=5.0).report()
    assert (once["cheaper"], often["cheaper"]) == ("beside", "cache")
    ways = often["ways"]
    assert ways["beside"]["chip_seconds"] > 3 * ways["cache"]["chip_seconds"]


def test_the_command_prints_a_table_or_json(capsys):
    """On a CPU, whose rates are not known, operations decide."""
    flags = ["plan", "--gin_file=experiments/imagen_base_tiny.gin", "--gin_file=text/t5.gin"]
    flags += ["--captions=1000", "--epochs=3", "--gin.T5.size='small'"]
    assert main.main(flags) == 0
    told = capsys.readouterr().out
    assert "1,000 captions, 3 epochs" in told and told.rstrip().endswith("cheaper: cache")
    assert "unknown" in told
    assert main.main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ways"]["beside"]["encoded"] == 3000
    assert found["ways"]["cache"]["chip_seconds"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"captions": 0}, "--captions is 0"),
        ({"epochs": -1.0}, "--epochs is -1.0"),
        ({"dtype": "int8"}, "TextPlan.dtype is 'int8'.*float32, bfloat16"),
        ({"text_encoder": NoText()}, "no-text: .*--gin_file=text/t5.gin"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(plan(), **settings)
