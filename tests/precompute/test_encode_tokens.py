"""`vidgen encode` of videos; training on what it writes is in end_to_end/test_phenaki.py."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_models import FakeTokenizer

from vidgen.data.cache import token_cache
from vidgen.data.cache.cache_folders import CacheError
from vidgen.data.cache.token_cache import TokenCache
from vidgen.data.source import BadExample, Example, Source
from vidgen.precompute.encode_tokens import EncodeTokens
from vidgen.train.frozen import fingerprint
from vidgen.types import VideoShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corners(FakeTokenizer):
    """A tokenizer: the token of a patch is its first pixel, plus the one weight that it has."""

    codes: int = 300

    def grid(self, frames, height, width):
        return (1 + (frames - 1) // 2, height // 4, width // 4)

    def encode(self, params, video):
        corner = jnp.round((video[:, ::2, ::4, ::4, 0] + 1) * 127.5).astype(jnp.int32)
        return (corner + params["shift"]) % self.codes


@dataclasses.dataclass(frozen=True)
class Clips(Source):
    """Grey clips: brightness is 10 times the index, plus what is drawn; 4 is bad, 5 are images."""

    asked: list = dataclasses.field(default_factory=list)
    shape: VideoShape = VideoShape(frames=5, height=8, width=8)

    def __len__(self):
        return 7

    @property
    def captions_per_clip(self):
        return self.shape.frames

    def load(self, index, rng):
        self.asked.append(index)
        if index == 4:
            raise BadExample("four.mp4", "damaged")
        video = np.full(self.shape.thwc, 10 * index + rng.integers(10), np.uint8)
        if index == 5:
            captions = tuple(f"image {i}" for i in range(5))
            return Example(video=video, caption=captions, independent_frames=True)
        return Example(video=video, caption=f"clip {index}")


def weights(shift=3):
    return {"tokenizer": {"shift": np.int32(shift)}}


def encode(folder, **settings):
    given = {"source": Clips(), "tokenizer": Corners(), "weights": weights, "batch_size": 2}
    return EncodeTokens(**given | {"output": str(folder), "shard_size": 3} | settings)


def test_encodes_every_example_as_often_as_it_is_cut(tmp_path):
    encode(tmp_path, draws=2, seed=9)()
    found = TokenCache(path=str(tmp_path), shape=Clips().shape, tokenizer=fingerprint(weights))
    assert len(found) == 14
    rng = np.random.default_rng(0)
    for number in range(14):
        index = number % 7
        if index == 4:
            with pytest.raises(BadExample, match="four.mp4: damaged"):
                found.load(number, rng)
            continue
        one = found.load(number, rng)
        drawn = np.random.default_rng((9, number)).integers(10)
        np.testing.assert_array_equal(one.tokens, np.full((3, 2, 2), 10 * index + drawn + 3))
        assert one.caption == ("image 0" if index == 5 else f"clip {index}")
        assert one.independent_frames == (index == 5)


def test_goes_on_after_the_last_whole_shard(tmp_path, monkeypatch):
    real, shards = token_cache.TokenShards.add, []

    def full_disk(*arguments):
        if len(shards) == 1:
            raise OSError("no space left on device")
        shards.append(arguments)
        real(*arguments)

    monkeypatch.setattr(token_cache.TokenShards, "add", full_disk)
    with pytest.raises(OSError, match="no space"):
        encode(tmp_path)()
    monkeypatch.undo()
    with pytest.raises(CacheError, match=r"not finished: .*part_\d+\.json"):
        TokenCache(path=str(tmp_path), shape=Clips().shape)
    source = Clips()
    encode(tmp_path, source=source)()
    assert source.asked == [3, 4, 5, 6]
    encode(tmp_path / "whole")()
    parts = [
        json.loads((f / "part_00000.json").read_text()) for f in (tmp_path, tmp_path / "whole")
    ]
    assert parts[0] == parts[1] == {**parts[0], "examples": 7, "bad": 1}
    source = Clips()
    encode(tmp_path, source=source)()  # nothing is left to do
    assert source.asked == []


def test_another_tokenizer_or_other_settings_are_refused(tmp_path):
    encode(tmp_path)()
    one, other = fingerprint(weights), fingerprint(lambda: weights(4))
    assert one != other == fingerprint(lambda: jax.tree.map(jnp.asarray, weights(4)))
    with pytest.raises(CacheError, match=f"tokenizer '{one}', .*'{other}';"):
        encode(tmp_path, weights=lambda: weights(4))()
    with pytest.raises(CacheError, match="seed 0, .* 1;"):
        encode(tmp_path, seed=1)()
    with pytest.raises(ValueError, match=r"EncodeTokens\.draws is 0; .*>= 1"):
        encode(tmp_path, draws=0)
    with pytest.raises(ValueError, match="TOKEN_CACHE is empty"):
        encode("")
