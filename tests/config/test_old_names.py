"""Configurations and run folders from before the modules moved."""

import dataclasses
import importlib.util
import pathlib
import shutil

import numpy as np
import pytest
from places import FILES

from vidgen.cli import main
from vidgen.config.old_names import MOVED, RENAMED, new_selector, with_new_names

# A tokenizer and a transformer that were trained before, and a clip that was made with them then.
OLD_RUN = FILES / "old_run"


@pytest.mark.parametrize("old, new", MOVED.items())
def test_new_places_exist_and_old_ones_do_not(old, new):
    package = pathlib.Path(importlib.util.find_spec("vidgen").origin).parent
    assert (package / (new.replace(".", "/") + ".py")).is_file()
    assert not (package / (old.replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("owner, new", [(owner, new) for (owner, _), new in RENAMED.items()])
def test_renamed_classes_and_fields_exist(owner, new):
    name, _, field = new.partition(".")
    cls = getattr(importlib.import_module(f"vidgen.{owner}"), name)
    assert not field or field in {f.name for f in dataclasses.fields(cls)}


def test_renamed_settings_are_found_in_lines_blocks_and_flags():
    old = """from vidgen.train import distill
from vidgen.train import train
a/train.Train.sampler = None
X = "train.Train.sampler"
train.Train:
  seed = 0

  sampler = @samplers.SamplerSpec()
distill.Distill:
  course = 1
stage.DiffusionStage:
  sampler = 2
"""
    new = """from vidgen.imagen import student_training
from vidgen.train import train
a/train.Train.sample_writer = None
X = "train.Train.sampler"
train.Train:
  seed = 0

  sample_writer = @samplers.SamplerSpec()
student_training.Distill:
  schedule = 1
stage.DiffusionStage:
  sampler = 2
"""
    assert with_new_names(old) == new
    assert new_selector("Train.sampler") == "Train.sample_writer"
    assert new_selector("Guard.policy") == "DivergencePolicy.policy"
    assert new_selector("Train.samplers") == "Train.samplers"


def test_selectors_follow_their_import_and_nothing_else_does():
    old = """from vidgen.runs import trained
from vidgen.runs import callbacks as often
from vidgen.text import t5
from vidgen.train import guard as watch
FROZEN = @trained.Trained()
a/b/trained.Trained.model_dir = "runs/trained.npz"
X = (@scope/trained.Trained(), "untrained.x", @often.HeldOutLoss(), @my.trained.Other())
Y = @watch.Guard()
"""
    new = """from vidgen.train import frozen
from vidgen.train import callbacks as often
from vidgen.text import t5
from vidgen.train import guard as watch
FROZEN = @frozen.FrozenParams()
a/b/frozen.FrozenParams.model_dir = "runs/trained.npz"
X = (@scope/frozen.FrozenParams(), "untrained.x", @often.HeldOutLoss(), @my.trained.Other())
Y = @watch.DivergencePolicy()
"""
    assert with_new_names(old) == new
    assert with_new_names(new) == new


def test_an_old_run_generates_what_it_did(tmp_path):
    folder, clip = tmp_path / "run", tmp_path / "clip.npy"
    shutil.copytree(OLD_RUN, folder)
    words = ["generate", f"--model={folder / 'maskgit'}", "a tiger moving right", "--seed=3"]
    assert main.main([*words, "-o", str(clip)]) == 0
    np.testing.assert_allclose(np.load(clip), np.load(OLD_RUN / "clip.npy"), atol=1e-5)
