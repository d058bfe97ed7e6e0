"""vidgen's sources as seqio tasks, to be mixed with others in a seqio Mixture.

    seqio_tasks.register("sprites", Sprites(shape=shape))
    seqio.MixtureRegistry.add("both", [("sprites", 1.0), ("mine", 3.0)])
    SeqioSource(name="both", shape=shape)

A task gives `video`, uint8 "t h w c", and `caption`. Order, shards and passes are made of indices,
before anything is loaded; each pass loads with seeds of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources.seqio_source import import_seqio

log = logging.getLogger(__name__)


def register(name: str, source: Source, *, split: str = "train") -> Any:
    """Register a source as a seqio Task, and return the task.

    Args:
      name: of the task: letters, digits, underscores, dots and colons.
      source: any with random access; examples that cannot be loaded are left out.
      split: what the task calls it.

    Raises:
      ValueError: seqio is not installed, the name is taken or no name, or the source has a caption
        for each frame.
    """
    seqio, tf = import_seqio()
    if (count := source.captions_per_clip) > 1:
        raise ValueError(
            f"the source for the seqio task {name} gives {count} captions for a clip; a task has "
            "one. Register videos and images each by itself."
        )
    text = seqio.PassThroughVocabulary(size=0)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            _indices(len(source)), splits=(split,), num_input_examples={split: len(source)}
        ),
        preprocessors=[_loading(source)],
        output_features={
            "video": seqio.ContinuousFeature(dtype=tf.uint8, rank=4),
            "caption": seqio.Feature(text, add_eos=False, dtype=tf.string, rank=0),
        },
        metric_fns=[],
        shuffle_buffer_size=1,  # the indices are shuffled, all of them
    )


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


def _loading(source: Source) -> Callable[[Any], Any]:
    """Make a preprocessor of seqio that turns indices into examples."""
    seqio, tf = import_seqio()
    nothing = np.zeros(source.shape.thwc, np.uint8)

    def load(index: Any, seed: Any) -> tuple[np.ndarray, bytes, np.ndarray]:
        try:
            entropy = seed.astype(np.uint32).tolist()
            example = source.load(int(index), np.random.default_rng(entropy))
        except BadExample as bad:
            log.warning("skipped %s: %s", bad.path, bad.reason)
            return nothing, b"", np.array(False)
        if not isinstance(example, Example):
            raise ValueError(f"{source} gives tokens; a task of seqio is made of videos.")
        return example.video, str(example.caption).encode(), np.array(True)

    @seqio.map_over_dataset(num_seeds=1)
    def loaded(element: Any, seed: Any) -> Any:
        kinds = (tf.uint8, tf.string, tf.bool)
        video, caption, good = tf.numpy_function(load, [element["index"], seed], kinds)
        video.set_shape(source.shape.thwc)
        caption.set_shape(())
        good.set_shape(())
        return {"video": video, "caption": caption, "good": good}

    def examples(dataset: Any) -> Any:
        found = loaded(dataset).filter(lambda element: element["good"])
        return found.map(lambda x: {"video": x["video"], "caption": x["caption"]})

    return examples
