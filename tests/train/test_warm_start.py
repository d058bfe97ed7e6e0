"""Beginning with another run's weights, on the toy model."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vidgen.train import warm_start
from vidgen.train.checkpoints import Checkpointer, CheckpointError
from vidgen.train.train import Train
from vidgen.train.warm_start import WarmStart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Longer(toy.ToyModel):
    """The toy with one more parameter, which it does not use."""

    def init(self, key, batch):
        extra = nn.LogicallyPartitioned(jnp.full((3,), 7.0), ("pixels",))
        return super().init(key, batch) | {"weight": extra}


class Other(toy.ToyModel):
    """A model that shares no parameter with the toy."""

    def init(self, key, batch):
        return {"strange": jnp.zeros(2)}


def train(model_dir, *, model=None, steps=3, **settings):
    trainer = toy.make_trainer(model=model, ema_decay=settings.pop("ema_decay", 0.5))
    return Train(
        trainer=trainer,
        dataset=toy.ToyData(),
        text_encoder=toy.ToyEncoder(),
        model_dir=str(model_dir),
        train_steps=steps,
        **settings,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return folder, train(folder)()


def fresh(model=None):
    return toy.make_trainer(model=model).init_state(jax.random.key(3), toy.spec(model=model)).params


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_averaged_or_raw_weights(first):
    folder, state = first
    assert_equal(WarmStart(model_dir=str(folder))(fresh()), state.ema)
    raw = WarmStart(model_dir=str(folder), averaged=False)(fresh())
    assert_equal(raw, state.params)
    assert np.abs(raw["in_kernel"] - state.ema["in_kernel"]).max() > 0
    wanted = fresh()
    assert_equal(WarmStart()(wanted), wanted)


def test_missing_parameters_stay_fresh_and_are_named(first, monkeypatch):
    folder, state = first
    wanted, said = fresh(Longer()), []
    monkeypatch.setattr(warm_start.log, "info", said.append)
    found = WarmStart(model_dir=str(folder))(wanted)
    assert len(said) == 1 and said[0].endswith("; not there, so fresh: weight")
    np.testing.assert_array_equal(found.pop("weight"), np.full(3, 7.0))
    assert_equal(found, state.ema)


def test_layout_is_that_of_the_fresh_weights(first):
    wanted = fresh()
    found = WarmStart(model_dir=str(first[0]))(wanted)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert x.sharding == y.sharding and x.dtype == y.dtype


def test_training_begins_there_and_resumes_without_it(first, tmp_path):
    start = WarmStart(model_dir=str(first[0]))
    train(tmp_path, steps=1, initial=start, time_limit_minutes=1e-9)()
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps() == [0]
        assert_equal(checkpointer.restore_params(), first[1].ema)
        assert_equal(checkpointer.restore_params(averaged=False), first[1].ema)
    # Going on: the other folder is not looked at again.
    state = train(tmp_path, steps=2, initial=WarmStart(model_dir=str(tmp_path / "gone")))()
    assert int(state.step) == 2


def test_wrong_weights_are_one_sentence(first, tmp_path):
    folder = str(first[0])
    small = fresh(toy.ToyModel(network=toy.Regressor(hidden=8)))
    with pytest.raises(CheckpointError, match=r"in_bias is \(16,\) there and \(8,\) here"):
        WarmStart(model_dir=folder)(small)
    with pytest.raises(CheckpointError, match="another kind.*no parameter strange"):
        WarmStart(model_dir=folder)(fresh(Other()))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        WarmStart(model_dir=str(tmp_path / "nowhere"))(fresh())
