"""A clip out of the frames of a video that was stored picture by picture, and texts out of bytes.

TFDS and seqio hand over a video as a sequence of frames, encoded or not, without time stamps. Only
the frames of the clip are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vidgen.data.source import BadExample
from vidgen.data.sources.caption_text import clean
from vidgen.data.sources.files import Packed
from vidgen.data.sources.images import read_image
from vidgen.data.video import transforms
from vidgen.data.video.files import chosen_frames
from vidgen.types import VideoShape


def clip_of_frames(
    name: str,
    frames: Sequence[bytes | np.ndarray] | np.ndarray,
    *,
    fps: float | int,
    shape: VideoShape,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "t h w c"]:
    """Cut a clip from a random place; its frames are cropped around their center and resized.

    Args:
      name: the name of the video, for messages.
      frames: all of them: encoded pictures as bytes, or uint8 arrays "h w c" of 1, 3 or 4 channels.
      fps: frames of the video per second.
      shape: the shape of the clip; it repeats or leaves out frames where its rate differs.
      rng: chooses where the clip begins.

    Returns:
      The clip, in `shape`.

    Raises:
      BadExample: too short for the clip, or a frame cannot be read.
    """
    if not len(frames):
        raise BadExample(name, "it has no frames")
    if not fps > 0:
        raise BadExample(name, f"its frame rate is {fps}")
    chosen = chosen_frames(name, np.arange(len(frames)) / fps, 1 / fps, shape, rng).tolist()
    small = {i: frame_of(f"{name} frame {i}", frames[i], shape) for i in sorted(set(chosen))}
    return np.stack([small[i] for i in chosen])


def frame_of(name: str, frame: bytes | np.ndarray, shape: VideoShape) -> UInt8[np.ndarray, "h w c"]:
    """Decode one frame, or take its pixels, and fit it.

    Args:
      name: the name of the frame, for messages.
      frame: an encoded picture as bytes, or uint8 pixels "h w c" of 1, 3 or 4 channels.
      shape: height and width of the result.

    Returns:
      RGB, cropped around the center and resized.

    Raises:
      BadExample: it cannot be read.
    """
    return transforms.fit(_rgb(name, frame), shape.height, shape.width)


def text_of(name: str, data: bytes) -> str:
    """Decode a stored text into one line.

    Args:
      name: the name of the example, for the message.
      data: UTF-8.

    Returns:
      The text, cleaned (`caption_text.clean`); a blank one becomes "".

    Raises:
      BadExample: it is not UTF-8.
    """
    try:
        return clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadExample(name, "its caption is not UTF-8") from error


def _rgb(name: str, frame: bytes | np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(frame, bytes):
        return read_image(Packed(name, frame))
    pixels = np.asarray(frame)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise BadExample(name, f"{pixels.dtype} pixels of shape {pixels.shape} are no picture")
    if pixels.shape[2] == 4:
        return transforms.composite(pixels)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
