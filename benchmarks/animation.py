"""Clips side by side as one small animated picture for a page: WebP, compressed with loss.

vidgen generate "a tiger moving right on a green background" -o tiger.npy
python benchmarks/animation.py tiger.npy --fps=24 -o tiger.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vidgen.data.video.encode import animation
from vidgen.data.video.transforms import to_uint8


def main() -> None:
    """Read the flags, encode, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="+", help=".npy files that vidgen generate wrote")
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("-o", "--output", type=Path, default=Path("clips.webp"))
    flags = parser.parse_args()
    clips = np.stack([to_uint8(np.load(path)) for path in flags.clips])
    flags.output.write_bytes(animation(clips, flags.fps, method=6))
    print(flags.output)


if __name__ == "__main__":
    main()
