"""`vidgen export`, and its folders in all places that take a model.

Tests of vidgen/cli/export_command.py too.
Tests of vidgen/inference/model_card.py too.
"""

import json
import shutil

import fsspec
import jax
import local_hub
import numpy as np
import pytest
import yaml

from vidgen.assets import model_folders
from vidgen.config import gin_utils
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import stages
from vidgen.train import named_arrays
from vidgen.train.state import named_leaves
from vidgen.train.train import Train
from vidgen.train.weights import open_weights

pytestmark = pytest.mark.usefixtures("kept_programs")

PROMPT = "a tiger moving right on a green background"


def run(vidgen, *arguments):
    told = vidgen(*map(str, arguments))
    assert told.status == 0, told.err
    return told


@pytest.fixture(scope="module")
def folder(phenaki, tmp_path_factory):
    """The tiny Phenaki in full, elsewhere, and without the place that it was trained in."""
    from vidgen.cli import main

    trained = tmp_path_factory.mktemp("trained")
    shutil.copytree(phenaki, trained, dirs_exist_ok=True)
    target = tmp_path_factory.mktemp("there") / "tigers"
    result = {
        "protocol": {"name": "sprites"},
        "title": "x",
        "vidgen": "0",
        "made": {},
        "real": None,
    }
    metric = {"value": 1.5, "stderr": None, "n": 8, "what": "flicker", "unit": "", "better": None}
    results = trained / "result.json"
    results.write_text(json.dumps(result | {"metrics": {"flicker": metric}}))
    flags = [f"--metrics={results}", "--license=apache-2.0", "--data=sprites", "--samples=1"]
    assert main.main(["export", str(trained / "maskgit"), "-o", str(target), *flags]) == 0
    shutil.rmtree(trained)
    return target


def leaves(path):
    with open_weights(path) as reader:
        return {name: np.asarray(x) for name, x in named_leaves(reader.restore_params()).items()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_the_layout(folder):
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"README.md", "config.json", "samples/sample.mp4"} | {
        f"{model}/{name}"
        for model in ("maskgit", "cvivit")
        for name in ("config.gin", "model.safetensors")
    }
    assert {path.name for path in folder.parent.iterdir()} == {"tigers"}  # nothing half-written


def test_the_card(folder):
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0" and front["library_name"] == "vidgen"
    assert front["pipeline_tag"] == "text-to-video" and "phenaki" in front["tags"]
    assert front["widget"] == [{"text": PROMPT, "output": {"url": "samples/sample.mp4"}}]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "flicker", "name": "flicker", "value": 1.5}]
    for words in ("| maskgit | MaskedVideoModel | 5 x 16 x 16", "`sprites.Sprites`", "seed 0"):
        assert words in body
    assert f'vidgen generate "{PROMPT}" --model=tigers -o clip.mp4' in body
    assert "last loss in training" in body and "| flicker | 1.5 |" in body
    about = json.loads((folder / "config.json").read_text())
    assert about["text_encoder"] == {"name": "bytes-8-12-0", "length": 12, "dim": 8}
    assert about["models"]["cvivit"]["trained_steps"] == 2


def test_the_weights_are_those_of_training_to_the_bit(folder, phenaki):
    for name in ("cvivit", "maskgit"):
        assert same(leaves(folder / name), leaves(phenaki / name))


def test_it_makes_the_clips_of_the_run_to_the_bit(folder, phenaki, vidgen, tmp_path):
    for name, model in (("here", phenaki), ("there", folder)):
        run(vidgen, "generate", PROMPT, f"--model={model}", "-o", f"{name}.npy", "--steps=2")
    clips = [np.load(tmp_path / f"{name}.npy") for name in ("here", "there")]
    np.testing.assert_array_equal(*clips)


@pytest.fixture
def address(folder, monkeypatch, tmp_path):
    """The same folder in a store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place, system = f"/models/{tmp_path.name}", fsspec.filesystem("memory")
    system.put(str(folder), place, recursive=True)
    yield f"memory:/{place}"
    system.store.clear()


def test_from_a_store(address, phenaki, vidgen, tmp_path):
    flags = ["--steps=2", "-o"]
    run(vidgen, "generate", PROMPT, f"--model={address}", *flags, "remote.npy")
    run(vidgen, "generate", PROMPT, f"--model={phenaki}", *flags, "here.npy")
    np.testing.assert_array_equal(np.load("remote.npy"), np.load("here.npy"))


def test_as_tokenizer_and_as_beginning_from_a_store(address, folder, tmp_path):
    """TOKENIZER_DIR and INIT_FROM: the run has the weights that it begins with."""
    files = ["runs/train.gin", "experiments/phenaki_maskgit_tiny.gin"]
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom vidgen.text import byte_encoder\n"
        "from vidgen.phenaki import maskgit\nfrom vidgen.phenaki import quantizer\n"
        "byte_encoder.ByteEncoder.dim = 8\nbyte_encoder.ByteEncoder.length = 12\n"
        "TEXT_ENCODER = @byte_encoder.ByteEncoder()\n"
        "tokenizer/quantizer.VectorQuantizer.codes = 16\nmaskgit/maskgit.MaskGIT.codes = 16\n"
    )
    bindings = [f"TOKENIZER_DIR='{address}/cvivit'", f"INIT_FROM='{address}/maskgit'"]
    bindings += ["MODEL_DIR='m'"]
    with gin_utils.session([*files, str(tmp_path / "own.gin")], bindings):
        train = gin_utils.build(Train)
    tokenizer = named_leaves(train.frozen()["tokenizer"])
    assert same({n: np.asarray(x) for n, x in tokenizer.items()}, leaves(folder / "cvivit"))
    stored = leaves(folder / "maskgit")
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), named_arrays.nested(stored))
    begun = named_leaves(train.initial(fresh))
    assert same({n: np.asarray(x) for n, x in begun.items()}, stored)


def test_eight_bits_and_again(folder, vidgen, tmp_path):
    for source, name in ((folder, "small"), (tmp_path / "small", "again")):
        run(vidgen, "export", source, "-o", name, "--weights=8bit", "--samples=0")
    assert same(leaves(tmp_path / "small" / "cvivit"), leaves(tmp_path / "again" / "cvivit"))
    places = (folder, tmp_path / "small", tmp_path / "again")
    assert len({(place / "maskgit" / "config.gin").read_text() for place in places}) == 1
    assert not (tmp_path / "small" / "samples").exists()
    about = [json.loads((place / "config.json").read_text())["models"] for place in places]
    losses = [{name: model["metrics"] for name, model in models.items()} for models in about]
    assert losses[0] == losses[1] == losses[2] and all(losses[0].values())


def test_into_a_store(folder, vidgen, tmp_path):
    run(vidgen, "export", folder / "cvivit", "-o", "memory://out/tok", "--samples=0")
    system = fsspec.filesystem("memory")
    names = {path.removeprefix("/out/tok/") for path in system.find("/out/tok")}
    assert names == {"README.md", "config.json", "config.gin", "model.safetensors"}
    told = vidgen("export", str(folder / "cvivit"), "-o", "memory://out/tok")
    told.assert_sentence("--output memory://out/tok is there already")
    system.store.clear()


def test_into_a_repository_of_the_hub(folder, vidgen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("export", folder / "cvivit", "-o", "hf://me/tok", "--samples=0")
    with local_hub.serve(tmp_path / "hub"):
        told = vidgen(*map(str, words))  # at once, not after the work
        told.assert_sentence("no such repository", "hf repos create me/tok", "HF_TOKEN")
        (tmp_path / "hub/me/tok").mkdir(parents=True)
        (tmp_path / "hub/me/tok/.gitattributes").touch()  # as the Hub makes it
        run(vidgen, *words)
        assert same(leaves(model_folders.find("hf://me/tok")), leaves(folder / "cvivit"))


def test_wrong_input_is_one_sentence_and_leaves_nothing(folder, vidgen, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    for arguments, words in (
        (["runs/none", "-o", "x"], "there is no runs/none/config.gin"),
        ([folder, "-o", "full"], "--output full is there already; name a new folder"),
        ([folder], "needs -o FOLDER"),
        ([folder, "-o", "x", "--step=9"], "no weights of step 9"),
        ([folder, "-o", "x", "--samples=-1"], "--samples is -1"),
        ([folder, "-o", "x", "--metrics=none.json"], "none.json"),
        ([folder, "-o", "x", "--gin.SEED=1"], "vidgen export takes no --gin.SEED=1"),
    ):
        vidgen("export", *map(str, arguments)).assert_sentence(words)
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_a_model_without_text_to_start_from_makes_no_samples(vidgen, tmp_path):
    told = run(vidgen, "export", "imagen_demo/ssr1", "-o", "ssr1", "--weights=8bit")
    assert told.out == "ssr1\n"
    assert not (tmp_path / "ssr1" / "samples").exists()
    card = (tmp_path / "ssr1" / "README.md").read_text()
    assert "pipeline_tag: video-to-video" in card and "--model=ssr1 --init=video.mp4" in card
    (stage,) = (
        stages.build_trained(Sessions(["runs/generate.gin"], [], []), stages.Stage, folder)
        for folder in stages.find(str(tmp_path / "ssr1"))
    )
    assert stage.model.name == "ssr1"
    assert same(leaves(tmp_path / "ssr1"), leaves("imagen_demo/ssr1"))
