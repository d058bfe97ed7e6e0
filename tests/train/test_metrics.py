"""The log: exact sums, one line a step after any number of restarts, valid JSON always.

Tests of vidgen/train/wandb_board.py too.
"""

import json
import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from places import ROOT

from vidgen.train.metrics import Accumulator, MetricsWriter, to_floats
from vidgen.types import Mean


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_accumulates_weighted_means():
    log = Accumulator()
    log.add({"loss": Mean.of(jnp.array([1.0, 3.0]))})
    log.add({"loss": Mean.of(jnp.array([8.0]), jnp.array([2.0]))})
    assert log.result() == {"loss": 5.0}
    assert log.result() == {}


def test_nothing_counted_is_nan():
    found = to_floats({"b": Mean.of(jnp.array([1.0]), jnp.array([0.0])), "a": Mean.of(2.0)})
    assert list(found) == ["a", "b"] and found["a"] == 2.0 and math.isnan(found["b"])


def test_half_filled_sums_survive_exactly():
    rng = np.random.default_rng(0)
    values = [{"x": Mean.of(jnp.float32(v))} for v in rng.normal(size=20)]
    whole, first, second = Accumulator(), Accumulator(), Accumulator()
    for value in values:
        whole.add(value)
    for value in values[:7]:
        first.add(value)
    second.set_state(json.loads(json.dumps(first.state())))
    for value in values[7:]:
        second.add(value)
    assert second.result() == whole.result()
    second.set_state({})
    assert second.result() == {}


def test_lines_beyond_the_restored_step_go(tmp_path):
    writer = MetricsWriter(tmp_path, boards=False)
    for step in (10, 20, 30):
        writer.write(step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    writer = MetricsWriter(tmp_path, resume_step=20, boards=False)
    writer.write(30, {"other": 1.0, "loss": 9.0})
    assert lines(tmp_path) == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 30, "loss": 9.0, "other": 1.0},
    ]
    assert list(lines(tmp_path)[2]) == ["step", "loss", "other"]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_first_start_forgets_an_earlier_run_without_checkpoint(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    MetricsWriter(tmp_path, boards=False)
    assert lines(tmp_path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_null(tmp_path, value):
    MetricsWriter(tmp_path, boards=False).write(1, {"loss": value})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'


def test_tensorboard_gets_numbers_and_clips(tmp_path, caplog):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5, "of_no_example": math.nan})
    writer.write_video(1, "samples", np.zeros((2, 3, 4, 4, 3), np.float32))
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"samples" in content and b"PNG" in content
    assert b"of_no_example" not in content and not caplog.records  # tensorboardX warns of NaN


BOTH_CALLS = """
import sys, numpy as np
from vidgen.train.metrics import MetricsWriter
for step in (1, 2):
    writer = MetricsWriter(sys.argv[1], resume_step=step - 1)
    writer.write(step, {"loss": 0.5})
    writer.write_video(step, "samples", np.zeros((2, 3, 4, 4, 3), np.float32))
    writer.close()
"""


def test_weights_and_biases_get_the_same_where_they_are_asked_for(tmp_path):
    """For real, but offline. A run that goes on has the same identity."""
    env = os.environ | {"WANDB_PROJECT": "vidgen-test", "WANDB_MODE": "offline"}
    env |= {"WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        env[name] = str(tmp_path / "elsewhere")
    command = [sys.executable, "-c", BOTH_CALLS, str(tmp_path / "run")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    logs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({log.name for log in logs}) == 1 <= len(logs)
    assert all(b"loss" in log.read_bytes() for log in logs)
    assert len(list((tmp_path / "run" / "wandb").rglob("samples_*.png"))) == 2
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]


def test_weights_and_biases_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r'pip install "vidgen\[wandb\]", or unset it'):
        MetricsWriter(tmp_path)
