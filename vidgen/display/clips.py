"""Clips that play inside a notebook, with nothing to load from elsewhere.

They travel as they are and not enlarged, small ones without loss: a notebook with a dozen of them
stays under 400 kB. The browser draws their pixels as squares.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidgen.data.video_writer import write_video
from vidgen.display import shown

_PLAIN = 64  # pixels of a side up to which a file without loss is small


def video(
    clips: np.ndarray, fps: float | int, *, captions: Sequence[str] = (), height: int = 128
) -> shown.Html:
    """Clips that play, side by side, again and again.

    Args:
      clips: "t h w c" or "b t h w c", in [-1, 1], c = 3 or 1.
      fps: frames per second.
      captions: shown below, one a clip; none shows none.
      height: on the screen, in pixels.

    Raises:
      ValueError: it is no video, or there are captions, but not one a clip.
    """
    found = shown.checked(clips)
    if captions and len(captions) != len(found):
        raise ValueError(f"{len(captions)} captions for {len(found)} clips; give one each.")
    below = [html.escape(caption) for caption in captions] or [""] * len(found)
    width = max(110, height * found.shape[3] // found.shape[2])
    figures = (
        f'<figure style="margin:4px;width:{width}px">{_playing(clip, fps, height)}'
        f'<figcaption style="font-size:80%">{caption}</figcaption></figure>'
        for clip, caption in zip(found, below, strict=True)
    )
    return shown.Html(f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>')


def _playing(clip: np.ndarray, fps: float | int, height: int) -> str:
    """One clip as an animated picture; as a video where that would be large."""
    style = f'style="height:{height}px;image-rendering:pixelated"'
    if max(clip.shape[1:3]) <= _PLAIN:
        return f'<img src="{_data(clip, fps, ".webp", "image/webp")}" alt="a clip" {style}>'
    source = _data(clip, fps, ".mp4", "video/mp4")
    return f'<video src="{source}" autoplay loop muted playsinline controls {style}></video>'


def _data(clip: np.ndarray, fps: float | int, suffix: str, kind: str) -> str:
    """The bytes of a file as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip{suffix}")
        write_video(path, clip, fps, min_side=0)
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
