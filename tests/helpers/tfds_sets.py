"""Writes small TFDS data sets, as `tfds build --file_format=array_record` does: a script.

It runs in a process of its own, since writing imports TensorFlow. The features are those of TFDS's
own builders of these names; the pixels are known: video i of a set is bright(i) all over, one
brighter with each frame.
"""

import io
import os
import sys

import av
import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow_datasets as tfds

features, core = tfds.features, tfds.core


def bright(i):
    return 20 + 40 * i


def frames(i, count, size, channels=3):
    ramp = bright(i) + np.arange(count, dtype=np.uint8)
    return np.broadcast_to(ramp[:, None, None, None], (count, *size, channels)).copy()


def file_of(i):
    """An mp4 of eight frames as bytes."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=8, width=16, height=16)
        for frame in frames(i, 8, (16, 16)):
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


class Made(core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = core.Version("2.0.0")
    COUNTS = {"train": 6, "test": 2}
    FEATURES: object

    def _info(self):
        return core.DatasetInfo(builder=self, features=type(self).FEATURES)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, self.example(i)


class BairRobotPushingSmall(Made):
    FEATURES = features.Sequence(
        {
            "image_main": features.Image(shape=(64, 64, 3)),
            "image_aux1": features.Image(shape=(64, 64, 3)),
            "action": features.Tensor(shape=(4,), dtype=np.float32),
            "endeffector_pos": features.Tensor(shape=(3,), dtype=np.float32),
        },
        length=30,
    )

    def example(self, i):
        main, side = frames(i, 30, (64, 64)), 255 - frames(i, 30, (64, 64))
        still = {"action": np.zeros(4, np.float32), "endeffector_pos": np.zeros(3, np.float32)}
        return [{"image_main": main[k], "image_aux1": side[k], **still} for k in range(30)]


class Ucf101(Made):
    BUILDER_CONFIGS = [
        core.BuilderConfig(name="ucf101_1_256", version=core.Version("2.0.0")),
        core.BuilderConfig(name="ucf101_1", version=core.Version("2.0.0")),
    ]
    FEATURES = features.FeaturesDict(
        {
            "video": features.Video((None, None, None, 3), encoding_format="jpeg"),
            "label": features.ClassLabel(names=["ApplyEyeMakeup", "Archery", "YoYo"]),
        }
    )

    def example(self, i):
        # Example 5 is three frames long, the others 50 (2 s) and wider than high.
        return {"video": frames(i, 3 if i == 5 else 50, (24, 32)), "label": i % 3}


class MovingMnist(Made):
    VERSION = core.Version("1.0.0")
    COUNTS = {"test": 4}
    FEATURES = features.FeaturesDict({"image_sequence": features.Video((20, 64, 64, 1))})

    def example(self, i):
        return {"image_sequence": frames(i, 20, (64, 64), 1)}


class Described(Made):
    """Everything that a user's own set may hold beside: several captions, a file, a rate."""

    VERSION = core.Version("1.10.0")
    FEATURES = features.FeaturesDict(
        {
            "clip": {"frames": features.Sequence(features.Image(shape=(None, None, 3)))},
            "captions": features.Sequence(features.Text()),
            "title": features.Text(),
            "file": features.Tensor(shape=(), dtype=np.object_),
            "fps": np.float32,
            "rank": features.ClassLabel(num_classes=9),
        }
    )

    def example(self, i):
        video = frames(i, 16, (16, 16))
        return {
            "clip": {"frames": list(video)},
            "captions": [f"video {i}", f"clip  number\n{i}"] if i < 4 else [],
            "title": f"title {i}" if i else b"caf\xe9",
            "file": b"" if i == 1 else file_of(i),
            "fps": 4.0 * i,
            "rank": i,
        }


class Photos(Made):
    FEATURES = features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            "label": features.ClassLabel(num_classes=9),
        }
    )

    def example(self, i):
        return {"image": frames(i, 1, (16, 24))[0], "label": i}


class Numbers(Made):
    FEATURES = features.FeaturesDict(
        {"value": np.int64, "label": features.ClassLabel(num_classes=9)}
    )

    def example(self, i):
        return {"value": i, "label": i}


def main(folder):
    made = [BairRobotPushingSmall, MovingMnist, Described, Photos, Numbers]
    builders = [kind(data_dir=folder, file_format="array_record") for kind in made]
    for config in Ucf101.BUILDER_CONFIGS:
        builders.append(Ucf101(config=config, data_dir=folder, file_format="array_record"))
    builders.append(MovingMnist(data_dir=os.path.join(folder, "other"), file_format="tfrecord"))
    for builder in builders:
        builder.download_and_prepare()


if __name__ == "__main__":
    main(sys.argv[1])
