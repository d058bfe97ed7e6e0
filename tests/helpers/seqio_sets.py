"""Registers small seqio tasks, as a user's module does; the pixels are known.

Clip i has the brightness 10 i in its first frame and one more in each that follows.
"""

import io

import numpy as np
import seqio
import tensorflow as tf
from PIL import Image

from vidgen.data.video.encode import write_video

SIZE = 24  # clips in the files of "numbers"
SHAPE = (6, 8, 8, 3)
NAMES = ("numbers", "marked", "frames", "pictures", "files", "unseeded")


def clip(i):
    ramp = (10 * i + np.arange(SHAPE[0])).astype(np.uint8)
    return np.broadcast_to(ramp[:, None, None, None], SHAPE).copy()


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_files(folder):
    """Four files of six clips each."""
    for number in range(4):
        with tf.io.TFRecordWriter(str(folder / f"clips.tfrecord-{number:05}-of-00004")) as file:
            for i in range(6 * number, 6 * number + 6):
                values = {"video": clip(i).tobytes(), "text": f"clip  number\n{i}".encode()}
                features = {
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                    for name, value in values.items()
                }
                message = tf.train.Example(features=tf.train.Features(feature=features))
                file.write(message.SerializeToString())


def listed(values, split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices(values)


def features(video, caption, **settings):
    vocabulary = seqio.PassThroughVocabulary(size=0)
    about = {"add_eos": False, "dtype": tf.string, "rank": caption}
    return {
        "video": seqio.ContinuousFeature(**({"dtype": tf.uint8, "rank": video} | settings)),
        "caption": seqio.Feature(vocabulary, **about),
    }


@seqio.map_over_dataset
def parsed(values):
    video = tf.reshape(tf.io.decode_raw(values["video"], tf.uint8), SHAPE)
    return {"video": video, "caption": values["text"]}


@seqio.map_over_dataset(num_seeds=1)
def marked(values, seed):
    """A random first pixel: what a preprocessor with seeds does."""
    value = tf.random.stateless_uniform((), seed, 0, 256, tf.int32)
    mark = tf.cast(tf.reshape(value, (1, 1, 1, 1)), tf.uint8)
    first = tf.pad(mark, [[0, SHAPE[0] - 1], [0, 7], [0, 7], [0, 2]])
    keep = tf.pad(tf.ones((1, 1, 1, 1), tf.uint8), [[0, SHAPE[0] - 1], [0, 7], [0, 7], [0, 2]])
    return values | {"video": values["video"] * (1 - keep) + first}


def register(folder):
    """All tasks; the files of "numbers" and "marked" lie in `folder`."""
    write_files(folder)
    text = tf.io.FixedLenFeature([], tf.string)
    source = seqio.TFExampleDataSource(
        {"train": str(folder / "clips.tfrecord-*"), "one": str(folder / "clips.tfrecord-00001*")},
        feature_description={"video": text, "text": text},
    )
    add = seqio.TaskRegistry.add
    add("numbers", source, preprocessors=[parsed], output_features=features(4, 0))
    add("marked", source, preprocessors=[parsed, marked], output_features=features(4, 0))
    _add_listed(add, folder)


def _add_listed(add, folder):
    frames = {
        "video": [[png(x) for x in clip(i)] for i in range(3)],
        "caption": [[f"{i} a", f"{i} b"] for i in range(3)],
    }
    pictures = {"video": np.stack([clip(i)[0] for i in range(3)]), "caption": ["0", "1", "2"]}
    for i in range(3):
        pixels = np.full((6, 16, 16, 3), i / 4, np.float32)
        write_video(folder / f"{i}.mp4", pixels, 8.0, min_side=0)
    files = [(folder / f"{i}.mp4").read_bytes() for i in range(3)]
    vocabulary = seqio.ByteVocabulary()
    tokens = [vocabulary.encode(f"file {i}") for i in range(3)]
    tasks = {
        "frames": (frames, features(1, 1, dtype=tf.string)),
        "pictures": (pictures, features(3, 0)),
        "files": (
            {
                "video": files,
                "tokens": tokens,
                "broken": [b"", b"xx", b"yy"],
                "latin": [b"\xe9"] * 3,
            },
            {
                "video": seqio.ContinuousFeature(dtype=tf.string, rank=0),
                "tokens": seqio.Feature(vocabulary, add_eos=False),
            },
        ),
    }
    for name, (values, output) in tasks.items():

        def read(split, shuffle_files=False, seed=None, values=values):
            return listed(values, split, shuffle_files, seed)

        source = seqio.FunctionDataSource(read, splits=["train"])
        add(name, source, preprocessors=[], output_features=output)
    unseeded = seqio.FunctionDataSource(
        lambda split, shuffle_files: listed(frames, split), splits=["train"]
    )
    output = features(1, 1, dtype=tf.string)
    add("unseeded", unseeded, preprocessors=[], output_features=output)
