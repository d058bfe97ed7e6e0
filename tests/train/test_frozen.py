"""Weights of a trained network for another model to read."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import toy_training as toy
from fake_models import FakeSampled

from vidgen.inference.stages import Stage
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.train import frozen
from vidgen.train.checkpoints import Checkpointer, CheckpointError
from vidgen.train.frozen import FrozenParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training folder with one checkpoint, and its averaged weights."""
    path = tmp_path_factory.mktemp("runs") / "network"
    trainer = toy.make_trainer()
    state = trainer.init_state(jax.random.key(0), trainer.model.batch_spec(8, toy.LENGTH, toy.DIM))
    with Checkpointer(path) as checkpointer:
        checkpointer.save(3, state, {})
    return path, jax.tree.map(np.asarray, state.ema)


def trained(path, **settings):
    given = {"name": "tokenizer", "model": ToyWithoutText(), "model_dir": str(path)}
    return FrozenParams(**given | settings)


class ToyWithoutText(toy.ToyModel):
    """The shapes of its parameters depend on the text, which is none here."""

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        return super().batch_spec(batch_size, toy.LENGTH, toy.DIM)


def test_the_averaged_weights_by_name(folder):
    path, ema = folder
    found = trained(path)()
    assert list(found) == ["tokenizer"]
    jax.tree.map(np.testing.assert_array_equal, found["tokenizer"], ema)


@pytest.mark.parametrize("settings", [(), []])
def test_equal_models_are_traced_once(folder, settings):
    """Also where a setting is a list, so that a model has no hash."""
    path, _ = folder
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Listed(ToyWithoutText):
        settings: Any = ()

        def init(self, key, batch):
            calls.append(self.settings)
            return super().init(key, batch)

    for _ in range(2):
        trained(path, model=Listed(settings=settings))()
    assert len(calls) == 1
    trained(path, model=Listed(settings=(1,)))()
    assert calls[-1] == (1,)


def test_weights_lie_on_the_mesh(folder):
    path, _ = folder
    mesh = toy.make_trainer().partitioner
    found = trained(path, mesh=mesh)()
    shardings = {x.sharding.mesh for x in jax.tree.leaves(found)}
    assert shardings == {mesh.mesh}


def test_a_stage_needs_no_mesh_of_its_training(folder):
    """What it reads lies where its own weights lie, here on one device."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Joining(ToyWithoutText, FakeSampled):
        def merge_params(self, params, frozen):
            return frozen["tokenizer"]

    path, ema = folder
    pod = dataclasses.replace(toy.make_trainer().partitioner, mesh_shape=(64, 1, 1))
    stage = Stage(
        model=Joining(sampler=DecodingSpec()),
        text_encoder=ByteEncoder(dim=toy.DIM, length=toy.LENGTH),
        model_dir=str(path),
        frozen=trained(path, mesh=pod),
    )
    jax.tree.map(np.testing.assert_array_equal, stage.load(), ema)


def test_what_a_loss_reads_in_shapes(folder):
    class Reader(ToyWithoutText):
        frozen_networks = {"tokenizer": ToyWithoutText(), "another": None}

    _, ema = folder
    found = frozen.spec(Reader())
    assert found["another"] is None
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ema)
    assert found["tokenizer"] == shapes
    assert frozen.spec(ToyWithoutText()) is None


def test_a_folder_that_moved_with_its_reader(folder):
    path, ema = folder
    reader = path.parent / "reader"
    found = trained("elsewhere/network", reader_dir=str(reader))()
    jax.tree.map(np.testing.assert_array_equal, found["tokenizer"], ema)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        trained(tmp_path / "elsewhere")()


def test_another_size_of_model(folder):
    path, _ = folder
    other = ToyWithoutText(network=toy.Regressor(hidden=8))
    with pytest.raises(CheckpointError):
        trained(path, model=other)()
