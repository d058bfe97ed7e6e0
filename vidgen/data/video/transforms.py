"""Pixel transforms on the host: conversion, anti-aliased resizing, cropping, frame choice, alpha.

Everything here is numpy and Pillow, on uint8 frames; the two conversions at the border between
uint8 files and the float video of the models live here and nowhere else:

    float = uint8 / 127.5 - 1        uint8 = round(127.5 (float + 1)), clipped
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image


def to_float(video: UInt8[np.ndarray, "*x"]) -> Float32[np.ndarray, "*x"]:
    """Convert 0..255 to float32 in [-1, 1].

    Args:
      video: a video of any shape.

    Returns:
      video / 127.5 - 1.
    """
    return video.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video: Float[np.ndarray, "*x"]) -> UInt8[np.ndarray, "*x"]:
    """Convert [-1, 1] to 0..255.

    Args:
      video: a video of any shape; values outside are clipped, NaN becomes black.

    Returns:
      round(127.5 (video + 1)).
    """
    scaled = np.rint((np.asarray(video, np.float32) + 1) * 127.5)
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)


def resize(
    frame: UInt8[np.ndarray, "h w c"], height: int, width: int
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resize a frame, with anti-aliasing.

    A reduction by whole factors averages blocks exactly; other reductions use a Hamming window as
    wide as the reduction; enlargements are bilinear.

    Args:
      frame: a frame of any number of channels.
      height: the height of the result, in pixels.
      width: likewise.

    Returns:
      The frame at that size, its aspect changed if need be; itself where it has it already.
    """
    h, w = frame.shape[:2]
    if (h, w) == (height, width):
        return frame
    if h % height == 0 and w % width == 0:
        kernel = Image.Resampling.BOX
    else:
        kernel = Image.Resampling.HAMMING if h * w > height * width else Image.Resampling.BILINEAR
    if frame.shape[2] == 3:
        image = Image.fromarray(np.ascontiguousarray(frame))
        return np.array(image.resize((width, height), kernel))
    planes = np.moveaxis(frame, -1, 0)
    images = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    return np.stack([np.array(image.resize((width, height), kernel)) for image in images], axis=-1)


def crop_to_aspect(
    frame: UInt8[np.ndarray, "h w c"], height: float | int, width: float | int
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Crop a frame to the largest central part of an aspect ratio.

    Args:
      frame: a frame of any number of channels.
      height: together with `width` the ratio, in any unit.
      width: likewise.

    Returns:
      A view of that part.
    """
    h, w = frame.shape[:2]
    new_h, new_w = h, max(1, round(h * width / height))
    if new_w > w:
        new_h, new_w = max(1, min(h, round(w * height / width))), w
    top, left = (h - new_h) // 2, (w - new_w) // 2
    return frame[top : top + new_h, left : left + new_w]


def random_crop(
    video: UInt8[np.ndarray, "t h w c"],
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    attempts: int = 1,
) -> UInt8[np.ndarray, "t h2 w2 c"]:
    """Crop a window of (height, width) at a random place, the same in all frames.

    Args:
      video: a clip, at least as high and wide as the window.
      height: the height of the window, in pixels.
      width: the width of the window, in pixels.
      rng: source of the places.
      attempts: windows that are drawn; the one whose pixels differ most is returned (standard
        deviation over a frame, mean over frames and channels).

    Returns:
      A view of the window.
    """
    windows = []
    for _ in range(attempts):
        top, left = (
            int(rng.integers(video.shape[i] - n + 1)) for i, n in ((1, height), (2, width))
        )
        windows.append(video[:, top : top + height, left : left + width])
    if attempts == 1:
        return windows[0]
    return max(windows, key=lambda window: window.std(axis=(1, 2)).mean())


def fit(
    frame: UInt8[np.ndarray, "h w c"], height: int, width: int, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Crop a frame around its center to the wanted aspect ratio, then resize it.

    Args:
      frame: a frame of any number of channels.
      height: the height of the result, in pixels.
      width: likewise.
      pixel_aspect: width of a pixel of `frame` relative to its height.

    Returns:
      The frame at that size, undistorted.
    """
    # cropped in stored pixels, so that the picture as displayed has the wanted ratio
    return resize(crop_to_aspect(frame, height * pixel_aspect, width), height, width)


def frame_indices(
    times: Sequence[float] | Float[np.ndarray, " n"],
    start: float | int,
    fps: float | int,
    frames: int,
) -> Int[np.ndarray, " frames"]:
    """Find the frame nearest in time to each of start + k / fps.

    Args:
      times: increasing time stamps of the frames at hand, in seconds.
      start: time of the first wanted frame, in seconds.
      fps: wanted frames per second.
      frames: how many.

    Returns:
      Indices into `times`; of two frames that are equally near, the earlier one.
    """
    stamps = np.asarray(times, float)
    wanted = start + np.arange(frames) / fps
    right = np.clip(np.searchsorted(stamps, wanted), 1, max(1, len(stamps) - 1))
    if len(stamps) == 1:
        return np.zeros(frames, int)
    left = right - 1
    return np.where(wanted - stamps[left] <= stamps[right] - wanted, left, right)


def composite(frame: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Put a straight-alpha RGBA frame over white, as pages are: a c + (1 - a) 255.

    Args:
      frame: color c and alpha a.

    Returns:
      What is seen.
    """
    white = np.float32(255)
    result = np.empty((*frame.shape[:2], 3), np.uint8)
    for row, pixels in enumerate(frame):  # a large picture need not be in memory as floats
        alpha = pixels[:, 3:].astype(np.float32) / 255
        result[row] = np.rint(pixels[:, :3] * alpha + white * (1 - alpha))
    return result
