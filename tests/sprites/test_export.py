"""A folder of sprite videos, read back as a user's own."""

import numpy as np
import pytest

from vidgen.data.sources.folder import FolderSource
from vidgen.sprites import export
from vidgen.sprites.sprites import Sprites
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=4, height=32, width=32, fps=8.0)
SPRITES = Sprites(
    shape=SHAPE,
    subjects=("fox",),
    motions=("moving up", "growing"),
    backgrounds=("blue", "white"),
    templates=1,
    split="all",
)


def test_the_folder_is_one_that_training_reads(tmp_path):
    folder = export.write_folder(tmp_path / "a", SPRITES, count=6)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"clip_{i:03}.{s}" for i in range(6) for s in ("mp4", "txt")]
    source = FolderSource(path=str(folder), shape=SHAPE)
    rng = np.random.default_rng(0)
    examples = [source.load(i, rng) for i in range(len(source))]
    captions = [example.caption for example in examples]
    assert len(set(captions[:4])) == 4  # every scene once, before any comes again
    assert all(SPRITES.parse_caption(caption) for caption in captions)
    for example in examples:
        color = {"blue": (35, 70, 190), "white": (245, 245, 245)}
        background = color[example.caption.split()[-2]]
        np.testing.assert_allclose(example.video[0, 0, 0], background, atol=12)


def test_a_seed_gives_the_same_files(tmp_path):
    first, same, other = (
        export.write_folder(tmp_path / name, SPRITES, count=3, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    texts = [[p.read_bytes() for p in sorted(f.iterdir())] for f in (first, same, other)]
    assert texts[0] == texts[1] != texts[2]


def test_no_clip_is_told(tmp_path):
    with pytest.raises(ValueError, match="count is 0"):
        export.write_folder(tmp_path, SPRITES, count=0)
