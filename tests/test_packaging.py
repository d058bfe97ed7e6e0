"""What an installed package holds, and that it runs without the clone."""

import os
import subprocess
import sys

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The package as it goes into a wheel."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_package_holds_configurations_and_data(built):
    configs = {p.relative_to(ROOT) for p in (ROOT / "gin_configs").rglob("*.gin")}
    here = (built / "vidgen/gin_configs").rglob("*.gin")
    assert {p.relative_to(built / "vidgen") for p in here} == configs
    models = {p.relative_to(ROOT) for p in (ROOT / "vidgen/zoo_models").rglob("*.*")}
    assert {p.relative_to(built) for p in (built / "vidgen/zoo_models").rglob("*.*")} == models
    sprites = {p.name for p in (ROOT / "vidgen/sprites/fluent_emoji").iterdir()}
    assert {p.name for p in (built / "vidgen/sprites/fluent_emoji").iterdir()} == sprites
    labels = {p.name for p in (ROOT / "vidgen/data/sources/label_captions").iterdir()}
    assert {p.name for p in (built / "vidgen/data/sources/label_captions").iterdir()} == labels
    assert (built / "vidgen/evals/report/page.html").is_file()
    modules = {p.relative_to(ROOT) for p in (ROOT / "vidgen").rglob("*.py")}
    assert {p.relative_to(built) for p in built.rglob("*.py")} == modules


@pytest.mark.cli
def test_the_package_runs_without_the_clone(built, tmp_path):
    command = [sys.executable, "-m", "vidgen", "train", "--dry_run"]
    command += ["--gin_file=experiments/imagen_base_tiny.gin", "--gin.MODEL_DIR=m"]
    environment = os.environ | {"PYTHONPATH": str(built)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MODEL_DIR = 'm'" in done.stdout
    code = "import vidgen, vidgen.config.gin_files as g; print(vidgen.__file__, *g.config_roots())"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    files = where.stdout.split()
    assert len(files) == 2 and all(f.startswith(str(built)) for f in files), where.stderr
