"""Images beside videos: a folder of captioned images, and the mixture that models train on.

Joint image-video training (Imagen Video): t unrelated images are packed into a "clip" as long as a
video, each with its own caption, and the example says so (`independent_frames`), so that the
network lets nothing pass between its frames. Images come in greater number and variety than
videos; what they teach of subjects and styles carries over to videos. (Batches of other data have
one caption for a clip.)

    example i  =  t images, drawn at random        with probability image_rate
                  video i                          otherwise

Both the choice and the images are functions of the example's own random generator, so the mixture
can be resumed and spread over processes like any other source.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vidgen.data.source import BadExample, Example, Source, TokenExample, captioned
from vidgen.data.sources.captions import MISSING_CAPTIONS
from vidgen.data.sources.files import File, as_bad_example
from vidgen.data.sources.folder import FolderSource
from vidgen.data.video import pictures, transforms
from vidgen.data.video.files import VIDEO_SUFFIXES, read_clip
from vidgen.data.video.orientation import upright
from vidgen.types import VideoShape

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
KINDS = {"videos": VIDEO_SUFFIXES, "images": IMAGE_SUFFIXES}  # what packed data sets may hold
_DRAWS = 20  # images that are tried for one place in a pack

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(FolderSource):
    """The image files under a folder, sorted, with their captions.

    Settings and errors are those of `FolderSource`; of `shape`, the number of frames becomes 1.
    """

    kind: ClassVar[str] = "image"
    suffixes: ClassVar[Sequence[str]] = IMAGE_SUFFIXES

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", dataclasses.replace(self.shape, frames=1))
        super().__post_init__()

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Read an image, cropped around its center and resized to `shape`; see `Source.load`."""
        file, captions = self.files[index]
        return captioned(read_content(file, "images", self.shape, rng), captions, rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(Source):
    """Videos mixed with packs of images, for joint training.

    One pass shows as many examples as there are videos. Evaluations take the videos alone.

    Attributes:
      videos: the source of clips.
      images: a source of single frames of the same height and width: an `ImageFolder`, or any other
        whose shape has one frame.
      image_rate: the share of the examples that are packs of images, in [0, 1].
      shape: the shape of the videos.
    """

    videos: Any  # a Source; the check below tells users more than a type error would
    images: Any
    image_rate: float
    shape: VideoShape = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("videos", "images"):
            if not isinstance(source := getattr(self, name), Source):
                raise ValueError(f"Joint.{name} is {source!r}, which is not read in random order.")
            if not len(source):
                raise ValueError(f"Joint.{name} is empty: {source}.")
        if not 0 <= self.image_rate <= 1:
            raise ValueError(f"Joint.image_rate is {self.image_rate}; it must be in [0, 1].")
        still, wanted = self.images.shape, self.videos.shape
        if still.thwc != (1, *wanted.thwc[1:]):
            raise ValueError(
                f"Joint.images gives {still}; beside videos of {wanted} it must give single "
                f"frames, 1x{wanted.height}x{wanted.width}."
            )
        object.__setattr__(self, "shape", wanted)

    @property
    def captions_per_clip(self) -> int:
        """One for every frame, unless there are no packs."""
        return self.shape.frames if self.image_rate else 1

    def __len__(self) -> int:
        return len(self.videos)

    def captions(self) -> Iterator[str]:
        """List the captions of the videos, then those of the images; see `Source.captions`."""
        yield from self.videos.captions()
        yield from self.images.captions()

    def file(self, index: int) -> Any:
        """Return the file of a video; see `Source.file`."""
        return self.videos.file(index)

    def left_out(self) -> Iterator[tuple[str, str]]:
        """List what is left out of the videos, then of the images; see `Source.left_out`."""
        yield from self.videos.left_out()
        yield from self.images.left_out()

    def for_evaluation(self, shape: VideoShape) -> Source:
        """Return the videos, or the images for one frame; see `Source.for_evaluation`."""
        return (self.images if shape.frames == 1 else self.videos).for_evaluation(shape)

    def load(self, index: int, rng: np.random.Generator) -> Example | TokenExample:
        """Load a video, or a pack of images in its place; see `Source.load`.

        One image that cannot be read is replaced by another, so that it loses no pack.
        """
        if rng.random() >= self.image_rate:
            return self.videos.load(index, rng)
        count, frames = len(self.images), self.shape.frames
        drawn = rng.choice(count, frames, replace=count < frames)
        images = [self._image(int(i), rng) for i in drawn]
        return Example(
            video=np.concatenate([image.video for image in images]),
            caption=tuple(str(image.caption) for image in images),
            independent_frames=True,
        )

    def _image(self, index: int, rng: np.random.Generator, others: int = _DRAWS - 1) -> Example:
        """Load image `index`, or one of so many others: a bad file loses no pack."""
        try:
            example = self.images.load(index, rng)
        except BadExample as error:
            _warn_replaced(error.path, error.reason)
            if not others:
                reason = f"{error.reason}; {_DRAWS - 1} others cannot be used either"
                raise BadExample(error.path, reason) from error
            return self._image(int(rng.integers(len(self.images))), rng, others - 1)
        if not isinstance(example, Example):
            raise ValueError(f"Joint.images gives tokens: {self.images}.")
        return example


def read_image(path: File) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture upright, as RGB over white; of an animation, read the first frame.

    Args:
      path: the path of the file, here or in an object store, or a packed one.

    Returns:
      Its pixels, at their own size.

    Raises:
      BadExample: no such file, not a picture, or damaged.
    """
    with as_bad_example(path), pictures.opened(path) as image:
        return pictures.to_rgb(upright(image))


def read_content(
    file: File, kind: str, shape: VideoShape, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w c"]:
    """Read a clip from a random place of a video, or a picture as a clip of one frame.

    Args:
      file: the file of a packed data set.
      kind: "videos" or "images", as in `KINDS`.
      shape: the shape of the result.
      rng: chooses the place.

    Returns:
      The clip, cropped around its center to the aspect of `shape`.

    Raises:
      BadExample: it is damaged, or too short.
    """
    if kind == "videos":
        return read_clip(file, shape, rng)
    return transforms.fit(read_image(file), shape.height, shape.width)[None]


def packed_shape(
    name: str, shape: VideoShape, kind: str, missing_captions: str = "skip"
) -> VideoShape:
    """Check the settings of a packed data set.

    Args:
      name: the name of the source, for messages.
      shape: the setting of the source.
      kind: one of `KINDS`.
      missing_captions: "skip" or "empty"; left out where the source has no such setting.

    Returns:
      The shape of its examples: for images one frame.

    Raises:
      ValueError: a setting is wrong.
    """
    for field, value, choices in (
        ("kind", kind, tuple(KINDS)),
        ("missing_captions", missing_captions, MISSING_CAPTIONS),
    ):
        if value not in choices:
            raise ValueError(f"{name}.{field} is {value!r}; choose {' or '.join(choices)}.")
    if shape.channels != 3:
        raise ValueError(f"{name} reads RGB; shape.channels is {shape.channels}.")
    return dataclasses.replace(shape, frames=1) if kind == "images" else shape


@functools.cache
def _warn_replaced(path: str, reason: str) -> None:
    """Warn once per file and process that it is not used."""
    log.warning("image %s is replaced by another: %s", path, reason)
