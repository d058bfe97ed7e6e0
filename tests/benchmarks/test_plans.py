"""benchmarks/plans.py and benchmarks/weak_scaling.py, of experiments of tiny size."""

import json
import os
import sys

import pytest
from places import HELPERS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import plans  # noqa: E402
import weak_scaling  # noqa: E402

VIDGEN = os.path.join(os.path.dirname(sys.executable), "vidgen")


@pytest.fixture
def run(warm, monkeypatch, capsys):
    """Runs one of the scripts in this process, whose rows are forks that load libtpu."""

    def forked(command, *, capture_output, text):
        assert command[:3] == [sys.executable, "-m", "vidgen.cli.main"] and capture_output and text
        return warm(HELPERS / "fork_for_tpu.py", VIDGEN, *command[3:], TF_CPP_MIN_LOG_LEVEL="3")

    monkeypatch.setattr("subprocess.run", forked)

    def call(script, *arguments):
        script.main(arguments)
        told = capsys.readouterr()
        return told.out.splitlines(), told.err

    return call


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_searched_once(run, tmp_path):
    output = tmp_path / "plans.jsonl"
    flags = ("--size=tiny", "--effort=O0", "--compiles=1", "--rows=^v5p phenaki maskgit$")
    lines, told = run(plans, *flags, f"--output={output}")
    assert "v5p phenaki maskgit: " in told
    assert len(lines) == 2 + len(plans.ROWS) and len(output.read_text().splitlines()) == 1
    (row,) = (line for line in lines if "not measured" not in line and "maskgit" in line)
    model, chips, mesh, remat, batch, *_, limits, waits, ways = cells(row)
    assert (model, chips, mesh, batch) == (
        "phenaki maskgit",
        "64 x v5p",
        "data 2, fsdp 2",
        "8 in 1",
    )
    assert remat in ("none", "products", "dots", "full") and ways.startswith("1 of ")
    assert limits.count(" / ") == 1 and waits in ("compute", "memory", "links")
    again, told = run(plans, *flags, f"--output={output}")
    assert again == lines and told == ""  # nothing is compiled again
    assert run(plans, f"--from={output}")[0] == lines


def test_rows_that_scale(run, tmp_path):
    output = tmp_path / "weak_scaling.jsonl"
    flags = ("--size=tiny", "--effort=O0", f"--output={output}")
    lines, _ = run(weak_scaling, *flags, "--rows=^phenaki_maskgit (64|2 x 64)$")
    rows = {tuple(cells(line)[:2]): cells(line) for line in lines[2:]}
    first, slices = (rows["phenaki maskgit", f"{n} x v5p"] for n in ("64", "2 x 64"))
    assert first[2].split() == [first[2]] and slices[2].startswith(f"{first[2]} (")
    assert float(slices[4].split(" / ")[1]) >= float(first[4].split(" / ")[1]) == 0
    assert sum("not measured" in line for line in lines) == len(weak_scaling.ROWS) - 2
    one, two = map(json.loads, output.read_text().splitlines())
    assert two["batch_size"] == 2 * one["batch_size"]


def made(operations, peak, links, between=0):
    return {
        "fits": True,
        "operations_per_device": operations * 10**12,
        "peak_bytes_per_device": peak * 2**30,
        "collective_bytes_per_device": {
            "all-gather": links * 2**30,
            "between slices": between * 2**30,
        },
        "bound": {"mfu_overlapped": 0.5, "mfu_alone": 0.25},
        "processor_seconds": 100.0,
    }


def test_what_grows_by_more_than_a_twentieth_is_marked():
    line = weak_scaling.line("imagen_base 2 x 64", made(104, 22, 44, 1), made(100, 22, 40))
    assert cells(line)[2:] == [
        "104 (+4.0%)", "22.00 (+0.0%)", "44.00 (+10.0%!) / 1.00", "50 / 25", "100",
    ]  # fmt: skip


@pytest.mark.parametrize("module", [plans, weak_scaling])
def test_a_table_says_what_is_not_measured(module, tmp_path, capsys):
    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    module.main([f"--from={empty}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert all("not measured" in line for line in lines[2:])


def test_a_row_that_nothing_fits_says_why():
    lost = [{"way": "fsdp 64, batch 64 in 1", "why": "does not fit: 40.0 GiB of 32.0 GiB"}]
    line = plans.line("v6e imagen tsr3", {"best": None, "lost": lost})
    assert "fsdp 64, batch 64 in 1: does not fit" in line
    assert line.count("|") == plans.HEADER.splitlines()[0].count("|")
