"""Which way up a stored picture is shown: the matrix of a video, the EXIF value of a picture.

    x' = a x + c y + e        [a b u]
    y' = b x + d y + f        [c d v]      the display matrix, as in ISO/IEC 14496-12, tkhd
                              [e f w]

A point (x, y) of the stored picture, y downwards, is shown at (x', y'). There are eight ways to lay
a rectangle on its sides; a matrix that turns by other angles counts as the nearest of them.
"""

from __future__ import annotations

from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps


class Orientation(NamedTuple):
    """One of the eight orientations: exchange the axes, then mirror.

    Attributes:
      swap: rows become columns.
      mirror_x: left and right are exchanged, after that.
      mirror_y: top and bottom are exchanged, after that.
    """

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Turn and mirror a stored picture as it is shown.

        Args:
          pixels: as they are stored.

        Returns:
          A view of them, of the height and width that `size` says.
        """
        if self.swap:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of a picture as it is shown.

        Args:
          height: as it is stored.
          width: likewise.

        Returns:
          (height, width) as shown.
        """
        return (width, height) if self.swap else (height, width)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Read the orientation that the container or the stream states.

    Args:
      frame: a decoded frame.

    Returns:
      The nearest of the eight; upright if nothing is stated.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation()
    a, b, _, c, d = (float(value) for value in np.frombuffer(side_data, np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, mirror_x=a < 0, mirror_y=d < 0)
    return Orientation(True, mirror_x=c < 0, mirror_y=b < 0)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture, or the current frame of an animation, as its EXIF value says.

    Args:
      image: opened by Pillow.

    Returns:
      The picture as it is shown.
    """
    return ImageOps.exif_transpose(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of `upright(image)`.

    Args:
      image: opened by Pillow.

    Returns:
      (height, width).
    """
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)
