"""Makes a film of which each segment depends on the state left by the one before; may be killed.

film_to_kill.py OUTPUT SEGMENTS     prints the number of each segment that is safe
"""

import sys

import numpy as np

from vidgen.story.resumable_video import ResumableVideo
from vidgen.types import VideoShape

SIZE = (6, 8)
IDENTITY = {"story": {"scenes": [{"prompt": "a tiger"}]}, "seed": 3}


def make(index, state):
    """Frames of segment `index`: a chaotic function of the last ones, so that errors show."""
    last = np.full((2, *SIZE, 3), 0.1, np.float64) if state is None else state
    frames = [last[-1]]
    for i in range(4):
        frames.append(3.9 * frames[-1] * (1 - frames[-1]) * (1 - 1e-3 * ((index + i) % 7)))
    video = np.stack(frames[1:])
    return (2 * video - 1).astype(np.float32), video[-2:]


def tell(output, segments, told=lambda index: None):
    shape = VideoShape(frames=1, height=SIZE[0], width=SIZE[1], fps=8.0)
    with ResumableVideo(output, shape, identity=IDENTITY) as film:
        begin, state = film.resume()
        for index in range(begin, segments):
            frames, state = make(index, state)
            film.append(index, frames, state)
            told(index)
        return begin, film.finish()


if __name__ == "__main__":
    tell(sys.argv[1], int(sys.argv[2]), lambda index: print(index, flush=True))
