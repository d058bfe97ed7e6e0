"""The shipped sprites: 699 animated 3-D emoji of 16 RGBA frames of 64 x 64 pixels (Microsoft, MIT).

Alpha in the files is straight, so colors are premultiplied before any resampling; a straight
resize would mix in the invisible color of transparent pixels and draw a dark halo. With
premultiplied color p, coverage a and background g, the composite is

    out = p + (1 - a) g

Position and size are continuous: Pillow resamples the exact source window that each output pixel
patch covers, so motion is smooth at any resolution.
"""

from __future__ import annotations

import functools
import io
import json
import pathlib
import zipfile

import numpy as np
from jaxtyping import UInt8
from PIL import Image

ARCHIVE = pathlib.Path(__file__).parent / "fluent_emoji" / "fluent_anim64_base.zip"
NATIVE_SIZE = 64
_MARGIN = 16  # transparent pixels around a sprite, so that windows may reach past its edge


@functools.lru_cache(maxsize=1)
def catalog() -> dict[str, dict]:
    """Return {name: entry} of every sprite of the package, in a fixed order.

    An entry has an id, tags and a group.

    Raises:
      FileNotFoundError: the archive is missing.
    """
    if not ARCHIVE.is_file():
        raise FileNotFoundError(f"{ARCHIVE} is missing: the sprite data belongs to the package.")
    with zipfile.ZipFile(ARCHIVE) as archive:
        entries = json.loads(archive.read("captions.json"))
    return {entry["caption"]: entry for entry in entries if entry["in_microsoft_mit_repo"]}


@functools.lru_cache(maxsize=256)
def frames(name: str) -> tuple[Image.Image, ...]:
    """Load the frames of a sprite's own animation, and keep the last 256 sprites.

    Args:
      name: key of `catalog`.

    Returns:
      Premultiplied ("RGBa") pictures with a transparent margin around.

    Raises:
      FileNotFoundError: the archive is missing.
      KeyError: there is no such sprite.
    """
    with zipfile.ZipFile(ARCHIVE) as archive:
        data = archive.read(f"clips/{catalog()[name]['id']}.webp")
    padded = []
    with Image.open(io.BytesIO(data)) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            side = NATIVE_SIZE + 2 * _MARGIN
            canvas = Image.new("RGBa", (side, side))
            canvas.paste(image.convert("RGBA").convert("RGBa"), (_MARGIN, _MARGIN))
            padded.append(canvas)
    return tuple(padded)


def paste(
    canvas: UInt8[np.ndarray, "h w 3"],
    name: str,
    frame: int,
    center: tuple[float, float],
    size: float,
) -> None:
    """Draw one sprite frame over `canvas`, in place.

    Args:
      canvas: the picture.
      name: a name from the catalog.
      frame: animation frame; wraps around.
      center: (y, x) of the sprite's middle in pixels; pixel i covers [i, i + 1).
      size: side of the sprite's 64 x 64 square, in canvas pixels; may stick out of the canvas.
    """
    h, w = canvas.shape[:2]
    top, left = center[0] - size / 2, center[1] - size / 2
    y0, y1 = max(0, int(np.floor(top))), min(h, int(np.ceil(top + size)))
    x0, x1 = max(0, int(np.floor(left))), min(w, int(np.ceil(left + size)))
    if y0 >= y1 or x0 >= x1:
        return
    scale = NATIVE_SIZE / size  # source pixels per canvas pixel
    bounds = NATIVE_SIZE + 2.0 * _MARGIN
    window = tuple(
        min(max((edge - origin) * scale + _MARGIN, 0.0), bounds)
        for edge, origin in ((x0, left), (y0, top), (x1, left), (y1, top))
    )
    sheet = frames(name)
    resample = Image.Resampling.HAMMING if scale > 1 else Image.Resampling.BILINEAR
    patch = sheet[frame % len(sheet)].resize((x1 - x0, y1 - y0), resample, box=window)  # pyright: ignore[reportArgumentType]
    # RGBa has no direct route to numpy; its bytes are already what we need
    pixels = np.frombuffer(patch.tobytes(), np.uint8).reshape(y1 - y0, x1 - x0, 4).astype(np.uint16)
    region = canvas[y0:y1, x0:x1]
    blended = pixels[..., :3] + (region * (255 - pixels[..., 3:]) + 127) // 255
    region[...] = np.minimum(blended, 255)
