"""What is said of results: rounding, which is better, the table, and JSON there and back.

Tests of vidgen/evals/report/facts.py too.
"""

import json
import math

import numpy as np
import pytest
from made_results import I3D, metric, result

from vidgen.evals.report import facts
from vidgen.evals.report import results as report


@pytest.mark.parametrize(
    ("value", "stderr", "unit", "text"),
    [
        (812.345, 20.1, "", "812 ± 20"),
        (812.345, 203.0, "", "812 ± 203"),
        (28.3456, 0.213, "dB", "28.35 ± 0.21 dB"),
        (0.0123456, 0.00045, "", "0.01235 ± 0.00045"),
        (-0.004, 0.0012, "", "-0.0040 ± 0.0012"),
        (3.0, 0.0, "", "3.000 ± 0"),
        (812.345, None, "", "812.3"),
        (12345.6, None, "", "12346"),
        (1.5e-7, None, "", "1.5e-07"),
        (0.0, None, "", "0"),
        (math.inf, None, "dB", "inf dB"),
        (-math.inf, 1.0, "", "-inf"),
        (math.nan, None, "", "not a number"),
        (None, None, "", "-"),
    ],
)
def test_a_value_is_rounded_to_its_error(value, stderr, unit, text):
    assert facts.value_text(metric(value, stderr, unit=unit)) == text


def two(a, b, **more):
    return [result("a", {"m": a}), result("b", {"m": b}, **more)]


@pytest.mark.parametrize(
    ("a", "b", "best"),
    [
        # the standard error of a difference of errors 3 and 4 is 5
        (metric(100.0, 3.0), metric(104.9, 4.0), None),
        (metric(100.0, 3.0), metric(105.1, 4.0), 0),
        (metric(100.0, 3.0, "higher"), metric(105.1, 4.0, "higher"), 1),
        (metric(2.0), metric(1.0), 1),
        (metric(1.0), metric(1.0), None),
        (metric(1.0, better=None), metric(2.0, better=None), None),
        (metric(math.inf, None, "higher"), metric(20.0, 1.0, "higher"), 0),
        (metric(math.inf, None, "higher"), metric(math.inf, None, "higher"), None),
        (metric(math.nan), metric(1.0), None),
        (metric(20.0, 1.0, "higher", identical=3), metric(30.0, 1.0, "higher", identical=0), None),
        (metric(20.0, 1.0, "higher", identical=3), metric(30.0, 1.0, "higher", identical=3), 1),
        (metric(20.0, 1.0, "higher"), metric(math.inf, None, "higher", identical=4), 1),
        (metric(1.0, network=I3D), metric(2.0, network=I3D | {"antialias": True}), None),
    ],
)
def test_the_better_one(a, b, best):
    assert facts.best(two(a, b), "m") == best


def test_results_of_other_protocols_are_not_compared():
    a, b = metric(1.0), metric(2.0)
    own = {"name": "sprites", "frames": 8, "seed": 1, "sampling": {"steps": 8}}
    assert facts.best(two(a, b, protocol=own), "m") == 0
    other = two(a, b, protocol=own | {"frames": 16})
    assert facts.best(other, "m") is None
    assert facts.different_settings(other) == ["frames"]
    assert "the protocols differ in frames; do not compare the values." in report.table(other)
    real = two(a, b, real={"what": "other clips", "n": 64, "fingerprint": "77"})
    assert facts.best(real, "m") is None
    assert "the real clips are not the same" in report.table(real)


def test_a_table_of_one():
    metrics = {
        "fvd": metric(812.3, 20.1, n_real=256, what="distance of logits", network=I3D),
        "share": metric(0.953, 0.021, "higher", what="clips read right"),
    }
    lines = report.table([result(metrics=metrics)]).splitlines()
    assert lines[0].split() == ["metric", "demo", "n", "/", "real", "better", "what"]
    assert lines[1] == "-" * len(max(lines[:4], key=len))
    assert lines[2].startswith("fvd          812 ± 20  64 / 256  lower   distance of logits (I3D")
    assert lines[3].startswith("share   0.953 ± 0.021        64  higher  clips read right")
    text = " ".join(" ".join(lines).split())
    assert "protocol: name sprites; frames 8; seed 0; sampling.steps 32" in text
    assert "network of fvd: I3D-RGB Kinetics-400; layer logits; file i3d.ckpt;" in text
    assert "sha256 af5c00000000; size 224; resize bilinear; antialias no; range [-1, 1]" in text
    assert "64 clips of demo, fingerprint 1a2b" in text
    assert "*" not in text and "warning" not in text


def test_a_table_of_two_marks_the_better_and_says_what_is_not_shared():
    slow = metric(500.0, 20.0, n_real=64, network=I3D, warning="few clips")
    fast = metric(900.0, 20.0, n_real=64, network=I3D, warning="few clips")
    own = {"name": "sprites", "frames": 8, "seed": 0, "sampling": {"steps": 8}}
    results = two(slow, fast, protocol=own)
    text = report.table(results)
    lines = text.splitlines()
    row = lines[2]
    assert row.split()[1:8] == ["500", "±", "20", "*", "900", "±", "20"]
    assert lines[0].index("a  ") == row.index("0 *")  # the last letter over the last digit
    assert "* the better one" in text
    assert "protocol of a: sampling.steps 32" in text and "protocol of b: sampling.steps 8" in text
    assert text.count("network of m:") == 1
    assert text.count("warning: m: few clips") == 1
    results[1]["metrics"]["m"]["warning"] = None
    assert "warning: a, m: few clips" in report.table(results)


def test_a_table_of_many_stays_narrow():
    results = [result(f"runs/a/long/folder/{i}") for i in range(3)]
    text = report.table(results)
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[0].split()[1:4] == [f"runs/a/long/folder/{i}" for i in range(3)]
    assert "\nfvd: distance of logits (I3D-RGB Kinetics-400)\n" in text
    deep = report.table([result(f"runs/of/a/much/longer/folder/{i}") for i in range(2)])
    assert deep.split()[1:3] == [f"...uch/longer/folder/{i}" for i in range(2)]
    assert "runs/of/a/much/longer/folder/1: 64 clips" in deep


def test_a_metric_that_one_result_lacks():
    results = [result("a", {"x": metric(1.0)}), result("b", {"y": metric(2.0)})]
    rows = [line.split()[:3] for line in report.table(results).splitlines()[2:4]]
    assert rows == [["x", "1.000", "-"], ["y", "-", "2.000"]]


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def test_json_is_strict_and_comes_back(tmp_path):
    metrics = {
        "psnr": metric(math.inf, None, "higher"),
        "a/b~c": metric(-math.inf, math.nan),
        "kvd": metric(0.1 + 0.2, 1e-300),
    }
    before = result("Fréchet <b>", metrics, videos=[{"prompt": "x", "made": "a.mp4"}])
    text = report.dumps(before)
    tree = json.loads(text, parse_constant=refuse)
    assert tree["metrics"]["psnr"]["value"] is None
    assert tree["not_finite"] == {
        "/metrics/psnr/value": "inf",
        "/metrics/a~1b~0c/value": "-inf",
        "/metrics/a~1b~0c/stderr": "nan",
    }
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    after = report.load(tmp_path / "r.json")
    assert math.isnan(after["metrics"]["a/b~c"].pop("stderr"))
    before["metrics"]["a/b~c"].pop("stderr")
    assert after == before


def test_json_of_arrays_scalars_and_paths(tmp_path):
    found = result(metrics={"m": metric(np.float32(0.5), np.float64(np.inf), n=np.int64(3))})
    found["curves"] = tmp_path
    tree = json.loads(report.dumps(found), parse_constant=refuse)
    assert tree["metrics"]["m"]["value"] == 0.5 and tree["metrics"]["m"]["n"] == 3
    assert tree["not_finite"] == {"/metrics/m/stderr": "inf"}
    assert tree["curves"] == str(tmp_path)
    with pytest.raises(ValueError, match="ndarray at /real"):
        report.dumps(result(real=np.zeros(2)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: "no", "it holds no object"),
        (lambda r: {k: v for k, v in r.items() if k != "metrics"}, "it has no 'metrics'"),
        (lambda r: r | {"protocol": 3}, "it has no 'protocol'"),
        (lambda r: r | {"metrics": {"m": {}}}, "its metric 'm' has no value"),
        (lambda r: r | {"metrics": {"m": {"value": "3"}}}, "its metric 'm' has no value"),
        (lambda r: r | {"not_finite": {"/metrics/x/value": "inf"}}, "do not fit it"),
        (lambda r: r | {"not_finite": 3}, "do not fit it"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path, change, reason):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(change(result())))
    with pytest.raises(ValueError, match=r"r\.json: .*vidgen evaluate") as error:
        report.load(path)
    assert reason in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json(tmp_path, data):
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"r\.json: .*not JSON"):
        report.load(tmp_path / "r.json")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        report.load(tmp_path / "r.json")
