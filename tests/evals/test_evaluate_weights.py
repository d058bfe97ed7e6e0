"""`vidgen evaluate` with weights that the user brings, in files of the published formats."""

import json

import clip_folders
import inception_files
import numpy as np
import pytest
import torch_files

pytestmark = pytest.mark.usefixtures("kept_programs")

METRICS = "fid,kid,inception_score,clip_score,clip_score_r_precision"


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    shapes = inception_files.shapes()
    torch_files.save({name: inception_files.tensor(name, shapes[name]) for name in shapes}, path)
    yield path
    path.unlink()  # 96 MB


def test_fid_and_clip_score(vidgen, phenaki, inception, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    made = clip_folders.tokenizer(True)
    clip_folders.write(folder, clip_folders.config(2), made, clip_folders.state())
    command = [
        "evaluate", f"--model={phenaki / 'maskgit'}", "--clips=2", "--steps=1",
        f"--metrics={METRICS}", f"--inception={inception}", f"--clip={folder}", "--json",
        f"--cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    told = vidgen(*command)
    assert told.status == 0, told.err
    metrics = json.loads(told.out)["metrics"]
    for name in METRICS.split(","):
        assert np.isfinite(metrics[name]["value"]), name
        assert len(metrics[name]["network"]["sha256"]) == 64, name
    assert -1 <= metrics["clip_score"]["value"] <= 1
    assert metrics["clip_score_r_precision"]["value"] in (0, 1 / 2, 1)
    assert metrics["fid"]["network"]["size"] == 299 and metrics["fid"]["value"] > 0
    clip = metrics["clip_score"]["network"]
    assert (clip["size"], clip["resize"], clip["antialias"]) == (32, "bicubic", True)
    assert "CLIP in clip" in clip["name"]


def test_files_that_are_something_else_are_told(vidgen, phenaki, tmp_path):
    model = f"--model={phenaki / 'maskgit'}"
    (tmp_path / "a.pth").write_bytes(b"no weights")
    cache = f"--cache={tmp_path / 'cache'}"
    command = ["evaluate", model, "--clips=1", "--steps=1", cache]
    told = vidgen(*command, f"--inception={tmp_path / 'a.pth'}", "--metrics=fid")
    assert told.status == 2 and "a.pth" in told.err.splitlines()[-1]
    told = vidgen(*command, f"--clip={tmp_path}", "--metrics=clip_score")
    assert told.status == 2 and "config.json" in told.err.splitlines()[-1]
