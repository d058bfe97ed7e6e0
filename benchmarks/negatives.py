"""Two folders of sprite videos in negative, with captions: a look that no model here has learned.

    python benchmarks/negatives.py -o negatives --clips=20

OUTPUT/train and OUTPUT/held_out get `clips` videos each, of 64 x 64 at 3 frames a second, as
`vidgen train --gin_file=data/folder.gin` reads them. Each shows a scene (subject, motion,
background) that the other folder does not have, the scenes in OUTPUT/held_out in combinations that
the package's models were never trained on. Every color c is 255 - c, and every caption ends in
"in negative".
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from vidgen.data.source import Example
from vidgen.sprites.export import write_folder
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=16, height=64, width=64, fps=3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Negatives(Sprites):
    """Sprite videos whose colors are inverted, and whose captions say so."""

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Load an example of the sprites and invert it."""
        example = super().load(index, rng)
        caption = f"{example.first_caption} in negative"
        return dataclasses.replace(example, video=255 - example.video, caption=caption)


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=20, help="of each folder")
    flags = parser.parse_args()
    for split in ("train", "held_out"):
        sprites = Negatives(shape=SHAPE, subjects="easy", split=split, duration=16 / 3)
        folder = write_folder(flags.output / split, sprites, count=flags.clips)
        print(f"{flags.clips} clips in {folder}")


if __name__ == "__main__":
    main()
