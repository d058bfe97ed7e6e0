"""benchmarks/sampling_time.py: a row of the tiny cascade compiled for TPUs, and its tables."""

import json
import sys

import pytest
from places import HELPERS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import sampling_time  # noqa: E402

from vidgen.types import STAGES  # noqa: E402

SCRIPT = [HELPERS / "fork_for_tpu.py", ROOT / "benchmarks" / "sampling_time.py", "--size=tiny"]


@pytest.fixture(scope="module")
def compiled(warm, tmp_path_factory):
    """The row of one stage, and what was printed."""
    output = tmp_path_factory.mktemp("plans") / "rows.jsonl"
    flags = ["--rows=v6e-8 tsr1$", f"--output={output}"]
    done = warm(*SCRIPT, *flags, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_a_stage_is_compiled_for_eight_chips(compiled):
    output, told = compiled
    (row,) = sampling_time.read(output)
    model, program = row["model"], row["model"]["sampling"]
    assert row["row"] == "v6e-8 tsr1" and row["effort"] == "O0"
    assert program["compiled_for"] == "8 x TPU v6 lite, effort O0" and program["fits"] is True
    assert (model["sampling_steps"], model["evaluations"], program["clips"]) == (8, 8, 1)
    assert model["mesh"] == {"data": 1, "time": 8}
    # Weights are cut over the chips, and the frames of one clip: each does an eighth of the work.
    whole = 4 * model["parameters"]
    assert whole / 8 < model["bytes_per_device"]["parameters"] < 0.4 * whole
    # Products with the padding of frames of 16 x 16 are in one count, and not in the other.
    share = model["flops_per_clip"] / 8 / 8
    assert 0.7 * share < program["operations_per_device"] < 1.1 * share
    # Borders of frames go to the neighbors; no video is put together on one chip.
    assert program["collective_bytes_per_device"]["collective-permute"] > 0
    seconds = program["bound"]["seconds"]
    assert program["seconds_per_clip"]["overlapped"] == 8 * max(seconds.values())
    assert "v6e-8, 8 chips:" in told and "| tsr1 | 16 x 16 x 16 |" in told


def test_what_is_there_is_not_compiled_again(compiled, monkeypatch, capsys):
    output, told = compiled
    monkeypatch.setattr(sampling_time, "compiled", lambda *_: pytest.fail("it is there"))
    sampling_time.main(["--rows=v6e-8 tsr1$", f"--output={output}"])
    assert capsys.readouterr().out == told


def test_the_clip_of_all_stages(compiled, tmp_path, capsys):
    (row,) = sampling_time.read(compiled[0])
    rows = [row | {"row": f"v6e-8 {stage}"} for stage in STAGES]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    sampling_time.main([f"--from={path}"])
    told = capsys.readouterr().out
    assert told.count("| tsr1 | 16") == 7 and told.count("One clip takes at least") == 1


def test_rows_that_are_missing_or_do_not_fit_are_said(compiled):
    (row,) = sampling_time.read(compiled[0])
    lost = row | {"model": row["model"] | {"sampling": row["model"]["sampling"] | {"fits": False}}}
    told = sampling_time.table("v6e-8", [None, row, lost, *[None] * 4])
    assert told.count("not compiled yet") == 5 and told.count("does not fit") == 1
    assert "One clip takes" not in told
    assert len({line.count("|") for line in told.splitlines() if line.startswith("|")}) == 1
