"""A folder of sprite videos with captions beside them, laid out like a user's own videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vidgen.data.video.encode import write_video
from vidgen.data.video.transforms import to_float
from vidgen.sprites.sprites import Sprites


def write_folder(folder: str | os.PathLike, sprites: Sprites, *, count: int, seed: int = 0) -> Path:
    """Write clip_000.mp4, clip_000.txt, clip_001.mp4, ...; data/folder.gin reads them.

    Args:
      folder: created if it is missing; files of these names are replaced.
      sprites: what to film; its `shape` is that of the files. Clips come in a random order in
        which no scene comes twice before all have come once.
      count: number of clips.
      seed: seed of the order, and of what is random inside a clip.

    Returns:
      The folder.

    Raises:
      ValueError: `count` is less than 1.
      OSError: a file cannot be written.
    """
    if count < 1:
        raise ValueError(f"count is {count}; write one clip or more.")
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    scenes = len(sprites.triples(sprites.split))
    passes = [rng.permutation(scenes) for _ in range(-(-count // scenes))]
    for number, index in enumerate(np.concatenate(passes)[:count]):
        example = sprites.load(int(index), rng)
        name = f"clip_{number:03}"
        write_video(path / f"{name}.mp4", to_float(example.video), sprites.shape.fps, min_side=0)
        (path / f"{name}.txt").write_text(f"{example.caption}\n", encoding="utf-8")
    return path
