"""benchmarks/hosts.py at the least size: the parts of a batch, and what one host opens."""

import argparse
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import hosts  # noqa: E402


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    hosts.make_shards(folder, shards=30, samples=20)
    sizes = {"shards": 30, "samples": 20, "processes": 8, "batch_size": 16, "step": 1000}
    return argparse.Namespace(**sizes, seed=0, process=7, folder=str(folder))


def measured(flags, child):
    files = {".tar": set(), ".npy": set()}
    return hosts.measure(argparse.Namespace(**vars(flags), child=child), files)


@pytest.mark.parametrize("child", ["made", "tar"])
def test_a_row(flags, child):
    row = measured(flags, child)
    assert row["examples"] == 600 and row["process"] == 7
    assert hosts.line(row).count("|") == hosts.HEADER.splitlines()[0].count("|")


def test_parts(flags, monkeypatch):
    hosts.check_parts(flags)
    monkeypatch.setattr(hosts.Blocks, "position", lambda self, number: number)
    with pytest.raises(SystemExit, match=f"{flags.processes} parts of step {flags.step} "):
        hosts.check_parts(flags)
