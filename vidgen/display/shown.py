"""What a notebook draws as the value of a cell: a piece of a page, or a still.

IPython asks objects for `_repr_html_` and `_repr_png_`; neither needs IPython itself.
"""

from __future__ import annotations

import dataclasses
import io
import os

import numpy as np
from jaxtyping import Float
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Html:
    """A piece of a page, as the value of a notebook's cell.

    Attributes:
      text: HTML that asks for nothing from elsewhere.
    """

    text: str = dataclasses.field(repr=False)

    def _repr_html_(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Picture:
    """A still picture, as the value of a notebook's cell.

    Attributes:
      image: in RGB.
    """

    image: Image.Image = dataclasses.field(repr=False)

    def save(self, path: str | os.PathLike) -> None:
        """Write the picture to a file.

        Args:
          path: its suffix names the format, as Pillow knows them (.png, .jpg, ...).

        Raises:
          ValueError: there is no such format.
          OSError: the file cannot be written.
        """
        self.image.save(path)

    def _repr_png_(self) -> bytes:
        # 5 bits a channel: half the size, and no value is off by more than 4 of 255.
        fine = np.rint(np.asarray(self.image.convert("RGB")) * (31 / 255)) * (255 / 31)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(fine).astype(np.uint8)).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def checked(clips: np.ndarray) -> Float[np.ndarray, "b t h w c"]:
    """Bring one clip or several to float32 "b t h w c".

    Args:
      clips: "t h w c" or "b t h w c", c = 3 or 1.

    Returns:
      The clips; one is a batch of one.

    Raises:
      ValueError: it is no video.
    """
    videos = np.asarray(clips, np.float32)
    if videos.ndim == 4:
        videos = videos[None]
    if videos.ndim != 5 or videos.shape[-1] not in (1, 3) or not videos.size:
        raise ValueError(
            f"a video to show has shape {np.shape(clips)}; expected t h w c or b t h w c, c = 3 "
            f"or 1."
        )
    return videos
