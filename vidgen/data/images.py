"""Images beside videos: a folder of captioned images, and the mixture that models train on.

Joint image-video training (Imagen Video): t unrelated images are packed into a "clip" as long as a
video, each with its own caption, and the example says so (`independent_frames`), so that the
network lets nothing pass between its frames. Images come in greater number and variety than
videos; what they teach of subjects and styles carries over to videos.

    example i  =  t images, drawn at random        with probability image_rate
                  video i                          otherwise

Both the choice and the images are functions of the example's own random generator, so the mixture
can be resumed and spread over processes like any other source.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vidgen.data import transforms
from vidgen.data.sources import BadExample, Example, Source, captioned_files, captions_of
from vidgen.data.video_files import File, pillow_to_rgb, readable, told_as_bad
from vidgen.types import VideoShape

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DRAWS = 20  # images that are tried for one place in a pack

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The image files under a folder, in sorted order, with their captions (data/sources.py).

    Attributes:
      path: the folder.
      shape: height and width of the images; its frames become 1.
      missing_captions: "skip" leaves out files without a caption (they are counted in a
        warning); "empty" trains on them as unconditional examples with the caption "".

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it.
      ValueError: a caption file is not as it should be.
    """

    path: str
    shape: VideoShape
    missing_captions: str = "skip"

    def __post_init__(self) -> None:
        if self.shape.channels != 3:
            raise ValueError(f"ImageFolder reads RGB; shape.channels is {self.shape.channels}.")
        object.__setattr__(self, "path", os.fspath(self.path))
        object.__setattr__(self, "shape", dataclasses.replace(self.shape, frames=1))
        _ = self.files  # so that a wrong folder is reported when it is configured

    @functools.cached_property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(file, caption) pairs, sorted by file."""
        return captioned_files(self.path, IMAGE_SUFFIXES, "image", self.missing_captions)

    def __len__(self) -> int:
        return len(self.files)

    def captions(self) -> Iterator[str]:
        """Those of all files."""
        return (caption for _, caption in self.files)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Image `index`, cropped around its center to the wanted aspect ratio and resized."""
        file, caption = self.files[index]
        image = transforms.fit(read_image(file), self.shape.height, self.shape.width)
        return Example(video=image[None], caption=caption)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint:
    """Videos mixed with packs of images, for joint training.

    One pass shows as many examples as there are videos.

    Attributes:
      videos: source of clips.
      images: source of single frames of the same height and width: an `ImageFolder`, or any other
        whose shape has one frame.
      image_rate: share of the examples that are packs of images.
    """

    videos: Any  # a Source, which is checked below, in words for users
    images: Any
    image_rate: float

    def __post_init__(self) -> None:
        for name in ("videos", "images"):
            source: object = getattr(self, name)
            if not isinstance(source, Source):
                raise ValueError(f"Joint.{name} is {source!r}, which is not read in random order.")
            if not len(source):
                raise ValueError(f"Joint.{name} is empty: {source}.")
        if not 0 <= self.image_rate <= 1:
            raise ValueError(f"Joint.image_rate is {self.image_rate}; it must be in [0, 1].")
        found, wanted = self.images.shape, self.videos.shape
        if found.thwc != (1, *wanted.thwc[1:]):
            raise ValueError(
                f"Joint.images gives {found}; beside videos of {wanted} it must give single "
                f"frames, 1x{wanted.height}x{wanted.width}."
            )

    @property
    def shape(self) -> VideoShape:
        """That of the videos."""
        return self.videos.shape

    @property
    def captions_per_clip(self) -> int:
        """One a frame, unless there are no packs."""
        return self.shape.frames if self.image_rate else 1

    def __len__(self) -> int:
        return len(self.videos)

    def captions(self) -> Iterator[str]:
        """Those of the videos, then those of the images."""
        for source in (self.videos, self.images):
            yield from captions_of(source)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Video `index`, or in its place a pack of images."""
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

    def _image(self, index: int, rng: np.random.Generator) -> Example:
        """Image `index`, or another where it cannot be read: a pack is not lost for one file."""
        for _ in range(_DRAWS):
            try:
                return self.images.load(index, rng)
            except BadExample as error:
                bad = error
                _warn_replaced(bad.path, bad.reason)
                index = int(rng.integers(len(self.images)))
        raise BadExample(bad.path, f"{bad.reason}; {_DRAWS - 1} others are no better")


def read_image(path: File) -> UInt8[np.ndarray, "h w 3"]:
    """A picture upright, as RGB over white; of an animation, the first frame.

    Raises:
      BadExample: no such file, not a picture, or damaged.
    """
    with told_as_bad(path), Image.open(readable(path)) as image:
        upright: Any = ImageOps.exif_transpose(image)
        return pillow_to_rgb(upright)


@functools.cache
def _warn_replaced(path: str, reason: str) -> None:
    """Says once per file and process that it is not used."""
    log.warning("image %s is replaced by another: %s", path, reason)
