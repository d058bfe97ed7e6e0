"""Tokens on disk: every example in its place, and never those of another tokenizer."""

import dataclasses
import json

import numpy as np
import pytest

from vidgen.data.cache import token_cache
from vidgen.data.cache.cache_folders import CacheError
from vidgen.data.cache.token_cache import TokenCache, TokenCacheManifest
from vidgen.data.pipeline import Pipeline, in_order
from vidgen.data.source import BadExample, Example, Source, TokenExample
from vidgen.types import VideoShape

SHAPE = VideoShape(frames=5, height=8, width=8, fps=8.0)
RNG = np.random.default_rng(0)


def manifest(**settings):
    given = {"tokenizer": "abc", "codes": 300, "grid": (3, 2, 2), "examples": 10, "draws": 2}
    given |= {"clip": token_cache.clip_of(SHAPE), "seed": 0, "parts": 1, "shard_size": 4}
    return TokenCacheManifest(**given | settings)


def example(number):
    """Number 7 of every ten is bad; the tokens tell the number; captions are any text."""
    if number % 10 == 7:
        return BadExample("seven.mp4", "too short")
    tokens = (np.arange(12).reshape(3, 2, 2) + 20 * number) % 300
    caption = f"number {number} \ud800 🎬"
    return TokenExample(
        tokens=tokens.astype(np.int32), caption=caption, independent_frames=number % 2 == 1
    )


def write(folder, finish=True, **settings):
    found = manifest(**settings)
    found.agree(folder)
    for part in range(found.parts):
        own = found.of_part(part)
        for number in range(found.shards(part)):
            some = own[number * found.shard_size :][: found.shard_size]
            token_cache.TokenShards(folder).add(
                part, number, [example(n) for n in some], found.dtype
            )
        if finish:
            token_cache.TokenShards(folder).finish_part(part)
    return folder


def cache(folder, **settings):
    return TokenCache(**{"path": str(folder), "shape": SHAPE} | settings)


@pytest.mark.parametrize("parts", [1, 3])
def test_every_example_is_in_its_place(tmp_path, parts):
    found = cache(write(tmp_path, parts=parts))
    assert isinstance(found, Source)
    assert len(found) == 20 and found.grid == (3, 2, 2)
    for number in (*range(20), 3):
        wanted = example(number)
        if isinstance(wanted, BadExample):
            with pytest.raises(BadExample, match="seven.mp4: too short"):
                found.load(number, RNG)
            continue
        loaded = found.load(number, RNG)
        np.testing.assert_array_equal(loaded.tokens, wanted.tokens)
        assert loaded.tokens.dtype == np.int32
        assert loaded.caption == wanted.caption
        assert loaded.independent_frames == wanted.independent_frames
    captions = [example(n).caption for n in range(20) if n % 10 != 7]
    assert list(found.captions()) == captions


def test_one_of_several_captions_is_drawn(tmp_path):
    found = manifest(examples=1, draws=1)
    found.agree(tmp_path)
    tokens, captions = np.zeros((3, 2, 2), np.int32), ("first", "second", "third")
    several = TokenExample(tokens=tokens, caption="second", captions=captions)
    token_cache.TokenShards(tmp_path).add(0, 0, [several], found.dtype)
    token_cache.TokenShards(tmp_path).finish_part(0)
    source = cache(tmp_path)
    assert list(source.captions()) == list(captions)
    drawn = [source.load(0, np.random.default_rng(n)).caption for n in range(30)]
    assert set(drawn) == set(captions)
    assert source.load(0, np.random.default_rng(0)).captions == captions


def test_large_codebooks_take_more_room(tmp_path):
    assert manifest(codes=65536).dtype == np.uint16 and manifest(codes=65537).dtype == np.uint32
    big = TokenExample(tokens=np.full((3, 2, 2), 262143, np.int32), caption="")
    found = manifest(codes=262144, examples=1, draws=1)
    found.agree(tmp_path)
    token_cache.TokenShards(tmp_path).add(0, 0, [big], found.dtype)
    token_cache.TokenShards(tmp_path).finish_part(0)
    np.testing.assert_array_equal(cache(tmp_path).load(0, RNG).tokens, big.tokens)


def test_batches_through_the_pipeline(tmp_path):
    source = cache(write(tmp_path, parts=2))
    pipeline = Pipeline(source=source, batch_size=6, shuffle=False, repeat=False)
    iterator = pipeline.iterator()
    batches = list(iterator)
    iterator.close()
    good = [n for n in range(20) if n % 10 != 7]
    assert len(batches) == 3 and "video" not in batches[0]
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    np.testing.assert_array_equal(tokens, [example(n).tokens for n in good])
    assert tokens.dtype == np.int32
    assert sum(iterator.skipped.values()) == 2


def test_what_a_part_says_of_itself(tmp_path):
    write(tmp_path / "a", parts=2)
    first = json.loads((tmp_path / "a" / "part_00000.json").read_text())
    second = json.loads((tmp_path / "a" / "part_00001.json").read_text())
    assert (first["examples"], first["bad"], second["examples"], second["bad"]) == (10, 0, 10, 2)
    write(tmp_path / "b", parts=2, shard_size=3)
    again = json.loads((tmp_path / "b" / "part_00001.json").read_text())
    assert again == second and first["fingerprint"] != second["fingerprint"]


def test_no_cache_half_a_cache_another_cache(tmp_path):
    with pytest.raises(CacheError, match=r"tokens: .*manifest\.json"):
        cache(tmp_path)
    write(tmp_path, finish=False)
    with pytest.raises(CacheError, match=r"part_00000\.json is missing"):
        cache(tmp_path)
    token_cache.TokenShards(tmp_path).finish_part(0)
    assert len(cache(tmp_path, tokenizer="abc")) == 20
    with pytest.raises(CacheError, match=r"tokenizer abc; .* xyz\."):
        cache(tmp_path, tokenizer="xyz")
    longer = dataclasses.replace(SHAPE, frames=7)
    with pytest.raises(CacheError, match=r"\(5, 8, 8, 3, 8\.0\); .*\(7, "):
        cache(tmp_path, shape=longer)
    (tmp_path / "tokens-00000-000003.array_record").unlink()
    with pytest.raises(CacheError, match="tokens-00000-000003.array_record is missing"):
        cache(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokenizer": "other"}, "tokenizer 'abc', .*'other'"),
        ({"grid": (3, 4, 4)}, r"grid \(3, 2, 2\), .*\(3, 4, 4\)"),
        ({"examples": 11}, "examples 10, .*11;"),
        ({"draws": 1}, "draws 2, .*1;"),
        ({"parts": 4}, "parts 1, .*4;"),
    ],
)
def test_a_folder_is_gone_on_with_as_it_was_begun(tmp_path, change, message):
    manifest().agree(tmp_path)
    manifest().agree(tmp_path)
    with pytest.raises(CacheError, match=message):
        manifest(**change).agree(tmp_path)


def test_a_folder_of_captions_is_no_folder_of_tokens(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 1, "encoder": "t5"}))
    with pytest.raises(CacheError, match="something else .*tokens"):
        TokenCacheManifest.read(tmp_path)


@dataclasses.dataclass(frozen=True)
class Drawn(Source):
    """A source whose example i tells i and what it drew."""

    shape: VideoShape = VideoShape(frames=1, height=1, width=1)

    def __len__(self):
        return 5

    def load(self, index, rng):
        if index == 3:
            raise BadExample("three.mp4", "broken")
        video = np.full(self.shape.thwc, index, np.uint8)
        return Example(video=video, caption=str(rng.integers(1 << 40)))


def test_in_order():
    found = list(in_order(Drawn(), range(1, 20, 2), seed=4))
    assert len(found) == 10
    for number, one in zip(range(1, 20, 2), found, strict=True):
        if number % 5 == 3:
            assert isinstance(one, BadExample) and str(one) == "three.mp4: broken"
        else:
            drawn = np.random.default_rng((4, number)).integers(1 << 40)
            assert one.video[0, 0, 0, 0] == number % 5 and one.caption == str(drawn)


def test_in_order_by_a_worker_process(tmp_path):
    found = list(in_order(cache(write(tmp_path)), range(20), seed=0, workers=1))
    for number, one in enumerate(found):
        wanted = example(number)
        if isinstance(wanted, BadExample):
            assert str(one) == str(wanted)
        else:
            np.testing.assert_array_equal(one.tokens, wanted.tokens)
    assert len(found) == 20
