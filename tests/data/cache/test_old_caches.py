"""Caches that an earlier vidgen wrote, before one module knew their folders, are read as they were.

old_caches.tar.xz was written by the code of commit 9bc2570: captions as bfloat16 in two parts, and
tokens of three examples, each cut twice, in two parts; number 4 is bad.
"""

import tarfile

import ml_dtypes
import numpy as np
import pytest
from places import FILES

from vidgen.data.cache.text_cache import EncodedText, TextShards
from vidgen.data.cache.token_cache import TokenCache, TokenShards
from vidgen.data.source import BadExample
from vidgen.types import TextEmbedding, VideoShape

CAPTIONS = [f"a cat runs {'very ' * i}fast" for i in range(5)] + ["é ß"]


class NoEncoder:
    name, length, dim = "toy-1", 6, 3

    def __call__(self, prompts):
        assert not prompts
        return TextEmbedding(tokens=np.zeros((0, 6, 3), np.float32), mask=np.zeros((0, 6), bool))


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(FILES / "old_caches.tar.xz") as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            path = tmp_path / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    return tmp_path / "old_caches"


def test_captions(folder):
    found = EncodedText(path=str(folder / "text"), encoder=NoEncoder())(CAPTIONS)
    for caption, tokens, mask in zip(CAPTIONS, found.tokens, found.mask, strict=True):
        count = min(6, len(caption.split()))
        states = np.random.default_rng(list(caption.encode())).normal(size=(6, 3))
        states = states.astype(np.float32).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(mask, np.arange(6) < count)
        np.testing.assert_array_equal(tokens[:count], states[:count].astype(np.float32))
    shards = TextShards(folder / "text")
    before = [(folder / "text" / f"part_0000{part}.json").read_bytes() for part in range(2)]
    assert [shards.finish_part(part) for part in range(2)] == [4, 2]
    assert before == [(folder / "text" / f"part_0000{part}.json").read_bytes() for part in range(2)]


def test_tokens(folder):
    shape = VideoShape(frames=3, height=4, width=4, fps=8.0)
    source = TokenCache(path=str(folder / "tokens"), shape=shape, tokenizer="tok-1")
    assert len(source) == 6
    for number in (0, 1, 2, 3, 5):
        example = source.load(number, np.random.default_rng(0))
        np.testing.assert_array_equal(example.tokens, np.arange(4).reshape(2, 1, 2) + number)
        assert example.independent_frames == (number == 1)
        assert (example.captions or (example.caption,))[0] == f"clip {number}"
    with pytest.raises(BadExample, match="four.mp4: damaged"):
        source.load(4, np.random.default_rng(0))
    before = (folder / "tokens" / "part_00000.json").read_bytes()
    assert TokenShards(folder / "tokens").finish_part(0)["bad"] == 1
    assert before == (folder / "tokens" / "part_00000.json").read_bytes()
