"""Networks that stay in memory."""

import jax
import numpy as np
import pytest

from vidgen.assets import zoo
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import stages
from vidgen.inference.loaded import KeptStage, Tokenizer, Trained
from vidgen.inference.stages import Stage
from vidgen.train import weights

TOKENIZER = zoo.FOLDER / "phenaki_demo" / "cvivit"


@pytest.fixture(scope="module")
def tokenizer():
    trained = Sessions(["runs/generate.gin"], [], []).build_trained(Trained, TOKENIZER)
    return Tokenizer.of(trained)


def base():
    sessions = Sessions(["runs/generate.gin"], [], [])
    return stages.build_trained(sessions, Stage, zoo.FOLDER / "imagen_demo" / "base")


def test_weights_are_read_once_for_each_step(monkeypatch):
    plain = base()
    stage, expected, read = KeptStage.of(plain), plain.load(), []
    restored = stages.trained.restored
    monkeypatch.setattr(
        stages.trained, "restored", lambda *args: read.append(args[2]) or restored(*args)
    )
    first = stage.load()
    jax.tree.map(np.testing.assert_array_equal, first, expected)
    assert stage.load() is first and read == [None]
    step = weights.open_weights(zoo.FOLDER / "imagen_demo" / "base").latest_step()
    stage.load(step)
    assert read == [None, step]
    stage.load()
    assert read == [None, step, None]  # those of one step at a time are in memory


def test_reconstruction_is_that_of_the_tokens(tokenizer):
    shape = tokenizer.model.shape
    video = np.linspace(-1, 1, 2 * np.prod(shape.thwc)).astype(np.float32).reshape(2, *shape.thwc)
    ids = tokenizer.encode(video)
    assert ids.shape == (2, 6, 8, 8)
    made = tokenizer.reconstruct(video)
    params = tokenizer.load()
    expected = jax.jit(tokenizer.model.decode)(params, ids)
    np.testing.assert_array_equal(made, expected)
    assert made.shape == video.shape and np.abs(made - video).mean() < 0.3


def test_clips_that_do_not_fit_are_told(tokenizer):
    with pytest.raises(ValueError, match="frames"):
        tokenizer.encode(np.zeros((1, 4, 32, 32, 3), np.float32))


def test_other_models_are_no_tokenizers():
    folder = zoo.FOLDER / "imagen_demo" / "base"
    trained = Sessions(["runs/generate.gin"], [], []).build_trained(Trained, folder)
    with pytest.raises(ValueError, match="base .*DiffusionStage.* no tokenizer"):
        Tokenizer.of(trained)
