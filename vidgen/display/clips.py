"""Clips that play inside a notebook, with nothing to load from elsewhere.

Small ones are animated pictures (WebP), larger ones WebM, both compressed with some loss: a clip of
32 frames of 32 x 32 takes 14 kB. `vidgen.data.video.encode` writes files, also without any loss.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidgen.data.video.encode import animation, write_video
from vidgen.data.video.stream import RATES, check_rate
from vidgen.data.video.transforms import to_uint8
from vidgen.display import shown

_SMALL = 64  # pixels of a side; up to it they are doubled, since WebP halves the colors


def video(
    clips: np.ndarray, fps: float | int, *, captions: Sequence[str] = (), height: int = 128
) -> shown.Html:
    """Show clips that play side by side, over and over.

    Args:
      clips: "t h w c" or "b t h w c", in [-1, 1], c = 3 or 1.
      fps: frames per second.
      captions: one per clip, shown below it; or none.
      height: height of a clip on the screen, in pixels.

    Returns:
      A piece of a page that holds the clips, for the value of a notebook's cell.

    Raises:
      ValueError: it is no video, `fps` is not positive, or there is not one caption per clip.
    """
    videos = shown.checked(clips)
    check_rate("a clip.webm", fps)
    if captions and len(captions) != len(videos):
        raise ValueError(f"{len(captions)} captions for {len(videos)} clips; give one each.")
    below = [html.escape(caption) for caption in captions] or [""] * len(videos)
    width = max(110, height * videos.shape[3] // videos.shape[2])
    figures = (
        f'<figure style="margin:4px;width:{width}px">{_playing(clip, fps, height)}'
        f'<figcaption style="font-size:80%">{caption}</figcaption></figure>'
        for clip, caption in zip(videos, below, strict=True)
    )
    return shown.Html(f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>')


def _playing(clip: np.ndarray, fps: float | int, height: int) -> str:
    """Return the tag of a clip: an animated picture if it is small, a video otherwise."""
    style = f'style="height:{height}px;image-rendering:pixelated"'
    if max(clip.shape[1:3]) > _SMALL or fps > RATES[".webp"]:
        source = f"data:video/webm;base64,{_base64(_webm(clip, fps))}"
        return f'<video src="{source}" autoplay loop muted playsinline controls {style}></video>'
    pixels = np.broadcast_to(to_uint8(clip), (*clip.shape[:3], 3))
    doubled = pixels.repeat(2, axis=1).repeat(2, axis=2)
    data = animation(doubled[None], fps, method=6)
    return f'<img src="data:image/webp;base64,{_base64(data)}" alt="a clip" {style}>'


def _webm(clip: np.ndarray, fps: float | int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.webm")
        write_video(path, clip, fps, min_side=0)
        return path.read_bytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
