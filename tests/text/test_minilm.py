"""MiniLM against a second, independent forward pass in numpy float64, on the real weights.

These tests fetch the weights as a user's first run does (91 MB, once per machine).
"""

import json
import logging
import math

import jax
import numpy as np
import pytest

from vidgen.assets import downloads
from vidgen.text import encoder, minilm
from vidgen.types import TextEncoder

PROMPTS = ["a tiger", "a big striped cat walks through tall grass", "the weather is rainy"]


@pytest.fixture(scope="module")
def weights():
    """The file read by hand: 8 bytes of header length, a JSON header, raw little-endian data."""
    data = (downloads.locate("minilm") / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, stop = (8 + size + offset for offset in entry["data_offsets"])
            flat = np.frombuffer(data[start:stop], "<f4")
            tensors[name] = flat.reshape(entry["shape"]).astype(np.float64)
    return tensors


def reference(weights, ids: list[int]) -> np.ndarray:
    """BERT on one unpadded sentence, one head at a time, in float64: states [s, 384]."""

    def affine(x, name):
        return np.einsum("si,oi->so", x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]

    def norm(x, name):
        y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    words, places, kinds = (
        weights[f"embeddings.{kind}_embeddings.weight"]
        for kind in ("word", "position", "token_type")
    )
    x = np.stack([words[i] + places[at] + kinds[0] for at, i in enumerate(ids)])
    x = norm(x, "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for index in range(6):
        layer = f"encoder.layer.{index}"
        q, k, v = (affine(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for h in range(12):
            part = slice(32 * h, 32 * h + 32)
            score = np.exp(q[:, part] @ k[:, part].T / math.sqrt(32))
            heads.append(score / score.sum(1, keepdims=True) @ v[:, part])
        mixed = affine(np.concatenate(heads, 1), f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        up = affine(x, f"{layer}.intermediate.dense")
        up = up * (1 + erf(up / math.sqrt(2))) / 2
        x = norm(x + affine(up, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def pooled(text) -> np.ndarray:
    """Unit-length mean over real tokens: the sentence embedding the network was tuned for."""
    tokens, mask = np.asarray(text.tokens), np.asarray(text.mask)
    mean = tokens.sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_tokens_are_bert_uncased_with_both_ends():
    # 101 [CLS], 102 [SEP], 7592 "hello", 2088 "world" in the published vocabulary.
    ids, mask = minilm.MiniLM(length=6).tokenize(["Hello world", ""])
    np.testing.assert_array_equal(ids, [[101, 7592, 2088, 102, 0, 0], [101, 102, 0, 0, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])


def test_agrees_with_an_independent_forward(weights):
    one = minilm.MiniLM(length=32)
    text = one(PROMPTS)
    ids, mask = one.tokenize(PROMPTS)
    for row in range(len(PROMPTS)):
        real = int(mask[row].sum())
        expected = reference(weights, ids[row, :real].tolist())
        np.testing.assert_allclose(np.asarray(text.tokens)[row, :real], expected, atol=1e-4, rtol=0)


def test_output_is_float32_on_the_host_with_zero_padding():
    text = minilm.MiniLM(length=16)(PROMPTS)
    assert isinstance(text.tokens, np.ndarray) and text.tokens.dtype == np.float32
    assert isinstance(text.mask, np.ndarray) and text.mask.dtype == bool
    assert text.tokens.shape == (3, 16, 384) and text.mask.shape == (3, 16)
    assert not text.tokens[~text.mask].any()
    assert (np.abs(text.tokens[text.mask]).max(-1) > 0).all()


def test_padding_changes_nothing():
    short, long = minilm.MiniLM(length=16)(PROMPTS), minilm.MiniLM(length=48)(PROMPTS)
    np.testing.assert_allclose(short.tokens, np.asarray(long.tokens)[:, :16], atol=1e-5)
    assert not np.asarray(long.mask)[:, 16:].any()


def test_order_of_the_batch_changes_nothing():
    one = minilm.MiniLM()
    forward = np.asarray(one(PROMPTS).tokens)
    backward = np.asarray(one(PROMPTS[::-1]).tokens)
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-5)


def test_meaning():
    vectors = pooled(minilm.MiniLM()(["a tiger", "a big striped cat", "the weather is rainy"]))
    tiger_cat, tiger_weather = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert tiger_cat > tiger_weather + 0.2


def test_a_long_prompt_is_cut_and_said_once(caplog):
    encoder.warn_truncated.cache_clear()
    one = minilm.MiniLM(length=8)
    with caplog.at_level(logging.WARNING):
        one(["one two three four five six"])
        assert not caplog.records  # six words and two ends: exactly 8
        ids, mask = one.tokenize(["one two three four five six seven eight"])
        one.tokenize(["one two three four five six seven"])
    assert len(caplog.records) == 1
    assert mask.all() and ids[0, 0] == 101 and ids[0, -1] == 102


@pytest.mark.parametrize("length", [2, 513])
def test_wrong_length_is_named(length):
    with pytest.raises(ValueError, match=rf"MiniLM.length is {length}; .*3\.\.512"):
        minilm.MiniLM(length=length)


def test_is_a_text_encoder_and_refuses_no_prompts():
    one = minilm.MiniLM()
    assert isinstance(one, TextEncoder)
    assert (one.name, one.dim, one.length) == ("all-MiniLM-L6-v2", 384, 32)
    with pytest.raises(ValueError, match="no prompts"):
        one([])


def test_building_one_loads_nothing(monkeypatch):
    def refuse(name):
        raise AssertionError(f"looked for {name}")

    monkeypatch.setattr(downloads, "locate", refuse)
    assert minilm.MiniLM(length=19).name


def test_works_inside_a_mesh_context():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        inside = minilm.MiniLM()(PROMPTS)
    np.testing.assert_array_equal(inside.tokens, minilm.MiniLM()(PROMPTS).tokens)
