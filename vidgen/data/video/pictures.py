"""Pictures and animations as Pillow reads them: opened with care, and made RGB as they are seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidgen.data.source import BadExample
from vidgen.data.sources.files import File, check_size, readable
from vidgen.data.video import transforms
from vidgen.data.video.animated_pictures import SHORTEST

# Told by the content. Pillow knows more, of which some start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# [guess] Pixels of all frames, of which every one has to be decoded to know when it is shown: a
# minute of 1280 x 720 at 30 frames a second has 1.7e9. A file of some kB can promise a day of work.
_MAX_ANIMATION = 1 << 31

_DEFAULT_DELAY = 100.0  # ms, of browsers


class Span(NamedTuple):
    """When the last frame appears, and how long a frame is shown, in seconds."""

    last: float
    step: float


@contextlib.contextmanager
def opened(path: File) -> Iterator[Image.Image]:
    """Open a picture or an animation; to be used inside `as_bad_example`.

    Args:
      path: the path of the file, here or in an object store, or a packed one; its content says the
        format.

    Yields:
      The picture, not yet decoded.

    Raises:
      BadExample: its size is absurd.
    """
    with Image.open(readable(path), formats=_FORMATS) as image:
        check_size(path, image.height, image.width)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and frames * image.height * image.width > _MAX_ANIMATION:
            raise BadExample(
                path, f"{frames} frames of {image.width} x {image.height} are too many"
            )
        yield image


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a picture of any mode to RGB, over white where it is transparent.

    Args:
      image: opened by Pillow; 16 bits of grey are rounded to 8.

    Returns:
      Its pixels.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16-bit grey
        grey = np.asarray(image).astype(np.float32) / np.float32(257)
        grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        return transforms.composite(np.array(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def timeline(image: Image.Image) -> tuple[list[float], Span]:
    """List when each frame of an animation appears, as browsers play it.

    They show a frame with a delay of 10 ms or less, or with none, for a tenth of a second.

    Args:
      image: opened by Pillow; it is left at its last frame.

    Returns:
      Seconds from the first frame, and the span of the whole.
    """
    times, clock, step = [], 0.0, 0.1
    for i in range(getattr(image, "n_frames", 1) - first_frame(image)):
        seek(image, i)
        image.load()  # webp learns a frame's duration only by decoding it
        delay = float(image.info.get("duration", 0))
        step = (delay if delay > SHORTEST else _DEFAULT_DELAY) / 1000
        times.append(clock)
        clock += step
    return times, Span(times[-1], step)


def seek(image: Image.Image, number: int) -> None:
    """Go to a frame of an animation.

    Args:
      image: opened by Pillow.
      number: the number of the frame, from 0, a picture for other viewers not counted
        (`first_frame`).
    """
    image.seek(number + first_frame(image))


def first_frame(image: Image.Image) -> int:
    """Return which frame Pillow counts as the first one of the animation.

    In front of it may be, in a PNG, the picture for viewers that know no animation.

    Args:
      image: opened by Pillow.

    Returns:
      0 or 1.
    """
    animated = getattr(image, "n_frames", 1) > 1
    return int(animated and bool(image.info.get("default_image")))
