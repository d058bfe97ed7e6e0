"""Curves and metrics inside a notebook."""

import json

import pytest

from vidgen.display import plots


def test_curves_are_those_of_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "loss": 1 / i, "loss_noisy": 2 / i} for i in range(1, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = plots.curves(path, title="my videos").text
    assert text.startswith("<svg") and "losses of my videos" in text
    assert "log-SNR &lt; -2" in text and "held out" not in text


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.jsonl"):
        plots.curves(tmp_path / "metrics.jsonl")


def result(title, value):
    metric = {"value": value, "stderr": 0.1, "n": 4, "unit": "dB", "better": "higher"}
    metric |= {"what": "of pairs", "network": None, "warning": None, "n_real": None}
    return {"title": title, "metrics": {"psnr": metric}, "protocol": {}, "made": {}}


def test_metrics_have_a_bar_for_each_result():
    text = plots.metrics([result("a & b", 20.0), result("c", 22.0)]).text
    assert "a &amp; b" in text and text.count("<svg") == 1
    assert "psnr: 20.0" in text and "22.0" in text
