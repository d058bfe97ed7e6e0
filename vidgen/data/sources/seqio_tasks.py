"""vidgen's sources as seqio tasks, to be mixed with others in a seqio Mixture.

    seqio_tasks.register("sprites", Sprites(shape=shape))
    seqio.MixtureRegistry.add("both", [("sprites", 1.0), ("mine", 3.0)])
    SeqioSource(name="both", shape=shape)

A task gives `video`, uint8 "t h w c", and `caption`. Order, shards and passes are made of indices,
before anything is loaded; each pass loads with seeds of its own. With an `encoder` a task gives
what a model of vidgen trains on, in any trainer that reads seqio (train/t5x.py): `video`, or
`tokens`, int32 "gt gh gw"; `text`, float32 "s d"; `text_mask`, bool "s"; `independent_frames`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources.seqio_source import import_seqio
from vidgen.types import TextEncoder

log = logging.getLogger(__name__)


def register(
    name: str, source: Source, *, split: str = "train", encoder: TextEncoder | None = None
) -> Any:
    """Register a source as a seqio Task.

    Args:
      name: the name of the task: letters, digits, underscores, dots and colons.
      source: any with random access; examples that cannot be loaded are left out.
      split: what the task calls it.
      encoder: the encoder of the captions; None gives them as they are.

    Returns:
      The task, with the features of the module's docstring.

    Raises:
      ValueError: seqio is not installed, the name is taken or no name, or the source has a caption
        for each frame.
    """
    seqio, _ = import_seqio()
    if (count := source.captions_per_clip) > 1:
        raise ValueError(
            f"the source for the seqio task {name} gives {count} captions for a clip; a task has "
            "one. Register videos and images each by itself."
        )
    arrays = _arrays(source, encoder)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            _indices(len(source)), splits=(split,), num_input_examples={split: len(source)}
        ),
        preprocessors=[_loading(source, encoder, arrays)],
        output_features={name: _feature(array) for name, array in arrays.items()},
        metric_fns=[],
        shuffle_buffer_size=1,  # the indices are shuffled, all of them
    )


def _arrays(source: Source, encoder: TextEncoder | None) -> dict[str, np.ndarray]:
    """Return an empty example: the features with their shapes and dtypes."""
    video = {"video": np.zeros(source.shape.thwc, np.uint8)}
    if encoder is None:
        return video | {"caption": np.array(b"", object)}
    grid = getattr(source, "grid", None)  # of tokens (data/cache/token_cache.py)
    return ({"tokens": np.zeros(grid, np.int32)} if grid else video) | {
        "text": np.zeros((encoder.length, encoder.dim), np.float32),
        "text_mask": np.zeros(encoder.length, bool),
        "independent_frames": np.array(False),
    }


def _dtype(array: np.ndarray) -> Any:
    _, tf = import_seqio()
    return tf.string if array.dtype == object else tf.as_dtype(array.dtype)


def _feature(array: np.ndarray) -> Any:
    seqio, _ = import_seqio()
    if array.dtype == object:
        vocabulary = seqio.PassThroughVocabulary(size=0)
        return seqio.Feature(vocabulary, add_eos=False, dtype=_dtype(array), rank=0)
    return seqio.ContinuousFeature(dtype=_dtype(array), rank=array.ndim)


def _indices(size: int) -> Callable[..., Any]:
    """Make a `dataset_fn` of seqio: the indices of a source, in order or shuffled by a seed."""
    _, tf = import_seqio()

    def dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        del split
        indices = tf.data.Dataset.range(size)
        if shuffle_files:
            key = np.random.SeedSequence(seed).generate_state(2)
            last = np.int64(size - 1)
            indices = indices.map(lambda i: tf.random.experimental.index_shuffle(i, key, last))
        return indices.map(lambda i: {"index": i})

    return dataset


def _loading(
    source: Source, encoder: TextEncoder | None, arrays: Mapping[str, np.ndarray]
) -> Callable[[Any], Any]:
    """Make a preprocessor of seqio that turns indices into examples."""
    seqio, tf = import_seqio()

    def load(index: Any, seed: Any) -> tuple[Any, ...]:
        try:
            entropy = seed.astype(np.uint32).tolist()
            example = source.load(int(index), np.random.default_rng(entropy))
        except BadExample as bad:
            log.warning("skipped %s: %s", bad.path, bad.reason)
            return *arrays.values(), np.array(False)
        if encoder is None and not isinstance(example, Example):
            raise ValueError(f"{source} gives tokens; a task of captions is made of videos.")
        found: dict[str, Any] = dict(example.content)
        if encoder is None:
            found["caption"] = str(example.caption).encode()
        else:
            text = encoder([str(example.caption)])
            found |= {"text": np.asarray(text.tokens)[0], "text_mask": np.asarray(text.mask)[0]}
            found["independent_frames"] = np.array(example.independent_frames)
        values = [
            found[name] if name == "caption" else np.asarray(found[name], array.dtype)
            for name, array in arrays.items()
        ]
        return *values, np.array(True)

    @seqio.map_over_dataset(num_seeds=1)
    def loaded(element: Any, seed: Any) -> Any:
        kinds = [*map(_dtype, arrays.values()), tf.bool]
        *values, good = tf.numpy_function(load, [element["index"], seed], kinds)
        for value, array in zip(values, arrays.values(), strict=True):
            value.set_shape(array.shape)
        good.set_shape(())
        return dict(zip(arrays, values, strict=True)) | {"good": good}

    def examples(dataset: Any) -> Any:
        found = loaded(dataset).filter(lambda element: element["good"])
        return found.map(lambda element: {name: element[name] for name in arrays})

    return examples
