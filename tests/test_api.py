"""The calls of Python make what the commands make.

Tests of vidgen/loaded_model.py too.
"""

import jax
import numpy as np
import pytest

import vidgen as face
from vidgen.cli import main
from vidgen.data.video import transforms
from vidgen.display.sheets import SceneRow
from vidgen.evals.report import results

PROMPT = "a tiger moving right on a green background"
FEWEST = {"sampler": "ddim", "steps": 4}  # that the students have learned
STORY = "a frog moving up on a blue background. then a frog moving down on a blue background"


@pytest.fixture(scope="module")
def base():
    return face.load("imagen_demo", until="base")


@pytest.fixture(scope="module")
def phenaki():
    return face.load("phenaki_demo")


def test_clips_are_those_of_the_command(vidgen, base, tmp_path):
    said = ("--seed=3", "--steps=4", "--sampler=ddim", "--guidance=2,base=1:0", "--num_samples=2")
    done = vidgen("generate", PROMPT, "--model=imagen_demo", "--until=base", *said, "-o", "a.npy")
    assert done.status == 0, done.err
    flags = {"seed": 3, "guidance": "2,base=1:0", "num_samples": 2}
    made = base.generate(PROMPT, **flags, **FEWEST)
    assert (made.prompts, made.fps, list(made.stages)) == ((PROMPT, PROMPT), 3.0, ["base"])
    for number in range(2):
        told = np.load(tmp_path / f"a-00{number}.npy")
        np.testing.assert_array_equal(made.video[number], told)
    np.testing.assert_array_equal(made.each_stage(1)["base"], made.video[1])


def test_films_are_those_of_the_command(vidgen, phenaki, tmp_path):
    done = vidgen("generate", f"--story={STORY}", "--frames=17", "--steps=2", "-o", "film.npy")
    assert done.status == 0, done.err
    film = phenaki.story(STORY, frames=17, steps=2)
    np.testing.assert_array_equal(film.video, transforms.to_float(np.load(tmp_path / "film.npy")))
    first, second = STORY.split(". then ")
    assert film.scenes == (SceneRow(first, 0, 11), SceneRow(second, 11, 17))
    assert film.fps == 8.0
    ids = phenaki.tokens(film.video)
    assert ids.shape == (9, 8, 8) and 0 <= ids.min() < ids.max() < 1000
    np.testing.assert_array_equal(phenaki.tokens(film.video[:11]), ids[:6])  # nothing looks ahead


def test_results_are_those_of_the_command(vidgen, tmp_path):
    said = {"clips": 2, "metrics": "flicker", "cache": str(tmp_path / "kept")} | FEWEST
    found = face.evaluate(model="imagen_demo", until="base", **said)
    flags = [f"--{name}={value}" for name, value in said.items()]
    done = vidgen("evaluate", "--model=imagen_demo", "--until=base", *flags, "-o", "told.json")
    assert done.status == 0, done.err
    told = results.load(tmp_path / "told.json")
    assert found is not None and found["metrics"] == told["metrics"]
    assert found["made"] == told["made"]


def test_a_flag_is_compared_from_the_same_noise(base):
    found = base.compare(PROMPT, "guidance", (0, 2), seed=4, **FEWEST)
    assert list(found) == ["guidance 0", "guidance 2"]
    alone = base.generate(PROMPT, seed=4, guidance=2, **FEWEST)
    np.testing.assert_array_equal(found["guidance 2"], alone.video[0])


def test_a_later_stage_starts_from_what_was_saved(base, tmp_path):
    made = base.generate(PROMPT, seed=3, **FEWEST)
    path = made.save(tmp_path / "base.npy", stage="base")
    np.testing.assert_array_equal(np.load(path), made.video[0])
    with pytest.raises(ValueError, match="no stage 'ssr9'; choose from base"):
        made.save(path, stage="ssr9")
    later = face.load("imagen_demo", first="tsr1", until="tsr1")
    assert later.generate(PROMPT, init=str(path), **FEWEST).video.shape == (1, 32, 16, 16, 3)


def test_what_a_stage_is_told_has_the_noise_that_was_asked_for():
    ssr1 = face.load("imagen_demo/ssr1")
    small = np.zeros((64, 1, 16, 16, 3), np.float32) + 0.5
    for logsnr in (0.0, 3.0):
        told = ssr1.augmented(small, logsnr=logsnr)
        assert told.shape == (64, 1, 32, 32, 3)
        alpha = float(jax.nn.sigmoid(logsnr)) ** 0.5
        assert told.mean() == pytest.approx(0.5 * alpha, abs=0.01)
    quiet = ssr1.augmented(small)  # at the demo's own level, 7
    assert 0 < np.std(quiet) < np.std(told) / 4


def test_training_is_the_command(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(main, "call", said.extend)
    folder = face.train(["a.gin", "b.gin"], MODEL_DIR="runs/a", **{"Trainer.ema_decay": 0.9})
    assert str(folder) == "runs/a"
    assert said == [
        "train",
        "--gin_file=a.gin",
        "--gin_file=b.gin",
        "--gin.MODEL_DIR='runs/a'",
        "--gin.Trainer.ema_decay=0.9",
    ]


def test_errors_are_raised_and_not_printed(tmp_path):
    with pytest.raises(ValueError, match="MODEL_DIR"):
        face.train(["experiments/imagen_base_tiny.gin"])
    with pytest.raises(ValueError, match="no_such.gin"):
        face.train(["no_such.gin"], MODEL_DIR=str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError, match="no_such_model"):
        face.load("no_such_model")
    with pytest.raises(ValueError, match="no flag 'clip_count'.*clips"):
        face.evaluate(model="imagen_demo", clip_count=3)


@pytest.mark.parametrize("flags", [{"stepps": 3}, {"until": "base"}, {"output": "a.mp4"}])
def test_a_flag_of_another_place_is_told(base, flags):
    with pytest.raises(ValueError, match=f"no flag '{next(iter(flags))}' here; choose from"):
        base.generate(PROMPT, **flags)


def test_each_kind_of_model_says_what_it_lacks(base, phenaki):
    with pytest.raises(ValueError, match="base: no model with a tokenizer"):
        base.tokens(np.zeros((11, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="base starts from text alone"):
        base.augmented(np.zeros((1, 4, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="maskgit starts from text alone"):
        phenaki.augmented(np.zeros((1, 4, 8, 8, 3), np.float32))
