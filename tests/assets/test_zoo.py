"""The models that come with the package: each is whole, small, and found by its name."""

import json

import jax
import numpy as np
import pytest
import yaml

from vidgen.assets import zoo
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import stages
from vidgen.train import weights

LIMIT = 60e6  # bytes of all of them together
LICENSES = {"film_demo": "cc-by-3.0"}  # that of the film
FOLDERS = {
    f"{path.parent.parent.name}/{path.parent.name}": path.parent
    for path in sorted(zoo.FOLDER.glob("*/*/config.gin"))
}


def test_all_are_small():
    assert zoo.names()
    assert sum(path.stat().st_size for path in zoo.FOLDER.rglob("*.*")) < LIMIT


@pytest.mark.parametrize("name", FOLDERS)
def test_a_configuration_names_no_path_of_another_machine(name):
    config = (FOLDERS[name] / "config.gin").read_text(encoding="utf-8")
    assert "'/" not in config and "zoo_models" not in config
    assert "MODEL_DIR = %gin.REQUIRED" in config


@pytest.mark.parametrize("name", zoo.names())
def test_they_are_exported_folders(name):
    folder = zoo.FOLDER / name
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert front["library_name"] == "vidgen" and front["license"] == LICENSES.get(
        name, "apache-2.0"
    )
    about = json.loads((folder / "config.json").read_text())
    stages = {key.partition("/")[2] for key in FOLDERS if key.startswith(f"{name}/")}
    assert set(about["models"]) == stages
    for clip in front.get("widget", []):
        assert (folder / clip["output"]["url"]).is_file()
    for stage in stages:
        assert (folder / stage / weights.FILE).is_file()


@pytest.mark.parametrize("name", zoo.names())
def test_weights_fit_their_configurations(name):
    for folder in stages.find(name):
        stage = stages.build_trained(Sessions(["runs/generate.gin"], [], []), stages.Stage, folder)
        assert stage.model.name == folder.name
        leaves = jax.tree.leaves(stage.load())
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    name = zoo.names()[0]
    monkeypatch.chdir(tmp_path)
    assert zoo.find(name) == str(zoo.FOLDER / name)
    assert zoo.find(f"{name}/base") == str(zoo.FOLDER / name / "base")
    for other in ("runs/a", "gs://bucket/a", "~/a", str(tmp_path)):
        assert zoo.find(other) == other
    (tmp_path / name).mkdir()
    assert zoo.find(name) == name


def test_the_defaults_are_there():
    assert {zoo.DEFAULT, zoo.STORIES} <= set(zoo.names())


def test_every_tokenizer_is_beside_its_reader():
    (folder,) = stages.find(zoo.STORIES)
    assert (folder.parent / "cvivit" / weights.FILE).is_file()


def test_an_unknown_name_lists_them():
    with pytest.raises(FileNotFoundError, match=f"no_such_model.*{zoo.names()[0]}"):
        stages.find("no_such_model")
