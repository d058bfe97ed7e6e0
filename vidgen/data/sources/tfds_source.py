"""Any data set of TensorFlow Datasets as a source, read in random order and without TensorFlow.

`tfds build NAME --file_format=array_record` prepares one. What is read is its files: neither the
code that wrote them nor TensorFlow is imported, in the workers as little as here. Of a video only
the frames of the clip are decoded.

    bair_robot_pushing_small    image_main, a picture for each of 30 steps; no captions
    ucf101/ucf101_1_256         video, captioned by its label
    moving_mnist                image_sequence, gray; no captions; its only split is "test"
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from vidgen.data.source import BadExample, Example, Source
from vidgen.data.sources import labels, tfds_files
from vidgen.data.sources.caption_text import drawn, unique
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import packed_shape
from vidgen.data.sources.tfds_files import Feature, Prepared
from vidgen.data.video.files import read_clip
from vidgen.data.video.stored_frames import clip_of_frames, frame_of, text_of
from vidgen.types import VideoShape

_HOLDS = {"videos": ("video", "string"), "images": ("image", "video")}
_CAPTIONS = ("text", "label", "string")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSource(Source):
    """The examples of one split of a TFDS data set.

    Attributes:
      name: "ucf101/ucf101_1_256", with ":2.0.0" where another than the newest version is meant.
      split: "train", or in TFDS's words a part or a sum: "train[:80%]", "train+test".
      shape: the shape of an example; for images its frames become 1.
      data_dir: where the data set is prepared; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
      kind: "videos", or "images": single pictures (of a video, a random frame).
      feature: which holds the video or image: a Video, a sequence of images, an image, or a string
        that is a whole video file. "" takes the only one that there is. Nested ones are "a/b".
      fps: frames of the stored videos per second, which TFDS does not know: a number, or the name
        of the feature that says it; None takes the rate of `shape`, so that no frame is left out.
      caption: the feature that holds it: a text, one of several texts (drawn at random), or a
        label. "" takes the only text, else the only label, else captions are empty.
      template: what a label is put in, in words, at the {}.
      label_captions: captions by label in place of the template: a file
        (data/sources/labels.py), or "ucf101", the table that comes with the package.

    Raises:
      FileNotFoundError: the data set is not prepared there.
      ValueError: TFDS is not installed, or a setting does not fit the data set.
    """

    name: str
    shape: VideoShape
    split: str = "train"
    data_dir: str = ""
    kind: str = "videos"
    feature: str = ""
    fps: float | int | str | None = None
    caption: str = ""
    template: str = "{}"
    label_captions: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", packed_shape("TfdsSource", self.shape, self.kind))
        if isinstance(self.fps, float | int) and not self.fps > 0:
            raise ValueError(f"TfdsSource.fps is {self.fps}; it must be positive.")
        labels.check_template(self.template, "TfdsSource.template")
        _ = self._pixels, self._text, self._by_class  # reports wrong settings early
        if isinstance(self.fps, str):
            self._chosen("fps", self._of_kinds("number"), "is no number")

    def __len__(self) -> int:
        return len(self._prepared.records)

    def captions(self) -> Iterator[str]:
        """List the captions of all classes, or of all examples (whose videos are not decoded).

        See `Source.captions`.
        """
        if not self._text:
            yield ""
        elif self._prepared.features[self._text].kind == "label":
            yield from self._by_class
        else:
            for index in range(len(self)):
                with contextlib.suppress(BadExample):  # `load` reports it
                    yield from self._captions(*self._read(index))

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read a clip from a random place of an example's video, or a picture.

        See `Source.load`.
        """
        where, values = self._read(index)
        captions = self._captions(where, values)
        caption = drawn(captions, rng)
        found = values.get(self._pixels, ())
        feature = self._prepared.features[self._pixels]
        if not found:
            raise BadExample(where, f"it has no {self._pixels}")
        if feature.kind == "string":
            video = read_clip(Packed(where, found[0]), self.shape, rng)
        elif self.kind == "images":
            number = int(rng.integers(len(found)))
            video = frame_of(where, found[number], self.shape)[None]
        else:
            rate = self._rate(where, values)
            video = clip_of_frames(where, found, fps=rate, shape=self.shape, rng=rng)
        return Example(video=video, caption=caption, captions=captions)

    def _read(self, index: int) -> tuple[str, dict[str, Any]]:
        """Read an example as (name, values by feature), without features that have no values."""
        where = f"{self.name} {self.split}[{index}]"
        messages = tfds_files.import_tfds("proto").tf_example_pb2
        try:
            example = messages.Example.FromString(self._prepared.records[index])
        except (OSError, ValueError, RuntimeError, DecodeError) as error:
            raise BadExample(where, f"cannot be read ({str(error)[:80]})") from error
        return where, {
            name: getattr(value, value.WhichOneof("kind")).value
            for name, value in example.features.feature.items()
            if value.WhichOneof("kind")
        }

    def _captions(self, where: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return all captions of an example; () if the data set has none."""
        if not self._text:
            return ()
        found = values.get(self._text, ())
        if not found:
            raise BadExample(where, f"it has no {self._text}")
        if self._prepared.features[self._text].kind != "label":
            texts = unique([text_of(where, text) for text in found])
            if not texts:
                raise BadExample(where, "its caption is blank")
            return texts
        if wrong := [number for number in found if not 0 <= number < len(self._by_class)]:
            raise BadExample(where, f"its {self._text} is {wrong[0]}, which is no class")
        return unique([self._by_class[number] for number in found])

    def _rate(self, where: str, values: dict[str, Any]) -> float:
        """Return the frame rate of the stored video, in frames per second."""
        if not isinstance(self.fps, str):
            return float(self.shape.fps if self.fps is None else self.fps)
        if not values.get(self.fps):
            raise BadExample(where, f"it has no {self.fps}")
        return float(values[self.fps][0])

    @functools.cached_property
    def _prepared(self) -> Prepared:
        return tfds_files.open_split(self.name, self.split, self.data_dir)

    @functools.cached_property
    def _pixels(self) -> str:
        """The feature that holds the video or image."""
        kinds = _HOLDS[self.kind]
        fits = {n: f for n, f in self._of_kinds(*kinds).items() if f.dtype != "float32"}
        if self.feature:
            return self._chosen("feature", fits, f"holds no {self.kind}")
        first = [n for n, f in fits.items() if f.kind == kinds[0]]
        candidates = first or [n for n, f in fits.items() if f.kind == "video"]
        if len(candidates) != 1:
            listing = self._listing(self._prepared.features)
            few = f"{self.name} has no feature that holds {self.kind}: {listing}."
            many = f"several features of {self.name} hold {self.kind}: {self._listing(fits)}; set "
            raise ValueError(many + "TfdsSource.feature." if candidates else few)
        return candidates[0]

    @functools.cached_property
    def _text(self) -> str:
        """The feature that holds the caption, or ""."""
        fits = self._of_kinds(*_CAPTIONS)
        if self.caption:
            return self._chosen("caption", fits, "is no text and no label")
        for kind in ("text", "label"):
            candidates = [n for n, f in fits.items() if f.kind == kind]
            if len(candidates) > 1:
                raise ValueError(
                    f"several features of {self.name} may hold the caption: {self._listing(fits)}; "
                    "set TfdsSource.caption."
                )
            if candidates:
                return candidates[0]
        return ""

    @functools.cached_property
    def _by_class(self) -> tuple[str, ...]:
        """The captions by class, if captions come from labels."""
        if not self._text or self._prepared.features[self._text].kind != "label":
            if self.label_captions:
                raise ValueError(
                    f"TfdsSource.label_captions is set, but the captions of {self.name} are no "
                    f"labels; {self._listing(self._prepared.features)}."
                )
            return ()
        table = labels.read_table(self.label_captions) if self.label_captions else None
        names = self._prepared.features[self._text].classes
        return labels.captions_of_labels(names, template=self.template, table=table)

    def _chosen(self, setting: str, fits: dict[str, Feature], wrong: str) -> str:
        """Return the feature that a setting names, if it is one of those that fit."""
        feature, every = getattr(self, setting), self._prepared.features
        if feature not in every:
            raise ValueError(f"{self.name} has no feature {feature!r}; {self._listing(every)}.")
        if feature not in fits:
            raise ValueError(
                f"TfdsSource.{setting} is {feature!r}, which {wrong} in {self.name}; "
                f"{self._listing(fits)}."
            )
        return feature

    def _of_kinds(self, *kinds: str) -> dict[str, Feature]:
        return {name: f for name, f in self._prepared.features.items() if f.kind in kinds}

    def _listing(self, features: dict[str, Feature]) -> str:
        """Describe features for a message."""
        listing = ", ".join(f"{name} ({features[name].kind})" for name in sorted(features))
        return f"there are {listing}" if listing else "there are none"
