"""benchmarks/waiting.py on processes that are known, and the table of a file."""

import json
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import waiting  # noqa: E402

BUSY = """
import os, pathlib, time
while time.process_time() < 0.3: pass
pathlib.Path("FOLDER/made").write_text(os.environ["JAX_COMPILATION_CACHE_DIR"])
print("not yet")
print("here: ", pathlib.Path("FOLDER/made").read_text(), flush=True)
time.sleep(600)
"""


def test_processor_seconds_until_a_line(tmp_path):
    used = waiting.seconds_to([sys.executable, "-c", BUSY], f"here:  {tmp_path}", str(tmp_path))
    assert 0.3 <= used < 60


def test_a_command_that_ends_too_early(tmp_path):
    command = [sys.executable, "-c", "print('some reason'); raise SystemExit(3)"]
    with pytest.raises(RuntimeError, match="some reason"):
        waiting.seconds_to(command, "here", str(tmp_path))


def test_rows_are_measured_once_and_shown_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "ROWS", {"a clip": (["vidgen"], "done")})
    seconds = iter([30.04, 12.5])
    monkeypatch.setattr(waiting, "seconds_to", lambda *_: next(seconds))
    output = tmp_path / "rows"
    waiting.main([f"--output={output}"])
    table = capsys.readouterr().out
    assert table.splitlines()[-1] == "| a clip | 30.0 | 12.5 |"
    assert json.loads(output.read_text())["again"] == 12.5
    waiting.main([f"--from={output}"])
    assert capsys.readouterr().out == table
