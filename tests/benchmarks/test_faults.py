"""benchmarks/faults.py: a trial of each kind over two processes, and what it damages and compares.

Tests of benchmarks/fault_processes.py, benchmarks/faults_network.py too.
"""

import json
import os
import platform
import sys
from pathlib import Path

import kept_folders
import numpy as np
import pytest
from places import HELPERS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import faults  # noqa: E402

PROCESSES, STEPS = 2, 24


def sources():
    """The files by which a training gets other numbers."""
    files = [*ROOT.glob("benchmarks/fault*"), HELPERS / "undisturbed_run.py"]
    files += [*ROOT.glob("vidgen/**/*.py"), *ROOT.glob("gin_configs/**/*.gin")]
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


@pytest.fixture
def folder(warm, tmp_path):
    """What `faults.undisturbed` leaves: the shards, and the log, to the bits, on such a machine."""

    def train(folder):
        numbers = (STEPS, PROCESSES, os.environ["JAX_COMPILATION_CACHE_DIR"])
        done = warm(HELPERS / "undisturbed_run.py", folder, *numbers)
        assert done.returncode == 0, done.stderr

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    machine = sorted({line for line in lines if line.startswith(("model name", "flags"))} or lines)
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "av", "grain")
    settings = (PROCESSES, STEPS, machine, os.cpu_count(), flags)
    kept_folders.copied(
        "undisturbed",
        tmp_path / "f",
        train,
        sources=sources(),
        packages=packages,
        settings=settings,
    )
    # Or its programs would be compiled in every run.
    (tmp_path / "f" / "programs").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    return tmp_path / "f"


def test_a_trial_of_each_kind(warm, folder, tmp_path):
    """One run of two processes goes from fault to fault, to the bits of an undisturbed one."""
    flags = [f"--processes={PROCESSES}", f"--steps={STEPS}", f"--folder={folder}"]
    flags += ["--trials=4", "--seed=2"]
    done = warm(ROOT / "benchmarks/faults.py", *flags, f"--output={tmp_path}/lines")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in (tmp_path / "lines").read_text().splitlines()]
    assert [line["kind"] for line in lines] == list(faults.KINDS)
    assert all(line["equal"] and line["compared"] > line["step"] for line in lines), lines
    killed, signaled, stopped, damaged = lines
    assert killed["statuses"][0] == -9 and signaled["statuses"] == [75, 75]
    assert signaled["saving"] and signaled["redone"] == 0
    assert "statuses" not in stopped and damaged["damaged"] % 3 == 0
    logs = [path.read_text() for path in (tmp_path / "f/logs").glob("*.log")]
    assert any("skipped" in log for log in logs)  # examples of the damaged shard
    assert done.stdout.count("| 1 | 1 |") == 4


@pytest.fixture
def run(tmp_path):
    """A run with a log and two checkpoints, of which nothing is started."""
    run = faults.Run(folder=tmp_path, steps=9, processes=2)
    for step in (3, 6):
        folder = run.model_dir / "checkpoints" / f"{step}"
        folder.mkdir(parents=True)
        (folder / "small").write_bytes(b"ab")
        (folder / "large").write_bytes(bytes(range(1, 251)))
    return run


def test_the_log_is_read_while_it_is_written(run):
    assert run.last() == 0 and run.lines() == {}
    line = {"step": 1, "loss": 0.5, "seconds_per_step": 3.0, "host_memory_gib": 1.0}
    file = run.model_dir / "metrics.jsonl"
    file.write_text(json.dumps(line) + "\n" + json.dumps(line | {"step": 2})[:20])
    assert run.lines() == {1: {"loss": 0.5}} and run.last() == 1
    file.write_text("".join(json.dumps(line | {"step": n}) + "\n" for n in range(1, 100)))
    assert run.last() == 99


def test_one_file_of_the_newest_checkpoint_is_damaged(run):
    before = {p: p.read_bytes() for p in run.model_dir.rglob("*") if p.is_file()}
    ways = set()
    for seed in range(12):
        told = faults.damage(run, np.random.default_rng(seed))
        after = {p: p.read_bytes() for p in run.model_dir.rglob("*") if p.is_file()}
        (changed,) = (p for p in before if before[p] != after.get(p))
        folder = run.model_dir / "checkpoints" / "6"
        assert told["damaged"] == 6 and changed == folder / told["file"]
        if told["way"] == "bit":
            bits = np.frombuffer(before[changed], np.uint8) ^ np.frombuffer(after[changed], "u1")
            assert np.unpackbits(bits).sum() == 1
        ways.add(told["way"])
        changed.write_bytes(before[changed])
    assert ways == {"bit", "block", "cut", "gone"}


def test_instants_are_of_the_seed():
    drawn = [faults.Strike.drawn(0, trial, 4) for trial in range(200)]
    for trial, when in enumerate(drawn):
        again = faults.Strike.drawn(0, trial, 4)
        assert (when.lines, when.delay, when.process) == (again.lines, again.delay, again.process)
    assert all(when.process == 0 for when in drawn[::4])
    assert {when.process for when in drawn[1::4]} == set(range(4))
    assert 5 < sum(when.starting for when in drawn) < 40
