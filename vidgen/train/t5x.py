"""Models of vidgen in the trainer of t5x: `python -m t5x.train` with gin_configs/t5x/.

    T5xModel           what t5x calls a model (`t5x.models.BaseModel`), over any `Model` of vidgen
    feature_converter  of seqio: features go through as they are, unpacked
    axis_rules         rules for vidgen's axis names, which t5x adds to its own

t5x and seqio are imported when a `T5xModel` is made. Its examples are those of a seqio task that
vidgen's sources are registered as (data/sources/seqio_tasks.py, with an encoder):

    video              uint8 "b t h w c", or `tokens`, int32 "b gt gh gw"
    text, text_mask    encoded captions, float32 "b s d" and bool "b s"
    independent_frames bool "b"

Of the variables, "params" is the tree that vidgen trains, so that vidgen reads a checkpoint of t5x
(train/t5x_weights.py); "params_axes" has the names of its axes. Where t5x and vidgen differ:

    t5x adds the gradients of microbatches, vidgen takes their mean: the loss is divided by their
    number, and the logged one is not
    t5x adds metrics up over a period; a mean of which nothing was counted (of noise levels that no
    batch had) is NaN there, as it is here
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidgen.data.source import Source
from vidgen.data.sources import seqio_tasks
from vidgen.data.sources.seqio_source import import_seqio
from vidgen.data.video.transforms import to_float
from vidgen.model import Generator, Model, TokenizerModel
from vidgen.nn.axes import AXES
from vidgen.train.batches import encode_captions
from vidgen.train.partitioning import is_box, unbox
from vidgen.train.warm_start import WarmStart
from vidgen.types import (
    Batch,
    Frozen,
    Mean,
    Params,
    TextEmbedding,
    TextEncoder,
    TokenBatch,
    VideoBatch,
)

# The features of a task: dtype and rank of one example.
FEATURES = {
    "video": ("uint8", 4),
    "tokens": ("int32", 3),
    "text": ("float32", 2),
    "text_mask": ("bool", 1),
    "independent_frames": ("bool", 0),
}
_OWN_AXES = {"batch", "embed", "mlp", "heads", "layers"}  # t5x has rules for these


def axis_rules(cut: Mapping[str, str] | None = None) -> list[tuple[str, str | None]]:
    """Return rules for vidgen's axis names, for `standard_logical_axis_rules.additional_rules`.

    Args:
      cut: the mesh axis ("data" or "model") of a name; all others are replicated.

    Returns:
      A rule for each name in `cut`, and for each that t5x has no rule for.

    Raises:
      ValueError: a name is none of vidgen's (nn/axes.py).
    """
    cut = dict(cut or {})
    if unknown := sorted(cut.keys() - AXES.keys()):
        raise ValueError(
            f"axis_rules: there is no axis {unknown[0]!r}; choose from {sorted(AXES)}."
        )
    names = [name for name in AXES if name in cut or name not in _OWN_AXES]
    return [(name, cut.get(name)) for name in names]


@functools.cache
def feature_converter(pixels: str = "video") -> Any:
    """Make the class of a seqio FeatureConverter that passes features through.

    Args:
      pixels: "video" or "tokens".

    Returns:
      The class; one for each value of `pixels`.

    Raises:
      ValueError: seqio is not installed, or there is no such feature.
    """
    if pixels not in ("video", "tokens"):
        raise ValueError(f"feature_converter: pixels is {pixels!r}; choose video or tokens.")
    seqio, tf = import_seqio()
    names = [pixels, "text", "text_mask", "independent_frames"]
    specs = {
        name: seqio.FeatureConverter.FeatureSpec(tf.as_dtype(FEATURES[name][0]), FEATURES[name][1])
        for name in names
    }

    class PassThrough(seqio.FeatureConverter):
        """Examples as the task gives them; one clip a row."""

        TASK_FEATURES = specs
        MODEL_FEATURES = specs
        PACKING_FEATURE_DTYPES = None

        def _convert_features(self, ds: Any, task_feature_lengths: Any) -> Any:
            del task_feature_lengths
            return ds.map(lambda example: {name: example[name] for name in names})

        def get_model_feature_lengths(self, task_feature_lengths: Any) -> Any:
            """Return the same lengths."""
            return task_feature_lengths

    return PassThrough


def feature_lengths(model: Model, encoder: TextEncoder) -> dict[str, int]:
    """Return the first axis of each feature, for t5x's TASK_FEATURE_LENGTHS.

    Args:
      model: the model that is trained.
      encoder: the encoder of the captions.

    Returns:
      Frames of a clip (or time steps of tokens) and tokens of a caption, by feature.
    """
    spec, length = model.batch_spec(1, encoder.length, encoder.dim), encoder.length
    pixels = "tokens" if isinstance(spec, TokenBatch) else "video"
    first = (spec.tokens if isinstance(spec, TokenBatch) else spec.video).shape[1]
    return {pixels: first, "text": length, "text_mask": length, "independent_frames": 1}


def task(name: str, source: Source, encoder: TextEncoder, *, split: str = "train") -> Any:
    """Register a source as a seqio Task with encoded captions, for t5x's MIXTURE_OR_TASK_NAME.

    Args:
      name: the name of the task: letters, digits, underscores, dots and colons.
      source: a source of videos, or of tokens.
      encoder: the encoder of the captions, best with a table of them (text/encoded.gin).
      split: what the task calls it.

    Returns:
      The seqio Task.

    Raises:
      ValueError: seqio is not installed, the name is taken or no name, or the source has a caption
        for each frame.
    """
    captions = _Captions(encoder.name, encoder.dim, encoder.length, encoder)
    return seqio_tasks.register(name, source, split=split, encoder=captions)


@dataclasses.dataclass(frozen=True)
class _Captions:
    """A text encoder for which an empty caption has no tokens, as in vidgen's own batches."""

    name: str
    dim: int
    length: int
    encoder: TextEncoder

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        return encode_captions(list(prompts), self.encoder)


class T5xModel:
    """What t5x trains: losses, variables and predictions of a vidgen model.

    Attributes:
      model: the model.
      optimizer_def: t5x's, e.g. `t5x.optimizers.adamw`.
      FEATURE_CONVERTER_CLS: see `feature_converter`.
    """

    def __init__(
        self,
        *,
        model: Model,
        optimizer_def: Any,
        microbatches: int | None = None,
        initial: WarmStart | None = None,
        frozen: Callable[[], Frozen] | None = None,
    ) -> None:
        """Take a model, and be a `t5x.models.BaseModel`; a ValueError where t5x is not installed.

        Args:
          model: a model of vidgen, built by gin.
          optimizer_def: an optimizer of t5x.
          microbatches: the trainer's `num_microbatches`.
          initial: begins with the weights of a run of vidgen, or of an exported folder.
          frozen: loads networks that the loss reads and does not change.
        """
        _base_model().register(type(self))
        self.model, self.optimizer_def = model, optimizer_def
        self._microbatches = microbatches or 1
        self._initial = initial if initial is not None and str(initial.model_dir) else None
        self._frozen = None if frozen is None else frozen()
        tokens = isinstance(model.batch_spec(1, 1, 1), TokenBatch)
        self.FEATURE_CONVERTER_CLS = feature_converter("tokens" if tokens else "video")

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Sequence[int]],
        input_types: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Draw fresh weights, or read those of `initial`, with the names of their axes.

        Args:
          rng: key, of the old kind or the new.
          input_shapes: shapes of a batch's features; only that of `text`, "b s d", is read.
          input_types: not needed.

        Returns:
          {"params": weights, "params_axes": the names of their axes}.
        """
        del input_types
        size, length, width = input_shapes["text"]
        spec = self.model.batch_spec(size, length, width)
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec)
        boxed = self.model.init(_typed(rng), batch)
        params = unbox(boxed)
        if self._initial is not None:
            # A callback at run time: as constants of the program they would be in it once more.
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
            load = functools.partial(_loaded, self._initial)
            params = jax.pure_callback(load, shapes, params)
        return {"params": params, "params_axes": _axes(boxed)}

    def loss_fn(
        self, params: Params, batch: Mapping[str, jax.Array], dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Compute the loss that t5x differentiates, and metrics.

        Args:
          params: those of `get_initial_variables`.
          batch: features.
          dropout_rng: key of all randomness; None in an evaluation, without dropout and with a key
            of the batch's own: other noise levels in each batch, and always the same.

        Returns:
          The loss, in training divided by the number of microbatches (t5x adds their gradients),
          and metrics of clu, with the loss undivided.
        """
        train = dropout_rng is not None
        key = _typed(dropout_rng) if train else evaluation_key(batch)
        loss, metrics = self.model.loss(params, self._frozen, to_batch(batch), key, train=train)
        return loss / (self._microbatches if train else 1), self._metrics(loss, metrics)

    def eval_fn(
        self, params: Params, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Compute loss and metrics without dropout.

        Args:
          params: those of `get_initial_variables`.
          batch: features.

        Returns:
          What `loss_fn` does without a key.
        """
        return self.loss_fn(params, batch, None)

    def predict_batch(
        self, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> jax.Array:
        """Make clips for the captions of a batch.

        Args:
          params: those of `get_initial_variables`.
          batch: features.
          rng: key of the noise; None is always the same.

        Returns:
          The clips of `predict_batch_with_aux`.
        """
        return self.predict_batch_with_aux(params, batch, rng)[0]

    def predict_batch_with_aux(
        self, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Make clips for the captions of a batch, with nothing beside them.

        A stage that up-samples starts from the batch's own clips made small, a tokenizer
        reconstructs them.

        Args:
          params: those of `get_initial_variables`.
          batch: features.
          rng: key of the noise; None is always the same.

        Returns:
          Clips "b t h w c", about in [-1, 1], and an empty dict, which t5x expects.

        Raises:
          ValueError: the model makes no clips.
        """
        clips, model = to_batch(batch), self.model
        if isinstance(model, TokenizerModel) and isinstance(clips, VideoBatch):
            return model.reconstruct(params, clips.video), {}
        if not isinstance(model, Generator):
            raise ValueError(f"{type(model).__name__} makes no clips.")
        key = jax.random.key(0) if rng is None else _typed(rng)
        keys = jax.random.split(key, len(batch["text"]))
        low_res = model.degrade(clips.video) if isinstance(clips, VideoBatch) else None
        merged = model.merge_params(params, self._frozen)
        return model.generate(merged, clips.text, low_res, keys), {}

    def score_batch(
        self,
        params: Params,
        batch: Mapping[str, jax.Array],
        return_intermediates: bool = False,
    ) -> jax.Array:
        """Score each example by itself, with the same noise.

        Args:
          params: those of `get_initial_variables`.
          batch: features.
          return_intermediates: must be False.

        Returns:
          The negative loss of each example, "b", so that more is better.

        Raises:
          ValueError: intermediates are wanted, which vidgen's models do not return.
        """
        if return_intermediates:
            raise ValueError("score_batch: a model of vidgen returns no intermediates.")

        def score(one: Mapping[str, jax.Array]) -> jax.Array:
            row = to_batch({name: value[None] for name, value in one.items()})
            return -self.model.loss(params, self._frozen, row, jax.random.key(0), train=False)[0]

        return jax.lax.map(score, dict(batch))

    def _metrics(self, loss: jax.Array, metrics: Mapping[str, Mean]) -> dict[str, Any]:
        """Return t5x's metrics, which it adds up over microbatches and steps."""
        average = importlib.import_module("clu.metrics").Average
        means = {"loss": Mean.of(loss), **metrics}
        return {name: average(total=m.total, count=m.weight) for name, m in means.items()}


def to_batch(features: Mapping[str, jax.Array]) -> Batch:
    """Make the batch of a vidgen model from the features of a task.

    Args:
      features: those of the module's docstring.

    Returns:
      A TokenBatch where there are `tokens`, else a VideoBatch with pixels in [-1, 1].
    """
    text = TextEmbedding(tokens=features["text"], mask=features["text_mask"])
    rest = {"text": text, "independent_frames": features["independent_frames"]}
    if "tokens" in features:
        return TokenBatch(tokens=features["tokens"], **rest)
    # A table, since XLA divides by multiplying, which is not to the bit what the host does.
    levels = jnp.asarray(to_float(np.arange(256, dtype=np.uint8)))
    return VideoBatch(video=levels[features["video"]], **rest)


def evaluation_key(features: Mapping[str, jax.Array]) -> jax.Array:
    """Return a random key that is a function of the pixels or the tokens of a batch.

    Args:
      features: features of the batch.

    Returns:
      The same key for the same batch, so that evaluations of two checkpoints compare.
    """
    pixels = features["tokens" if "tokens" in features else "video"]
    return jax.random.fold_in(jax.random.key(0), jnp.sum(pixels.astype(jnp.uint32)))


def _base_model() -> Any:
    try:
        return importlib.import_module("t5x.models").BaseModel
    except ImportError as error:
        raise ValueError(
            "t5x is not installed; it is on no package index: pip install "
            f'"t5x @ git+https://github.com/google-research/t5x" ({error}).'
        ) from error


def _typed(rng: jax.Array) -> jax.Array:
    """Return a key of JAX's new kind."""
    return rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)


def _loaded(initial: WarmStart, fresh: Params) -> Params:
    return jax.tree.map(np.asarray, initial(jax.tree.map(np.asarray, fresh)))


def _axes(boxed: Params) -> Params:
    """Return the names of all axes, in the tree that flax's partitioning expects."""
    metadata = importlib.import_module("flax.linen.partitioning").AxisMetadata

    def named(node: Any) -> Any:
        return {
            name if isinstance(inner, Mapping) else f"{name}_axes": named(inner)
            if isinstance(inner, Mapping)
            else metadata(tuple(inner.names) if is_box(inner) else (None,) * inner.ndim)
            for name, inner in node.items()
        }

    return named(boxed)
