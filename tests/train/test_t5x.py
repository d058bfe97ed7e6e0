"""The adapter to t5x without t5x: features, variables, losses, weights to begin with."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy
from flax.linen import partitioning as flax_partitioning

from vidgen.data.source import Example, Source, TokenExample
from vidgen.data.sources import seqio_tasks
from vidgen.data.sources.seqio_source import import_seqio
from vidgen.data.video.transforms import to_float
from vidgen.nn.axes import AXES
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.train import t5x, weights
from vidgen.train.batches import encode_captions
from vidgen.train.partitioning import unbox
from vidgen.train.state import named_leaves
from vidgen.train.warm_start import WarmStart
from vidgen.types import TokenBatch, VideoBatch, VideoShape

ENCODER = ByteEncoder(dim=toy.DIM, length=toy.LENGTH)
SHAPE = VideoShape(frames=2, height=4, width=4)
BaseModel = abc.ABCMeta("BaseModel", (), {})


class Clips(Source):
    """Four clips, the last of them without a caption."""

    shape = SHAPE

    def __len__(self):
        return 4

    def load(self, index, rng):
        video = np.full(self.shape.thwc, index, np.uint8)
        return Example(video=video, caption=("a", "é", "ab", " ")[index])


class Tokens(Clips):
    """The same as tokens."""

    grid = (2, 3, 3)

    def load(self, index, rng):
        tokens = np.full(self.grid, index, np.int32)
        return TokenExample(tokens=tokens, caption="a", independent_frames=index == 3)


class OfTokens(toy.ToyModel):
    """A model that trains on tokens."""

    def batch_spec(self, batch_size, text_length, text_dim, *, captions_per_clip=1):
        spec = super().batch_spec(batch_size, text_length, text_dim)
        tokens = jax.ShapeDtypeStruct((batch_size, *Tokens.grid), jnp.int32)
        return TokenBatch(tokens=tokens, text=spec.text, independent_frames=spec.independent_frames)


@pytest.fixture
def registered():
    """A seqio task of a source, for one test."""
    seqio, _ = import_seqio()
    names = []

    def task(source):
        names.append(f"t5x_{len(names)}")
        return t5x.task(names[-1], source, ENCODER)

    yield task
    for name in names:
        seqio.TaskRegistry.remove(name)


@pytest.fixture
def adapted(monkeypatch):
    """Makes an adapter of the toy model, as if t5x were here."""
    monkeypatch.setattr(t5x, "_base_model", lambda: BaseModel)
    return lambda **settings: t5x.T5xModel(model=toy.ToyModel(), optimizer_def=None, **settings)


def features(rows=4, seed=0):
    rng = np.random.default_rng(seed)
    text = encode_captions([f"{i}" for i in range(rows)], ENCODER)
    return {
        "video": jnp.asarray(rng.integers(256, size=(rows, *toy.SHAPE.thwc)), jnp.uint8),
        "text": jnp.asarray(text.tokens),
        "text_mask": jnp.asarray(text.mask),
        "independent_frames": jnp.zeros(rows, bool),
    }


def variables(model):
    shapes = {name: value.shape for name, value in features().items()}
    return model.get_initial_variables(jax.random.PRNGKey(0), shapes)


@pytest.mark.parametrize("source, pixels", [(Clips(), "video"), (Tokens(), "tokens")])
def test_a_task_and_the_converter_give_the_batches_of_vidgen(registered, source, pixels):
    """What seqio's own checks let through: names, dtypes, ranks and lengths."""
    seqio, _ = import_seqio()
    model = toy.ToyModel(shape=SHAPE) if pixels == "video" else OfTokens(shape=SHAPE)
    dataset = seqio.get_dataset(
        registered(source).name,
        task_feature_lengths=t5x.feature_lengths(model, ENCODER),
        feature_converter=t5x.feature_converter(pixels)(pack=False),
        dataset_split="train",
        shuffle=False,
        batch_size=4,
        trim_output_features=False,
    )
    (batch,) = dataset.as_numpy_iterator()
    text = encode_captions([source.load(i, None).caption for i in range(4)], ENCODER)
    np.testing.assert_array_equal(batch["text"], text.tokens)
    np.testing.assert_array_equal(batch["text_mask"], text.mask)
    assert pixels == "tokens" or not batch["text_mask"][3].any()  # an empty caption has no tokens
    np.testing.assert_array_equal(batch[pixels][:, 0, 0, 0].reshape(4, -1)[:, 0], range(4))
    assert batch["independent_frames"].tolist() == [False] * 3 + [pixels == "tokens"]
    assert {name: (a.dtype.name, a.ndim - 1) for name, a in batch.items()} == {
        name: t5x.FEATURES[name] for name in batch
    }


def test_what_is_no_kind_of_pixels():
    with pytest.raises(ValueError, match="'frames'.*video or tokens"):
        t5x.feature_converter("frames")


def test_pixels_become_those_of_vidgen_to_the_bit():
    given = features()
    found = t5x.to_batch(given)
    assert isinstance(found, VideoBatch)
    np.testing.assert_array_equal(found.video, to_float(np.asarray(given["video"])))


def test_it_is_a_model_of_t5x(adapted):
    assert isinstance(adapted(), BaseModel)


def test_without_t5x_it_says_where_that_is():
    with pytest.raises(ValueError, match="t5x is not installed.*github.com/google-research/t5x"):
        t5x.T5xModel(model=toy.ToyModel(), optimizer_def=None)


@pytest.mark.parametrize("train", [True, False])
def test_the_loss_is_that_of_the_model(adapted, train):
    model, batch = adapted(), features()
    params = variables(model)["params"]
    key = jax.random.PRNGKey(5) if train else None
    loss, metrics = model.loss_fn(params, batch, key) if train else model.eval_fn(params, batch)
    typed = jax.random.key(5) if train else t5x.evaluation_key(batch)
    expected, means = model.model.loss(params, None, t5x.to_batch(batch), typed, train=train)
    assert loss == expected
    assert metrics["loss"].compute() == expected
    assert means and all(metrics[name].compute() == mean.value() for name, mean in means.items())


def test_batches_of_an_evaluation_have_keys_of_their_own():
    keys = [t5x.evaluation_key(features(seed=seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_sums_of_gradients_of_microbatches_are_means(adapted):
    """t5x adds them up; the loss that is logged is whole."""
    one, two, batch = adapted(), adapted(microbatches=2), features()
    params, key = variables(one)["params"], jax.random.PRNGKey(1)
    halves = [{name: x[i : i + 2] for name, x in batch.items()} for i in (0, 2)]

    def gradient(model, rows):
        return jax.grad(lambda p: model.loss_fn(p, rows, key)[0])(params)

    summed = jax.tree.map(jnp.add, *(gradient(two, rows) for rows in halves))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(gradient(one, rows) for rows in halves))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), summed, mean)
    logged = [model.loss_fn(params, batch, key)[1]["loss"].compute() for model in (one, two)]
    assert logged[0] == logged[1]
    assert two.eval_fn(params, batch)[0] == one.eval_fn(params, batch)[0]


def test_means_add_up_and_what_was_never_counted_is_no_number(adapted):
    metrics = adapted()._metrics(jnp.float32(1), {"x": t5x.Mean.of(jnp.ones(2), jnp.zeros(2))})
    assert np.isnan(metrics["x"].compute())
    other = adapted()._metrics(jnp.float32(3), {"x": t5x.Mean.of(jnp.full(2, 5.0))})
    assert metrics["x"].merge(other["x"]).compute() == 5
    assert metrics["loss"].merge(other["loss"]).compute() == 2


def test_variables_and_the_names_of_their_axes(adapted):
    found = variables(adapted())
    boxed = toy.ToyModel().init(jax.random.key(0), t5x.to_batch(features()))
    fresh = unbox(boxed)
    jax.tree.map(np.testing.assert_array_equal, found["params"], fresh)
    names = named_leaves(flax_partitioning.get_axis_names(found["params_axes"]))
    assert {name: tuple(spec) for name, spec in names.items()} == {
        name.removesuffix("/value"): box.names
        for name, box in (
            (jax.tree_util.keystr(path, simple=True, separator="/"), box)
            for path, box in jax.tree_util.tree_leaves_with_path(
                boxed, is_leaf=lambda x: hasattr(x, "names")
            )
        )
    }
    assert names.keys() == named_leaves(fresh).keys()


def test_it_begins_with_the_weights_of_a_run_of_vidgen(adapted, tmp_path):
    trained = jax.tree.map(lambda x: x + 1, variables(adapted())["params"])
    weights.write(tmp_path, trained, 3, eight_bits=False)
    model = adapted(initial=WarmStart(model_dir=str(tmp_path)))
    found = jax.jit(lambda key: variables(model)["params"])(0)
    jax.tree.map(np.testing.assert_array_equal, found, trained)


def test_predictions_and_scores(adapted):
    model, batch = adapted(), features()
    params = variables(model)["params"]
    clips = model.predict_batch(params, batch, jax.random.PRNGKey(2))
    assert clips.shape == batch["video"].shape and np.isfinite(clips).all()
    scores = model.score_batch(params, batch)
    rows = [t5x.to_batch({n: x[i : i + 1] for n, x in batch.items()}) for i in (0, 3)]
    key = jax.random.key(0)
    alone = [model.model.loss(params, None, row, key, train=False)[0] for row in rows]
    np.testing.assert_allclose(scores[jnp.array([0, 3])], -np.asarray(alone), rtol=1e-6)
    with pytest.raises(ValueError, match="no intermediates"):
        model.score_batch(params, batch, return_intermediates=True)


def test_rules_for_all_names_and_no_name_twice():
    own = {name for name, _ in t5x.axis_rules()}
    assert own | t5x._OWN_AXES == set(AXES) and not own & t5x._OWN_AXES
    assert all(to is None for _, to in t5x.axis_rules())
    rules = t5x.axis_rules({"conv_out": "model", "embed": "data"})
    assert dict(rules)["conv_out"] == "model" and dict(rules)["embed"] == "data"
    assert len(dict(rules)) == len(rules)
    with pytest.raises(ValueError, match="no axis 'width_of'"):
        t5x.axis_rules({"width_of": "model"})


def test_a_task_of_captions_takes_no_tokens():
    with pytest.raises(ValueError, match="tokens; .*captions"):
        seqio, _ = import_seqio()
        task = seqio_tasks.register("t5x_no_tokens", Tokens())
        try:
            next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
        except Exception as error:
            raise ValueError(str(error)) from error
        finally:
            seqio.TaskRegistry.remove("t5x_no_tokens")
