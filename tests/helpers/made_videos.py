"""Videos that tests make, in files as a user has them."""

import tarfile

import numpy as np

from vidgen.data.video.encode import write_video


def squares(folder, count=5, frames=16, side=16):
    """Squares on the move in `count` mp4 files of 8 frames a second, captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        video = np.full((frames, side, side, 3), number / (count - 1 or 1) - 0.5, np.float32)
        for t in range(frames):
            video[t, 4:10, t % 10 : t % 10 + 6] = 1 - number / (count - 1 or 1)
        write_video(folder / f"{number}.mp4", video, 8, min_side=0)
        (folder / f"{number}.txt").write_text(f"square {number}")
    return folder


def moving_square(frames, height, width):
    """Float in [-1, 1]: a white square that moves right over a colored slope."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    video = np.stack([y, x, 1 - y], -1)[None].repeat(frames, 0) * 1.6 - 0.8
    for k in range(frames):
        video[k, height // 4 : height // 2, k : k + width // 4] = 1.0
    return video.astype(np.float32)


def tar(path, *files):
    """A shard of these files, in the layout of WebDataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for file in files:
            shard.add(file, file.name)
