"""Encoded captions on disk: nothing twice, nothing lost, and never those of another encoder.

Tests of vidgen/data/cache/cache_folders.py too.
"""

import dataclasses
import json

import numpy as np
import pytest

from vidgen.data.cache import text_cache
from vidgen.data.cache.cache_folders import CacheError
from vidgen.data.cache.text_cache import EncodedText, TextCacheManifest
from vidgen.data.sources.array_records import read_record
from vidgen.text.byte_encoder import ByteEncoder
from vidgen.text.encoder import CachedEncoder
from vidgen.types import TextEncoder

ENCODER = ByteEncoder(dim=8, length=12)
CAPTIONS = [f"caption {i}" for i in range(40)] + ["", "naïve 🎬", "x" * 30]


def manifest(parts=1, **settings):
    given = {"encoder": ENCODER.name, "length": 12, "dim": 8, "dtype": "float32"}
    return TextCacheManifest(**given | {"parts": parts, "shard_size": 7} | settings)


def write(folder, captions=CAPTIONS, parts=1, finish=True, **settings):
    found = manifest(parts, **settings)
    found.agree(folder)
    for part in range(parts):
        done = set(text_cache.TextShards(folder).keys_of(part))
        own = list(text_cache.own_captions(captions, part, parts, done))
        for start in range(0, len(own), 7):
            some = own[start : start + 7]
            number = text_cache.TextShards(folder).count(part)
            text = ENCODER(some)
            text_cache.TextShards(folder).add(part, number, some, text, dtype=found.dtype)
        if finish:
            text_cache.TextShards(folder).finish_part(part)
    return folder


class Refuses(ByteEncoder):
    """An encoder that is not to be asked."""

    def __call__(self, prompts):
        raise AssertionError(f"asked for {prompts}")


SILENT = Refuses(dim=8, length=12)


@pytest.mark.parametrize("parts", [1, 3])
def test_gives_what_the_encoder_gives(tmp_path, parts):
    found = EncodedText(path=str(write(tmp_path, parts=parts)), encoder=SILENT)
    assert isinstance(found, TextEncoder)
    assert (found.name, found.dim, found.length) == (ENCODER.name, 8, 12)
    order = [CAPTIONS[i] for i in np.random.default_rng(0).permutation(len(CAPTIONS))] * 2
    wanted, text = ENCODER(order), found(order)
    np.testing.assert_array_equal(text.tokens, wanted.tokens)
    np.testing.assert_array_equal(text.mask, wanted.mask)


def test_half_the_room(tmp_path):
    full = write(tmp_path / "full")
    half = write(tmp_path / "half", dtype="bfloat16")
    text = EncodedText(path=str(half), encoder=SILENT)(CAPTIONS)
    np.testing.assert_allclose(text.tokens, ENCODER(CAPTIONS).tokens, rtol=2**-8)
    files = [folder / "text-00000-000000.array_record" for folder in (full, half)]
    sizes = [len(read_record(file, 0)) for file in files]  # "caption 0": 9 tokens of 8
    assert sizes == [2 + 2 * 9 + 4 * 72, 2 + 2 * 9 + 2 * 72]


def test_other_prompts_are_encoded(tmp_path):
    path = str(write(tmp_path, CAPTIONS[:5]))
    found = EncodedText(path=path, encoder=CachedEncoder(encoder=ENCODER))
    mixed = ["a new one", CAPTIONS[2], "another"]
    np.testing.assert_array_equal(found(mixed).tokens, ENCODER(mixed).tokens)
    with pytest.raises(ValueError, match="no prompts"):
        found([])


def test_parts_share_the_captions_without_overlap():
    twice = CAPTIONS * 2
    parts = [list(text_cache.own_captions(twice, part, 4)) for part in range(4)]
    assert sorted(sum(parts, [])) == sorted(CAPTIONS)
    assert all(parts)


def test_a_shard_that_was_being_written_is_written_again(tmp_path):
    write(tmp_path, CAPTIONS[:14], finish=False)
    (tmp_path / "text-00000-000002.partial").write_bytes(b"cut")
    (tmp_path / "text-00000-000002.array_record").write_bytes(b"records whose keys are not there")
    assert text_cache.TextShards(tmp_path).count(0) == 2
    write(tmp_path)
    keys = list(text_cache.TextShards(tmp_path).keys_of(0))
    assert len(keys) == len(set(keys)) == len(CAPTIONS)
    text = EncodedText(path=str(tmp_path), encoder=SILENT)(CAPTIONS)
    np.testing.assert_array_equal(text.tokens, ENCODER(CAPTIONS).tokens)


def test_new_captions_are_added(tmp_path):
    write(tmp_path, CAPTIONS[:10])
    first = json.loads((tmp_path / "part_00000.json").read_text())
    write(tmp_path, CAPTIONS)
    second = json.loads((tmp_path / "part_00000.json").read_text())
    assert (first["captions"], second["captions"]) == (10, len(CAPTIONS))
    other = write(tmp_path.parent / "backwards", CAPTIONS[::-1])
    assert json.loads((other / "part_00000.json").read_text()) == second  # of any order
    EncodedText(path=str(tmp_path), encoder=SILENT)(CAPTIONS)


@dataclasses.dataclass(frozen=True)
class Named:
    """An encoder that has nothing but a name and a size."""

    name: str
    dim: int = 8
    length: int = 12

    def __call__(self, prompts):
        raise AssertionError


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (Named("bytes-8-12-1"), " bytes-8-12-0 .* bytes-8-12-1 "),
        (Named("bytes-8-12-0", dim=9), "'dim': 8.*'dim': 9"),
        (Named("bytes-8-12-0", length=13), "'length': 12.*'length': 13"),
        (Named("t5-v1_1-xxl-without-weights"), " bytes-8-12-0 .* t5-v1_1-xxl-without-weights "),
    ],
)
def test_another_encoder_is_refused(tmp_path, encoder, words):
    path = str(write(tmp_path, CAPTIONS[:3]))
    with pytest.raises(CacheError, match=words):
        EncodedText(path=path, encoder=encoder)


def test_an_encoder_without_its_weights_can_stand_in(tmp_path):
    path = write(tmp_path, CAPTIONS[:3], encoder="t5-v1_1-xl-float32-0123456789abcdef")
    found = EncodedText(path=str(path), encoder=Named("t5-v1_1-xl-float32-without-weights"))
    assert found.name == "t5-v1_1-xl-float32-0123456789abcdef"
    np.testing.assert_array_equal(found(CAPTIONS[:3]).tokens, ENCODER(CAPTIONS[:3]).tokens)


def test_what_is_not_finished_or_no_cache(tmp_path):
    with pytest.raises(CacheError, match=r"captions: .*manifest\.json"):
        EncodedText(path=str(tmp_path), encoder=ENCODER)
    write(tmp_path, parts=3)
    (tmp_path / "part_00001.json").unlink()
    with pytest.raises(CacheError, match=r"part_00001\.json is missing.*vidgen encode"):
        EncodedText(path=str(tmp_path), encoder=ENCODER)
    table = json.loads((tmp_path / "manifest.json").read_text()) | {"version": 0}
    (tmp_path / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(CacheError, match=r"manifest\.json .*version 0, .* 1;"):
        EncodedText(path=str(tmp_path), encoder=ENCODER)


@pytest.mark.parametrize(
    ("field", "value"), [("encoder", "other"), ("dtype", "bfloat16"), ("parts", 2), ("length", 9)]
)
def test_a_folder_is_not_written_with_other_settings(tmp_path, field, value):
    manifest().agree(tmp_path)
    manifest().agree(tmp_path)
    with pytest.raises(CacheError, match=f"was begun with {field} .* not {value!r}"):
        manifest(**{field: value}).agree(tmp_path)


# ---- object stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_a_cache_in_an_object_store(store, tmp_path, monkeypatch, parts):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(store.url, CAPTIONS[:20], parts=parts)
    write(store.url, CAPTIONS, parts=parts)  # it goes on where it was
    keys = [key for part in range(parts) for key in text_cache.TextShards(store.url).keys_of(part)]
    assert len(keys) == len(set(keys)) == len(CAPTIONS)
    found = EncodedText(path=store.url, encoder=SILENT)
    order = [CAPTIONS[i] for i in np.random.default_rng(0).permutation(len(CAPTIONS))]
    np.testing.assert_array_equal(found(order).tokens, ENCODER(order).tokens)
    copies = list((tmp_path / "vidgen" / "copies").rglob("*.array_record"))
    assert len(copies) == sum(text_cache.TextShards(store.url).count(part) for part in range(parts))


def test_an_unfinished_or_other_cache_in_an_object_store(store):
    with pytest.raises(CacheError, match=rf"{store.url} .*captions: .*manifest\.json"):
        EncodedText(path=store.url, encoder=ENCODER)
    write(store.url, CAPTIONS[:5], parts=2, finish=False)
    with pytest.raises(CacheError, match="part_00000.json is missing"):
        EncodedText(path=store.url, encoder=ENCODER)
    with pytest.raises(CacheError, match="length 12, .*9;"):
        manifest(2, length=9).agree(store.url)
